"""Run records in PostgreSQL: a projection of the run's states that pages and commands read."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from gca_core.errors import StoreError
from gca_core.runs.models import Claim, IterationRow, RunPhase, RunRow, RunStatus, StoredIteration
from gca_core.store.connect import connect
from gca_core.store.migrations import check_current
from gca_core.store.pool import pooled

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
ERROR_CHARACTERS = 2000
REMOVED = "(removed)"
_UPSERT_RUN = """
insert into runs (run_id, question, status, phase, iteration, best_score, best_iteration, termination_reason, state_uri,
                  results_uri, config, user_name, seed, error, outputs, cost, dag_id, dag_run_id)
values (%(run_id)s, %(question)s, %(status)s, %(phase)s, %(iteration)s, %(best_score)s, %(best_iteration)s,
        %(termination_reason)s, %(state_uri)s, %(results_uri)s, %(config)s, %(user_name)s, %(seed)s, %(error)s,
        %(outputs)s, %(cost)s, %(dag_id)s, %(dag_run_id)s)
on conflict (run_id) do update set
    question = excluded.question, phase = excluded.phase, iteration = excluded.iteration,
    status = case when runs.status = 'cancelled' then runs.status else excluded.status end,
    best_score = excluded.best_score, best_iteration = excluded.best_iteration,
    termination_reason = excluded.termination_reason, state_uri = excluded.state_uri,
    results_uri = excluded.results_uri, config = excluded.config, seed = excluded.seed, error = excluded.error,
    outputs = excluded.outputs, cost = excluded.cost,
    user_name = coalesce(excluded.user_name, runs.user_name), dag_id = coalesce(excluded.dag_id, runs.dag_id),
    dag_run_id = coalesce(excluded.dag_run_id, runs.dag_run_id), updated_at = now(), heartbeat_at = now()
"""
# what waits for its tasks has no owner yet
_WAIT = """
insert into runs (run_id, question, status, phase, results_uri, config, user_name, seed, dag_id, dag_run_id)
values (%(run_id)s, %(question)s, %(status)s, %(phase)s, %(results_uri)s, %(config)s, %(user_name)s, %(seed)s,
        %(dag_id)s, %(dag_run_id)s)
on conflict (run_id) do update set
    user_name = coalesce(runs.user_name, excluded.user_name), dag_id = coalesce(runs.dag_id, excluded.dag_id),
    dag_run_id = coalesce(runs.dag_run_id, excluded.dag_run_id)
"""
_ENTER = """
update runs set status = 'running', phase = %(phase)s, iteration = coalesce(%(iteration)s, iteration),
    error = case when %(anew)s then null else error end, updated_at = now(), heartbeat_at = now()
where run_id = %(run_id)s and (%(anew)s or status in ('pending', 'running'))
"""
_PURGE = """
update runs set question = %(removed)s, user_name = null, error = null
where status not in ('pending', 'running') and updated_at < now() - make_interval(days => %(days)s)
    and question <> %(removed)s
"""
_ALIVE = "status in ('pending', 'running') and heartbeat_at > now() - make_interval(secs => stale_after_seconds)"
# the id and the folder of results are one run's while it lives
_HOLDER = f"""
select run_id, owner, started_at, now() - heartbeat_at from runs
where {_ALIVE} and owner <> ''
    and (run_id = %(run_id)s and not %(retry)s or run_id <> %(run_id)s and results_uri = %(results_uri)s)
"""  # noqa: S608 - made of constants
_BEGIN = """
update runs set status = %(status)s, owner = %(owner)s, stale_after_seconds = %(stale_after_seconds)s,
    started_at = now(), heartbeat_at = now() where run_id = %(run_id)s
"""
_READ = f"""
select *, case when status in ('pending', 'running') and not ({_ALIVE}) then 'stale' else status end as status from runs
"""  # noqa: S608 - made of constants
_UPSERT_ITERATION = """
insert into run_iterations (run_id, iteration, score, expected, state_uri, state_sha256, record)
values (%(run_id)s, %(iteration)s, %(score)s, %(expected)s, %(state_uri)s, %(state_sha256)s, %(record)s)
on conflict (run_id, iteration) do update set
    score = excluded.score, expected = excluded.expected, state_uri = excluded.state_uri,
    state_sha256 = excluded.state_sha256, record = excluded.record, updated_at = now()
