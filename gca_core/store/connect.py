"""Connections to PostgreSQL, with advice where there is none."""

from __future__ import annotations

import logging

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap
from psycopg.rows import TupleRow
from psycopg.types.string import StrDumperUnknown

from gca_core.errors import DataValidationError, StoreError
from gca_core.store.redact import describe, parse_dsn, redact

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10


class _Text(StrDumperUnknown):
    """Text on its way to the server; what PostgreSQL can't hold is refused by name."""

    def dump(self, obj: str) -> Buffer | None:
        try:
            return super().dump(obj)
        except (psycopg.DataError, UnicodeEncodeError):
            raise DataValidationError(
                f"the text {obj[:200]!r} holds a NUL or half a character, which PostgreSQL can't keep; remove it"
            ) from None


ADAPTERS = AdaptersMap(psycopg.adapters)
ADAPTERS.register_dumper(str, _Text)


def connect(dsn: str, *, autocommit: bool = False) -> psycopg.Connection[TupleRow]:
    """A connection.

    Raises:
        ConfigurationError: ``dsn`` isn't a connection string.
        StoreError: the server can't be reached or refuses the login; says where it was looked for.
    """
    where = describe(dsn)
    timeout = int(parse_dsn(dsn).get("connect_timeout", CONNECT_SECONDS))
    try:
        connection = psycopg.connect(
            dsn, autocommit=autocommit, connect_timeout=timeout, application_name="gca", context=ADAPTERS
        )
    except psycopg.Error as error:
        reason = redact(" ".join(str(error).split()))
        raise StoreError(f"PostgreSQL can't be reached as {where}: {reason}. {_advice(error)}") from None
    log.debug("connected as %s", where)
    return connection


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
