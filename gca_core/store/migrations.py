"""The schema, as ordered SQL files that run once each."""

import contextlib
import hashlib
import logging
from importlib import resources

import psycopg
from psycopg import sql

from gca_core.errors import StoreError
from gca_core.store.connect import connect
from gca_core.store.models import AGENT_CONNECTIONS, AGENT_SETTINGS, AGENT_WALLS
from gca_core.store.redact import describe, redact

log = logging.getLogger(__name__)

_VERSIONS = """
create table if not exists schema_version (
    version integer primary key,
    name text not null,
    sha256 text not null,
    applied_at timestamptz not null default now()
)
"""
_GRANTS = {
    "gca_app": (
        "grant usage on schema public to {role}",
        "grant select on all tables in schema public to {role}",
        "grant insert, update, delete on runs, run_iterations, run_notices to {role}",
    ),
    "gca_agent": ("grant usage on schema public to {role}", "grant select on all tables in schema public to {role}"),
}


def available() -> list[tuple[int, str, str]]:
    """Number, name and text of every migration, in order."""
    folder = resources.files("gca_core.store") / "sql"
    found = sorted(
        (item.name, item.read_text(encoding="utf-8")) for item in folder.iterdir() if item.name[:4].isdigit()
    )
    return [(int(name[:4]), name, text) for name, text in found]


def current_version(dsn: str) -> int:
    """The number of the last migration that ran; 0 for an empty database.

    Raises:
        StoreError: the server can't be reached.
    """
    with connect(dsn, autocommit=True) as connection:
        return _version(connection)


def require_current(dsn: str) -> None:
    """Check that the schema is the one this version works with.

    Raises:
        StoreError: it is older or newer; says what to do.
    """
    with connect(dsn, autocommit=True) as connection:
        check_current(connection)


def check_current(connection: psycopg.Connection) -> None:
    """:func:`require_current` on an open connection."""
    expected, where = available()[-1][0], describe(connection.info.dsn)
    try:
        found = _version(connection)
    except psycopg.Error as error:
        raise StoreError(
            f"the schema of the database ({where}) can't be read: {' '.join(str(error).split())}"
        ) from None
    if found < expected:
        raise StoreError(
            f"the database ({where}) has schema version {found}, and {expected} is needed; "
            "run 'gca atlas init' with a login that may create tables"
        )
    _refuse_newer(found, expected, where)


def _refuse_newer(found: int, expected: int, where: str) -> None:
    if found > expected:
        raise StoreError(
            f"the database ({where}) has schema version {found}, newer than the {expected} that this version "
            "knows; upgrade airflow-provider-gca"
        )


def migrate(dsn: str) -> int:
    """Bring the schema up to date and return its version; safe from several processes at once.

    The roles gca_app and gca_agent get their rights where they exist or may be made (then without
    a login: the server's administrator gives them one). Otherwise this login does everything.

    Raises:
        StoreError: the server can't be reached, lacks pgvector, or this login may not change it; its schema is newer.
    """
    steps = available()
    with connect(dsn, autocommit=True) as connection:
        try:
            _apply(dsn, connection, steps)
        except psycopg.Error as error:
            raise StoreError(
                f"the database ({describe(dsn)}) can't be brought to schema version {steps[-1][0]}: "
                f"{redact(' '.join(str(error).split()))}. nothing of the failed step was kept; use a login that may "
                "create tables and extensions"
            ) from error
        return _version(connection)


def _apply(dsn: str, connection: psycopg.Connection, steps: list[tuple[int, str, str]]) -> None:
    _require_vector(connection)
    if not _version(connection):
        with contextlib.suppress(psycopg.errors.UniqueViolation):
            connection.execute(_VERSIONS)
    with connect(dsn) as holder:
        # what who may only read can't take
        holder.execute("lock table schema_version in share update exclusive mode")
        done = _version(connection)
        _refuse_newer(done, steps[-1][0], describe(dsn))
        for number, name, text in steps:
            if number <= done:
                continue
            with connection.transaction():
                connection.execute(text.encode())
                connection.execute(
                    "insert into schema_version (version, name, sha256) values (%s, %s, %s)",
                    [number, name, hashlib.sha256(text.encode()).hexdigest()],
                )
            log.info("applied migration %s", name)
        _optional_trigrams(connection)
        for role, grants in _GRANTS.items():
            _grant(connection, role, grants)
        limit_agent(connection)


def _version(connection: psycopg.Connection) -> int:
    row = connection.execute("select to_regclass('schema_version') is not null").fetchone()
    if not row or not row[0]:
        return 0
    found = connection.execute("select coalesce(max(version), 0) from schema_version").fetchone()
    return int(found[0]) if found else 0


def _require_vector(connection: psycopg.Connection) -> None:
    if connection.execute("select 1 from pg_extension where extname = 'vector'").fetchone():
        return
    try:
        with contextlib.suppress(psycopg.errors.UniqueViolation):
            connection.execute("create extension if not exists vector")
    except psycopg.Error as error:
        raise StoreError(
            f"the extension pgvector is not in this database and can't be made ({' '.join(str(error).split())}); "
            "ask its administrator to run: create extension vector"
        ) from error


def _optional_trigrams(connection: psycopg.Connection) -> None:
    """A trigram index of all names, where the server has the extension; the embedded one doesn't bring it."""
    try:
        with connection.transaction():
            connection.execute("create extension if not exists pg_trgm")
            connection.execute("drop index if exists perturbations_name_trgm, cell_types_label_trgm")
            connection.execute(
                "create index if not exists synonyms_synonym_trgm on synonyms using gin (synonym gin_trgm_ops)"
            )
    except psycopg.Error as error:
        log.debug("no trigram index: %s", str(error).splitlines()[0])


def _grant(connection: psycopg.Connection, role: str, grants: tuple[str, ...]) -> None:
    try:
        if not connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
            connection.execute(sql.SQL("create role {} nologin").format(sql.Identifier(role)))
        for grant in grants:
            connection.execute(sql.SQL(grant).format(role=sql.Identifier(role)))
    except psycopg.Error as error:
        log.warning("the role %s was left without rights: %s", role, str(error).splitlines()[0])


def limit_agent(connection: psycopg.Connection) -> None:
    """The agent's limits as those of its role; they hold where it logs in itself.

    What the role had set itself is forgotten. What this login may not change is left as it is.
    """
    agent = sql.Identifier("gca_agent")
    settings = AGENT_SETTINGS | AGENT_WALLS
    changes = [
        sql.SQL("alter role {} connection limit {}").format(agent, sql.Literal(AGENT_CONNECTIONS)),
        sql.SQL("alter role {} in database {} reset all").format(agent, sql.Identifier(connection.info.dbname)),
        sql.SQL("alter role {} reset all").format(agent),
        *(
            sql.SQL("alter role {} set {} = {}").format(agent, sql.Identifier(name), sql.Literal(value))
            for name, value in settings.items()
        ),
    ]
    for change in changes:
        try:
            with connection.transaction():
                connection.execute(change)
        except psycopg.Error as error:
            log.debug("the role gca_agent keeps its limits: %s", str(error).splitlines()[0])
