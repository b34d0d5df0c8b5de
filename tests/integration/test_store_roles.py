"""Roles, migrations, and connections that fail."""

import contextlib
import threading
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from gca_core.atlas import Atlas, open_atlas
from gca_core.atlas.explore import Explorer
from gca_core.config import Settings, load_settings
from gca_core.errors import ConfigurationError, StoreError
from gca_core.runs.store import RunStore
from gca_core.store import embedded, migrations
from gca_core.store.connect import connect
from gca_core.store.layout import SUPERUSER, read_credentials
from gca_core.store.migrations import available, current_version, migrate, require_current
from gca_core.store.models import AGENT_CONNECTIONS
from gca_core.store.pool import close_pools
from gca_core.store.redact import make_dsn, parse_dsn
from gca_core.store.resolve import resolve_dsn, with_limits

WRITES = [
    "insert into runs (run_id, question, status, phase, results_uri) values ('x', '', 'pending', 'inference', '')",
    "delete from datasets",
    "update cell_groups set n_cells = 1",
    "create table mine (a integer)",
    "set default_transaction_read_only = off; delete from runs",
]

OLD_ROWS = (
    "insert into datasets values ('d', 'file:///nowhere', 'x', 1, 1, 1, 'old', '{}')",
    "insert into perturbations values ('TNF', %(vector)s::vector, 'old')",
    "insert into cell_types values ('CL:0000236', 'B cell', %(vector)s::vector, 'old')",
    "insert into cell_groups values ('g-1', 'd', 'TNF', false, 'CL:0000236', null, 1, null, null, 0, 1)",
    "insert into runs (run_id, question, status, phase, results_uri, config, best_iteration) "
    """values ('a', 'q', 'succeeded', 'done', 'file:///a', '{"seed": 7}', 1)""",
    "insert into runs (run_id, question, status, phase, results_uri) values ('b', 'q', 'running', 'infer', 'file:///b')",
    "insert into cells values ('d', 0, 'c', 'g-1', 12.0, 3)",
)


@pytest.fixture
def superuser_dsn(gca_home: Path, embedded_dsn: str) -> str:
    parts = parse_dsn(embedded_dsn) | {"user": SUPERUSER, "password": read_credentials(gca_home)[SUPERUSER]}
    return make_dsn(**parts)


@pytest.fixture
def empty_database(superuser_dsn: str) -> str:
    """A database on the same server as an administrator would hand it over; returns the superuser's DSN."""
    with connect(superuser_dsn, autocommit=True) as connection:
        connection.execute("drop database if exists other with (force)")
        connection.execute("create database other")
    return make_dsn(**(parse_dsn(superuser_dsn) | {"dbname": "other"}))


@pytest.mark.parametrize("statement", WRITES)
def test_the_agent_role_may_not_write(agent_dsn: str, statement: str) -> None:
    with connect(agent_dsn) as connection, pytest.raises(psycopg.Error) as refused:
        connection.execute(statement.encode())
    assert isinstance(refused.value, (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction))


def test_the_agent_role_is_limited_and_reads(agent_dsn: str) -> None:
    with connect(agent_dsn) as connection:
        limits = connection.execute(
            "select current_setting('statement_timeout'), current_setting('work_mem')"
        ).fetchone()
        assert limits == ("30s", "256MB")
        assert connection.execute("select count(*) >= 0 from cell_groups").fetchone() == (True,)


@pytest.mark.parametrize(
    "statement",
    [
        "select lo_create(0)",
        "select lo_from_bytea(0, 'x')",
        "select pg_advisory_lock(71842, 2)",
        "lock table datasets in share update exclusive mode",
        "lock table schema_version in share update exclusive mode",
        "insert into dataset_locks values ('d')",
    ],
)
def test_the_agent_makes_no_large_objects_and_takes_no_locks_of_others(agent_dsn: str, statement: str) -> None:
    with connect(agent_dsn) as connection:
        connection.execute("set transaction read write")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_the_agent_leaves_connections_to_others(agent_dsn: str, embedded_dsn: str) -> None:
    with contextlib.ExitStack() as stack:
        with pytest.raises(StoreError, match="too many connections for role"):
            for _ in range(AGENT_CONNECTIONS + 1):
                stack.enter_context(connect(agent_dsn))
        connect(embedded_dsn).close()


def test_the_app_role_writes_runs_and_only_reads_the_atlas(embedded_dsn: str) -> None:
    with connect(embedded_dsn) as connection:
        connection.execute(WRITES[0].encode())
        connection.rollback()
        for statement in WRITES[1:4]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
            connection.rollback()


def test_limits_hold_for_any_login(admin_dsn: str) -> None:
    with connect(with_limits(admin_dsn)) as connection:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("delete from runs")
        connection.rollback()
        assert connection.execute("show statement_timeout").fetchone() == ("30s",)


def test_migrations_ran_once_and_two_at_once_do_no_harm(empty_database: str) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            migrate(empty_database)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert current_version(empty_database) == available()[-1][0]
    with connect(empty_database) as connection:
        assert connection.execute("select count(*) from schema_version").fetchone() == (len(available()),)