"""
# the best of the iterations that are left; the earlier one of equals
_CUT_BACK_RUN = """
update runs set
    status = case when status = 'cancelled' then status else 'running' end, phase = %(phase)s,
    termination_reason = null, error = null, outputs = '{}', updated_at = now(), heartbeat_at = now(),
    (best_score, best_iteration) = (
        select score, iteration from run_iterations
        where run_id = %(run_id)s and score is not null order by score desc, iteration limit 1
    ),
    state_uri = (
        select state_uri from run_iterations where run_id = %(run_id)s order by iteration desc limit 1
    )
where run_id = %(run_id)s
"""


class RunStore:
    """Records of runs and their iterations.

    Each call is one transaction on a connection of its own, so one object can serve several threads. The first one
    checks that the schema is that of this version.

    Args:
        dsn: a connection string whose login may write runs (roles app and admin).
        pool: keep connections open, for a server that is asked often.
    """

    def __init__(self, dsn: str, *, pool: bool = False) -> None:
        self._dsn, self._pool, self._checked = dsn, pool, False

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def begin(self, row: RunRow, claim: Claim) -> None:
        """Write a run that begins now, or anew: its iterations are forgotten. Of several at once one gets it.

        Raises:
            StoreError: a living run has this id or this folder of results; the database can't be reached.
        """
        values = _values(row) | claim.model_dump()
        with self._transaction() as connection:
            # what the role agent may not take
            _execute(connection, "lock table runs in share row exclusive mode", {})
            found = _execute(connection, _HOLDER, values).fetchone()
            if found is not None:
                raise StoreError(_in_the_way(row, *found))
            _execute(connection, _UPSERT_RUN, values)
            _execute(connection, "delete from run_iterations where run_id = %(run_id)s", values)
            _execute(connection, _BEGIN, values)

    def wait(self, row: RunRow) -> None:
        """Write a run whose work has not begun; where there is one, only who asked for it and where is added.

        Raises:
            StoreError: the database can't be reached.
        """
        with self._transaction() as connection:
            _execute(connection, _WAIT, _values(row))

    def enter(self, run_id: str, phase: RunPhase, iteration: int | None = None, *, anew: bool = False) -> bool:
        """A phase begins; False where there is no such run, or it has ended and does not begin ``anew``.

        Saying it again changes nothing.
        """
        values = {"run_id": run_id, "phase": phase, "iteration": iteration, "anew": anew}
        with self._transaction() as connection:
            return bool(_execute(connection, _ENTER, values).rowcount)

    def fault(self, run_id: str, error: str) -> None:
        """Why a step of the run failed, in plain words; whether that ends the run is for others to say."""
        query = "update runs set error = %(error)s, updated_at = now() where run_id = %(run_id)s"
        with self._transaction() as connection:
            _execute(connection, query, {"run_id": run_id, "error": error.replace("\0", " ")[:ERROR_CHARACTERS]})

    def purge(self, days: int) -> int:
        """Remove questions, names and errors from the records of runs that ended so many days ago; returns how many.

        Scores, ids and places of results stay. The results themselves and Airflow's own records are not touched.
        """
        with self._transaction() as connection:
            return _execute(connection, _PURGE, {"days": days, "removed": REMOVED}).rowcount

    def beat(self, run_id: str, owner: str) -> bool:
        """A sign of life of a run; False where it is no longer this owner's."""
        query = "update runs set heartbeat_at = now() where run_id = %(run_id)s and owner = %(owner)s"
        with self._transaction() as connection:
            return bool(_execute(connection, query, {"run_id": run_id, "owner": owner}).rowcount)

    def close(self, run_id: str, status: RunStatus, reason: str, *, owner: str | None = None) -> bool:
        """End the record of a run that has not ended, of this owner where one is named; False where there is none.

        A process that still works on it stops at its next gate.
        """
        query = (
            "update runs set status = %(status)s, termination_reason = %(reason)s, updated_at = now() "
            "where run_id = %(run_id)s and status in ('pending', 'running') "
            "and (%(owner)s::text is null or owner = %(owner)s)"
        )
        values = {"run_id": run_id, "status": status, "reason": reason.replace("\0", " "), "owner": owner}
        with self._transaction() as connection:
            return bool(_execute(connection, query, values).rowcount)

    @contextmanager
    def alive(self, run_id: str, owner: str) -> Iterator[Callable[[], None]]:
        """Give signs of life from a thread while the block works on a run, and close its record when that fails.

        Yields:
            A check to call before each step.

        Raises:
            StoreError: by the check, when another process took the run over.
        """

        def check() -> None:
            if not self.beat(run_id, owner):
                raise StoreError(f"another process took the run {run_id} over; this one stops and leaves it alone")

        def go_on() -> None:
            while not done.wait(BEAT_SECONDS):
                with suppress(StoreError):
                    self.beat(run_id, owner)

        done = threading.Event()
        thread = threading.Thread(target=go_on, name="signs-of-life", daemon=True)
        thread.start()
        try:
            yield check
        except BaseException as error:
            failed = isinstance(error, Exception)
            status, reason = (RunStatus.FAILED, f"failed: {error}") if failed else (RunStatus.CANCELLED, "interrupted")
            with suppress(StoreError):
                self.close(run_id, status, reason, owner=owner)
            raise
        finally:
            done.set()
            thread.join()

    def upsert_run(self, row: RunRow) -> None:
        """Write a run, or change the one with this id; a cancelled one stays so.

        Raises:
            StoreError: the database can't be reached or refuses.
        """
        with self._transaction() as connection:
            _execute(connection, _UPSERT_RUN, _values(row))

    def upsert_iteration(self, run_id: str, iteration: int, row: IterationRow) -> None:
        """Write an iteration of a run, or change the one with this number.

        Raises:
            StoreError: there is no such run, or the database can't be reached.
        """
        values = row.model_dump() | {"run_id": run_id, "iteration": iteration, "record": Jsonb(row.record)}
        with self._transaction() as connection:
            _execute(connection, _UPSERT_ITERATION, values)

    def cut_back(self, run_id: str, from_iteration: int) -> int:
        """Forget the iterations from a number on, since they are to be computed again.

        The run counts as running again unless it was cancelled, its best and its last state are those of what is left.

        Returns:
            How many iterations were forgotten.
        """
        values = {"run_id": run_id, "iteration": from_iteration, "phase": RunPhase.PROMPT_GENERATION}
        with self._transaction() as connection:
            doomed = "delete from run_iterations where run_id = %(run_id)s and iteration >= %(iteration)s"
            count = _execute(connection, doomed, values).rowcount
            _execute(connection, _CUT_BACK_RUN, values)
        if count:
            log.info("run %s was cut back to before iteration %d", run_id, from_iteration)
        return count

    @contextmanager
    def telling(self, run_id: str, notice: str) -> Iterator[bool]:
        """Tell something of a run in this block, which others with the same ``notice`` wait for; kept if it ends well.

        Yields:
            Whether it is to be told; False where that was done before.

        Raises:
            StoreError: the database can't be reached.
        """
        query = "insert into run_notices (run_id, notice) values (%(run_id)s, %(notice)s) on conflict do nothing"
        with self._transaction() as connection:
            yield bool(_execute(connection, query, {"run_id": run_id, "notice": notice}).rowcount)

    def get(self, run_id: str) -> RunRow | None:
        """A run, or None."""
        rows = self._read(f"{_READ} where run_id = %(run_id)s", {"run_id": run_id})
        return RunRow.model_validate(rows[0]) if rows else None

    def list_runs(
        self,
        limit: int = 100,
        offset: int = 0,
        *,
        user_name: str | None = None,
        status: RunStatus | None = None,
        text: str | None = None,
        dag_run: tuple[str, str] | None = None,
    ) -> list[RunRow]:
        """The latest runs, newest first.

        Args:
            limit: at most so many.
            offset: so many are left out first.
            user_name: those that this user of Airflow asked for.
            status: those in this state.
            text: those with this in their question or id, in any case.
            dag_run: those of a DAG run: ids of DAG and run.
        """
        where, values = _wanted(user_name, status, text, dag_run)
        query = f"{_READ} where {where} order by created_at desc, run_id limit %(limit)s offset %(offset)s"
        rows = self._read(query, values | {"limit": limit, "offset": offset})
        return [RunRow.model_validate(row) for row in rows]

    def count_runs(
        self, *, user_name: str | None = None, status: RunStatus | None = None, text: str | None = None
    ) -> int:
        """How many runs :meth:`list_runs` finds without a limit."""
        where, values = _wanted(user_name, status, text, None)
        query = f"select count(*) as n from runs where {where}"  # noqa: S608 - made of constants
        return int(self._read(query, values)[0]["n"])

    def iterations(self, run_id: str) -> list[StoredIteration]:
        """The iterations of a run, in order."""
        query = "select * from run_iterations where run_id = %(run_id)s order by iteration"
        return [StoredIteration.model_validate(row) for row in self._read(query, {"run_id": run_id})]

    def _read(self, query: str, values: dict[str, object]) -> list[dict[str, Any]]:
        with self._transaction() as connection:
            cursor = _execute(connection, query, values)
            return [dict_row(cursor)(found) for found in cursor.fetchall()]

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection]:
        with pooled(self._dsn) if self._pool else connect(self._dsn) as connection:
            if not self._checked:
                check_current(connection)
                self._checked = True
            yield connection


