"""Connection strings that may be shown, and how to write one."""

import re

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gca_core.errors import ConfigurationError

_URL_PASSWORD = re.compile(r"(?P<head>[a-z0-9+]+://[^:/@\s]*):[^@\s]*@", re.IGNORECASE)
_KEY_PASSWORD = re.compile(r"(?P<head>(?:ssl)?password\s*=\s*)(?:'(?:\\.|[^'\\])*'|[^\s&]+)", re.IGNORECASE)


def redact(text: str) -> str:
    """``text`` with every password of a connection string in it replaced by ``***``."""
    return _KEY_PASSWORD.sub(r"\g<head>***", _URL_PASSWORD.sub(r"\g<head>:***@", text))


def describe(dsn: str) -> str:
    """Where a connection string leads, for messages: user, host, port and database only.

    Raises:
        ConfigurationError: it isn't a connection string.
    """
    parts = parse_dsn(dsn)
    user, host = parts.get("user", "(default user)"), parts.get("host", "(local socket)")
    return f"{user} at {host} port {parts.get('port', 5432)} database {parts.get('dbname', '(default)')}"


def parse_dsn(dsn: str) -> dict[str, str]:
    """The parts of a connection string.

    Raises:
        ConfigurationError: it isn't one; the message doesn't repeat it.
    """
    try:
        found = conninfo_to_dict(dsn)
    except ProgrammingError:
        raise ConfigurationError(
            "GCA_ATLAS_DSN is not a PostgreSQL connection string; expected one like "
            "postgresql://USER:PASSWORD@HOST:5432/DATABASE (special characters in the password percent-encoded)"
        ) from None
    return {key: str(value) for key, value in found.items() if value is not None}


def make_dsn(**parts: str | int) -> str:
    """A connection string in libpq's key=value form."""
    return make_conninfo("", **parts)
