"""The hook for the atlas and the run records in PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseHook

from airflow_provider_gca.hooks.connection_forms import ATLAS_FORM
from airflow_provider_gca.hooks.llm import LlmHook
from airflow_provider_gca.utils.failures import AirflowNotFoundException
from gca_core.errors import ConfigurationError, GcaError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from gca_core.atlas import Atlas
    from gca_core.config import Settings
    from gca_core.haystack.context import HaystackContext
    from gca_core.runs.store import RunStore
    from gca_core.store.models import Role

ACCEPTED_TYPES = (ATLAS_FORM.connection_type, "postgres")
# what libpq takes as a parameter and says nothing about who connects where
PASSED_ON = ("sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "application_name")


class AtlasHook(BaseHook):
    """Opens the atlas that a connection names, or the one of the ``GCA_*`` settings.

    The connection is of type ``gca_atlas`` or ``postgres``. Where the default connection does not exist, the
    settings decide: ``GCA_ATLAS_DSN``, or the embedded server of the dev profile. A connection that was named
    but does not exist is an error.

    Args:
        gca_atlas_conn_id: the connection's id.
        role: ``app`` reads the atlas and writes runs, ``admin`` ingests, ``agent`` only reads. It chooses the login
            of the settings' servers; a connection carries its own.
        settings: overrides for :func:`gca_core.config.load_settings`.
    """

    conn_name_attr: ClassVar[str] = "gca_atlas_conn_id"
    default_conn_name: ClassVar[str] = "gca_atlas_default"
    conn_type: ClassVar[str] = ATLAS_FORM.connection_type
    hook_name: ClassVar[str] = ATLAS_FORM.hook_name

    def __init__(
        self, gca_atlas_conn_id: str = default_conn_name, *, role: Role = "app", settings: Settings | None = None
    ) -> None:
        super().__init__()
        self.gca_atlas_conn_id = gca_atlas_conn_id
        self.role = role
        self._settings = settings

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Form fields for Airflow 3.1; later versions read them from the provider info."""
        return ATLAS_FORM.widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Form labels for Airflow 3.1; later versions read them from the provider info."""
        return ATLAS_FORM.field_behaviour()

    def get_conn(self) -> Atlas:
        """The atlas, opened."""
        from gca_core.atlas import open_atlas

        connection = self.find_connection()
        store_uri = connection.extra_dejson.get("store_uri") if connection else None
        return open_atlas(
            self.settings(), dsn=self.given_dsn(connection), role=self.role, store_root_uri=store_uri or None
        )

    def get_haystack_context(self, gca_llm_conn_id: str | None = None, llm_model: str | None = None) -> HaystackContext:
        """Everything a step of HAYSTACK reads: atlas, run records, ontology, catalogue, knowledge.

        Args:
            gca_llm_conn_id: connection of the language model that the step may ask; None means none.
            llm_model: instead of the connection's model.
        """
        from gca_core.haystack.context import open_context

        context = open_context(self.settings(), dsn=self.given_dsn(self.find_connection()))
        return replace(
            context, language_model=LlmHook(gca_llm_conn_id).get_conn(llm_model) if gca_llm_conn_id else None
        )

    def get_run_store(self) -> RunStore:
        """The run records."""
        return self.run_store_of(self.find_connection())

    def run_store_of(self, connection: Connection | None) -> RunStore:
        """The run records that a connection, or the settings where there is none, lead to."""
        from gca_core.runs.store import RunStore

        return RunStore(self.dsn_of(connection))

    def get_dsn(self) -> str:
        """The DSN, password included: pass it on, never print it."""
        return self.dsn_of(self.find_connection())

    def test_connection(self) -> tuple[bool, str]:
        """Connect and ask the server for its version."""
        from gca_core.store.connect import connect

        try:
            with connect(self.get_dsn()) as connection:
                row = connection.execute("select current_setting('server_version')").fetchone()
        except GcaError as error:
            return False, str(error)
        return True, f"connected to PostgreSQL {row[0] if row else 'of unknown version'}"

    def find_connection(self) -> Connection | None:
        """The connection, or None where only the settings speak.

        Raises:
            ConfigurationError: a connection was named that does not exist, or is of another type.
        """
        try:
            connection = self.get_connection(self.gca_atlas_conn_id)
        except AirflowNotFoundException:
            self.accept_no_connection()
            return None
        return self.checked(connection)

    async def find_connection_async(self) -> Connection | None:
        """:meth:`find_connection` for triggers: nothing blocks the event loop."""
        try:
            connection = await self.aget_connection(self.gca_atlas_conn_id)
        except AirflowNotFoundException:
            self.accept_no_connection()
            return None
        return self.checked(connection)

    def accept_no_connection(self) -> None:
        """Accept that the default connection does not exist; refuse that of any other."""
        if self.gca_atlas_conn_id != self.default_conn_name:
            raise ConfigurationError(
                f"the connection {self.gca_atlas_conn_id!r} does not exist; create it with the type gca_atlas or "
                f"postgres, or use {self.default_conn_name!r}, which falls back to the GCA_* settings"
            )
        self.log.info("no connection %s: the GCA_* settings say where the atlas is", self.gca_atlas_conn_id)

    def checked(self, connection: Connection) -> Connection:
        """The connection, when it is of a type this hook knows and names a host."""
        if connection.conn_type not in ACCEPTED_TYPES:
            raise ConfigurationError(
                f"the connection {self.gca_atlas_conn_id!r} is of type {connection.conn_type!r}; "
                f"the atlas needs one of {', '.join(ACCEPTED_TYPES)}"
            )
        if not connection.host:
            raise ConfigurationError(f"the connection {self.gca_atlas_conn_id!r} names no host; fill in the host field")
        return connection

    def settings(self) -> Settings:
        """The settings this hook works with."""
        from gca_core.config import load_settings

        return self._settings or load_settings()

    def given_dsn(self, connection: Connection | None) -> str | None:
        """The connection's DSN; None where there is no connection, which leaves the choice to the settings."""
        return dsn_from_connection(connection) if connection else None

    def dsn_of(self, connection: Connection | None) -> str:
        """The DSN of a connection, or of the settings where there is none.

        Raises:
            ConfigurationError: the prod profile without a DSN.
            StoreError: the embedded server does not start.
        """
        from gca_core.store.resolve import resolve_dsn

        return self.given_dsn(connection) or resolve_dsn(self.settings(), role=self.role)


def dsn_from_connection(connection: Connection) -> str:
    """A connection string from a connection's fields; it holds the password, so pass it on and never print it."""
    from gca_core.store.redact import make_dsn

    extra: dict[str, Any] = connection.extra_dejson
    parts = {
        "host": connection.host,
        "port": connection.port,
        "dbname": connection.schema,
        "user": connection.login,
        "password": connection.password,
        **{name: extra.get(name) for name in PASSED_ON},
    }
    return make_dsn(**{name: value for name, value in parts.items() if value not in (None, "")})