def test_a_database_of_an_older_version_keeps_what_it_holds(empty_database, monkeypatch):
    everything = available()
    monkeypatch.setattr(migrations, "available", lambda: everything[:1])
    assert migrate(empty_database) == 1
    vector = f"[1{',0' * 1535}]"
    with connect(empty_database) as connection:
        for statement in OLD_ROWS:
            connection.execute(statement.encode(), {"vector": vector})
    monkeypatch.undo()
    with pytest.raises(StoreError, match="has schema version 1"):
        require_current(empty_database)
    assert migrate(empty_database) == everything[-1][0]
    atlas = Atlas(empty_database, "file:///nowhere")
    [group] = atlas.groups(perturbation="TNF")
    assert (group.group_id, group.tissue_id) == ("g-1", None)
    assert atlas.find_names("tnf")[0].id == "TNF"
    assert atlas.embedding_model() == "old"
    rows = [RunStore(empty_database).get(run_id) for run_id in "ab"]
    assert [(row.status, row.phase, row.seed, row.iteration) for row in rows] == [
        ("completed", "output_generation", 7, 1),
        ("running", "inference", None, None),
    ]
    # it has no texts of groups before it is ingested again
    assert atlas.semantic([1.0, *[0.0] * 1535]) == []
    assert [hit.id for hit in atlas.semantic([1.0, *[0.0] * 1535], kind="perturbation")] == ["TNF"]
    close_pools()
    with connect(empty_database) as connection:
        connection.execute("delete from datasets")


USES = {
    "atlas": lambda dsn: open_atlas(dsn=dsn),
    "runs": lambda dsn: RunStore(dsn).list_runs(),
    "page": lambda dsn: (RunStore(dsn, pool=True).count_runs(), Explorer(dsn).overview()),
    "write": lambda dsn: RunStore(dsn).fault("a", "b"),
}


def test_a_server_without_the_schema_or_with_a_newer_one_is_refused(empty_database: str) -> None:
    for use in USES.values():
        with pytest.raises(StoreError, match="gca atlas init"):
            use(empty_database)
    migrate(empty_database)
    for use in USES.values():
        use(empty_database)
    with connect(empty_database) as connection:
        connection.execute("insert into schema_version (version, name, sha256) values (9999, 'later', '')")
        # a right that the later version took
        connection.execute("revoke insert on runs from gca_app")
    before = granted(empty_database)
    for use in (*USES.values(), migrate):
        with pytest.raises(StoreError, match=r"newer than the \d+ that this version knows; upgrade"):
            use(empty_database)
    assert granted(empty_database) == before
    close_pools()


def granted(dsn: str) -> list[tuple[object, ...]]:
    """The rights of all roles."""
    with connect(dsn) as connection:
        query = "select * from information_schema.role_table_grants where table_schema = 'public' order by 1, 2, 5, 6"
        return connection.execute(query.encode()).fetchall()


@pytest.mark.slow
def test_an_embedded_server_that_a_newer_version_used_is_refused(fresh_home: Path) -> None:
    settings = load_settings(home=fresh_home)
    with connect(resolve_dsn(settings, "admin")) as connection:
        connection.execute("insert into schema_version (version, name, sha256) values (9999, 'later', '')")
    with pytest.raises(StoreError, match="newer"):
        resolve_dsn(settings)


def test_a_login_without_rights_degrades_with_a_clear_word(empty_database: str, superuser_dsn: str) -> None:
    with connect(superuser_dsn, autocommit=True) as connection:
        connection.execute("drop role if exists plain")
        connection.execute("create role plain login password 'p'")
    plain = make_dsn(**(parse_dsn(empty_database) | {"user": "plain", "password": "p"}))
    with pytest.raises(StoreError, match="create extension vector"):
        migrate(plain)
    with connect(empty_database) as connection:
        connection.execute("create extension vector")
    with pytest.raises(StoreError, match="permission denied"):
        migrate(plain)
    assert current_version(plain) == 0
    with connect(empty_database) as connection:
        connection.execute("grant create on schema public to plain")
    # an owner of the tables who may make no roles: the roles there are get their rights, all else works
    assert migrate(plain) == available()[-1][0]
    with connect(superuser_dsn, autocommit=True) as connection:
        connection.execute("drop database other with (force)")
        connection.execute("drop role plain")


def test_a_database_that_is_down_says_what_to_do(tmp_path: Path) -> None:
    nowhere = make_dsn(host=str(tmp_path), port=5432, dbname="gca", user="gca_app", password="hush-hush")
    with pytest.raises(StoreError, match="gca db start") as failed:
        connect(nowhere)
    assert "hush-hush" not in str(failed.value)
    refused = "postgresql://me:hush-hush@127.0.0.1:1/gca"
    with pytest.raises(StoreError, match="can't be reached as me at 127\\.0\\.0\\.1 port 1") as failed:
        connect(refused)
    assert "hush-hush" not in str(failed.value)


def test_a_wrong_password_is_named_as_the_cause(embedded_dsn: str) -> None:
    with pytest.raises(StoreError, match="check user and password"):
        connect(make_dsn(**(parse_dsn(embedded_dsn) | {"password": "wrong"})))


def test_a_dsn_in_the_settings_is_used_and_starts_nothing(embedded_dsn: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "unused", atlas_dsn=SecretStr(embedded_dsn), profile="prod")
    assert resolve_dsn(settings, "app") == embedded_dsn
    assert "default_transaction_read_only" in resolve_dsn(settings, "agent")
    assert not (tmp_path / "unused").exists()
    assert all(server.home != tmp_path / "unused" for server in embedded.status())


def test_the_prod_profile_without_a_dsn_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="GCA_ATLAS_DSN"):
        resolve_dsn(load_settings(profile="prod", home=tmp_path / "unused"))
    assert not (tmp_path / "unused").exists()
