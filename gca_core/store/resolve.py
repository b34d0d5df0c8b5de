"""Which server a role connects to: the one named by GCA_ATLAS_DSN, or the embedded one."""

from gca_core.config import Profile, Settings
from gca_core.errors import ConfigurationError
from gca_core.store import embedded, migrations
from gca_core.store.models import AGENT_SETTINGS, Role
from gca_core.store.redact import make_dsn, parse_dsn

_AGENT_OPTIONS = " ".join(f"-c {name}={value}" for name, value in AGENT_SETTINGS.items())


def resolve_dsn(settings: Settings, role: Role = "app") -> str:
    """The connection string of a role; holds a password, so keep it out of logs.

    With ``GCA_ATLAS_DSN`` that server is used for every role; the agent role is then read-only and
    limited by session settings, which a login of its own (``gca_agent``) enforces better. Without,
    the embedded server under GCA_HOME is started and brought to the current schema.

    Raises:
        ConfigurationError: profile ``prod`` without a DSN, or one that isn't a connection string.
        StoreError: the embedded server can't be started, or a newer version of this package has used it.
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
    if migrations.current_version(admin) != migrations.available()[-1][0]:
        migrations.migrate(admin)
    return server.dsn(role)


def with_limits(dsn: str) -> str:
    """``dsn`` with the agent role's limits as session settings: read-only, 30 s a statement, 256 MB."""
    parts = parse_dsn(dsn)
    parts["options"] = f"{parts.get('options', '')} {_AGENT_OPTIONS}".strip()
    return make_dsn(**parts)
