"""Run records in PostgreSQL: a projection of the run's states that pages and commands read."""

from __future__ import annotations

import logging

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from gca_core.errors import StoreError
from gca_core.runs.models import IterationRow, RunPhase, RunRow, RunStatus, StoredIteration
from gca_core.store.connect import connect

log = logging.getLogger(__name__)

_UPSERT_RUN = """
insert into runs (run_id, question, status, phase, best_score, best_iteration, termination_reason, state_uri,
                  results_uri, config)
values (%(run_id)s, %(question)s, %(status)s, %(phase)s, %(best_score)s, %(best_iteration)s, %(termination_reason)s,
        %(state_uri)s, %(results_uri)s, %(config)s)
on conflict (run_id) do update set
    question = excluded.question, status = excluded.status, phase = excluded.phase,
    best_score = excluded.best_score, best_iteration = excluded.best_iteration,
    termination_reason = excluded.termination_reason, state_uri = excluded.state_uri,
    results_uri = excluded.results_uri, config = excluded.config, updated_at = now()
"""
_UPSERT_ITERATION = """
insert into run_iterations (run_id, iteration, score, state_uri, state_sha256, record)
values (%(run_id)s, %(iteration)s, %(score)s, %(state_uri)s, %(state_sha256)s, %(record)s)
on conflict (run_id, iteration) do update set
    score = excluded.score, state_uri = excluded.state_uri, state_sha256 = excluded.state_sha256,
    record = excluded.record, updated_at = now()
"""
# the best of the iterations that are left; the earlier one of equals
_CUT_BACK_RUN = """
update runs set
    status = %(status)s, phase = %(phase)s, termination_reason = null, updated_at = now(),
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

    Each call is one transaction on a connection of its own, so one object can serve several threads.

    Args:
        dsn: a connection string whose login may write runs (roles app and admin).
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def upsert_run(self, row: RunRow) -> None:
        """Write a run, or change the one with this id.

        Raises:
            StoreError: the database can't be reached or refuses.
        """
        values = row.model_dump(exclude={"created_at", "updated_at"}) | {"config": Jsonb(row.config)}
        with self._transaction() as connection:
            _execute(connection, _UPSERT_RUN, values)

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

        The run counts as running again, its best and its last state are those of what is left.

        Returns:
            How many iterations were forgotten.
        """
        values = {
            "run_id": run_id,
            "iteration": from_iteration,
            "status": RunStatus.RUNNING,
            "phase": RunPhase.PROPOSE,
        }
        with self._transaction() as connection:
            doomed = "delete from run_iterations where run_id = %(run_id)s and iteration >= %(iteration)s"
            count = _execute(connection, doomed, values).rowcount
            _execute(connection, _CUT_BACK_RUN, values)
        if count:
            log.info("run %s was cut back to before iteration %d", run_id, from_iteration)
        return count

    def get(self, run_id: str) -> RunRow | None:
        """A run, or None."""
        with self._transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute("select * from runs where run_id = %s", [run_id]).fetchone()
        return None if found is None else RunRow.model_validate(found)

    def list_runs(self, limit: int = 100) -> list[RunRow]:
        """The latest runs, newest first."""
        query = "select * from runs order by created_at desc, run_id limit %s"
        with self._transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return [RunRow.model_validate(row) for row in cursor.execute(query, [limit]).fetchall()]

    def iterations(self, run_id: str) -> list[StoredIteration]:
        """The iterations of a run, in order."""
        query = "select * from run_iterations where run_id = %s order by iteration"
        with self._transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return [StoredIteration.model_validate(row) for row in cursor.execute(query, [run_id]).fetchall()]

    def _transaction(self) -> psycopg.Connection:
        return connect(self._dsn)


def _execute(connection: psycopg.Connection, query: str, values: dict[str, object]) -> psycopg.Cursor:
    try:
        return connection.execute(query, values)
    except psycopg.errors.ForeignKeyViolation:
        raise StoreError(f"there is no run {values['run_id']!r}; write the run before its iterations") from None
    except psycopg.Error as error:
        raise StoreError(f"the run record can't be written: {' '.join(str(error).split())}") from error
