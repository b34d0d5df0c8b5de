"""Connections by role: to the server named by GCA_ATLAS_DSN, or to the embedded one."""

from __future__ import annotations

import logging

import psycopg
from psycopg.rows import TupleRow

from gca_core.config import Profile, Settings
from gca_core.errors import ConfigurationError, StoreError
from gca_core.store import embedded, migrations
from gca_core.store.models import Role
from gca_core.store.redact import describe, make_dsn, parse_dsn, redact

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10
_AGENT_OPTIONS = " ".join(f"-c {name}={value}" for name, value in embedded.AGENT_SETTINGS.items())


def resolve_dsn(settings: Settings, role: Role = "app") -> str:
    """The connection string of a role; holds a password, so keep it out of logs.

    With ``GCA_ATLAS_DSN`` that server is used for every role; the agent role is then read-only and
    limited by session settings, which a login of its own (``gca_agent``) enforces better. Without,
    the embedded server under GCA_HOME is started and brought to the current schema.

    Raises:
        ConfigurationError: profile ``prod`` without a DSN, or one that isn't a connection string.
        StoreError: the embedded server can't be started.
    """
    if settings.atlas_dsn is not None:
        dsn = settings.atlas_dsn.get_secret_value()
        parse_dsn(dsn)
        return with_limits(dsn) if role == "agent" else dsn
    if settings.profile is Profile.PROD:
        raise ConfigurationError(
            "the profile is prod, and no PostgreSQL server is named; set GCA_ATLAS_DSN (the embedded server is for dev)"
        )
    server = embedded.start(settings.home)
    admin = server.dsn("admin")
    if migrations.current_version(admin) < migrations.available()[-1][0]:
        migrations.migrate(admin)
    return server.dsn(role)


def with_limits(dsn: str) -> str:
    """``dsn`` with the agent role's limits as session settings: read-only, 30 s a statement, 256 MB."""
    parts = parse_dsn(dsn)
    parts["options"] = f"{parts.get('options', '')} {_AGENT_OPTIONS}".strip()
    return make_dsn(**parts)


def connect(dsn: str, *, autocommit: bool = False) -> psycopg.Connection[TupleRow]:
    """A connection.

    Raises:
        ConfigurationError: ``dsn`` isn't a connection string.
        StoreError: the server can't be reached or refuses the login; says where it was looked for.
    """
    where = describe(dsn)
    timeout = int(parse_dsn(dsn).get("connect_timeout", CONNECT_SECONDS))
    try:
        connection = psycopg.connect(dsn, autocommit=autocommit, connect_timeout=timeout, application_name="gca")
    except psycopg.Error as error:
        raise StoreError(f"PostgreSQL can't be reached as {where}: {_reason(error)}. {_advice(error)}") from None
    log.debug("connected as %s", where)
    return connection


def _reason(error: psycopg.Error) -> str:
    return redact(" ".join(str(error).split()))


def _advice(error: psycopg.Error) -> str:
    text = str(error)
    if "authentication" in text or "password" in text:
        return "check user and password of GCA_ATLAS_DSN"
    if "does not exist" in text and "database" in text:
        return "create the database, or name another in GCA_ATLAS_DSN"
    return (
        "start it ('gca db start' for the embedded server, 'gca db status' shows it), "
        "or check host, port and network of GCA_ATLAS_DSN"
    )