def _values(row: RunRow) -> dict[str, Any]:
    return row.model_dump() | {name: Jsonb(getattr(row, name)) for name in ("config", "outputs", "cost")}


def _wanted(
    user_name: str | None, status: RunStatus | None, text: str | None, dag_run: tuple[str, str] | None
) -> tuple[str, dict[str, Any]]:
    """A condition made of constants, and its values."""
    dead = f"(status in ('pending', 'running') and not ({_ALIVE}))"
    parts = {
        "user_name = %(user_name)s and dag_id is not null": user_name,
        dead if status is RunStatus.STALE else f"status = %(status)s and not {dead}": status,
        "strpos(lower(question || ' ' || run_id), lower(%(text)s)) > 0": text,
        "(dag_id, dag_run_id) = (%(dag_id)s, %(dag_run_id)s)": dag_run,
    }
    where = " and ".join(part for part, value in parts.items() if value) or "true"
    dag_id, dag_run_id = dag_run or (None, None)
    return where, {
        "user_name": user_name, "status": status, "text": text, "dag_id": dag_id, "dag_run_id": dag_run_id,
    }  # fmt: skip


def _in_the_way(row: RunRow, run_id: str, owner: str, since: datetime, silence: timedelta) -> str:
    who = f"({owner}, since {since:%Y-%m-%d %H:%M:%S %Z}, last sign of life {silence.total_seconds():.0f} s ago)"
    what = (
        f"the run {run_id} is already running {who}"
        if run_id == row.run_id
        else f"the run {run_id} is already writing to {row.results_uri} {who}"
    )
    return f"{what}; wait for it, or end it with: gca runs close {run_id}"


def _execute(connection: psycopg.Connection, query: str, values: Mapping[str, object]) -> psycopg.Cursor:
    try:
        return connection.execute(query, values)
    except psycopg.errors.ForeignKeyViolation:
        raise StoreError(f"there is no run {values['run_id']!r}; write the run before its iterations") from None
    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):
        raise StoreError(
            "the database has no run records of this version; run 'gca atlas init' with a login that may create tables"
        ) from None
    except psycopg.Error as error:
        raise StoreError(f"the run records can't be used: {' '.join(str(error).split())}") from error
