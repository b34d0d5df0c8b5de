"""The hook that says which language model may be called, and with which key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseHook
from pydantic import SecretStr

from airflow_provider_gca.hooks.connection_forms import LLM_FORM
from airflow_provider_gca.utils.failures import AirflowNotFoundException
from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    from gca_core.llm.models import LlmConfig


class LlmHook(BaseHook):
    """Reads a ``gca_llm`` connection; makes no call.

    Where the default connection does not exist, ``GCA_LLM`` decides, and where that is unset too there is no
    model: a key lying in the environment is not consent.

    Args:
        gca_llm_conn_id: the connection's id.
    """

    conn_name_attr: ClassVar[str] = "gca_llm_conn_id"
    default_conn_name: ClassVar[str] = "gca_llm_default"
    conn_type: ClassVar[str] = LLM_FORM.connection_type
    hook_name: ClassVar[str] = LLM_FORM.hook_name

    def __init__(self, gca_llm_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.gca_llm_conn_id = gca_llm_conn_id

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Form fields for Airflow 3.1; later versions read them from the provider info."""
        return LLM_FORM.widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Form labels for Airflow 3.1; later versions read them from the provider info."""
        return LLM_FORM.field_behaviour()

    def get_conn(self, model: str | None = None) -> LlmConfig | None:
        """The model to use, or None where none was named.

        Args:
            model: instead of the named one, of the same provider.

        Raises:
            ConfigurationError: a connection was named that does not exist, or its fields don't fit.
        """
        from gca_core.llm.models import checked_config

        try:
            connection = self.get_connection(self.gca_llm_conn_id)
        except AirflowNotFoundException:
            found = self._from_settings()
            return found.model_copy(update={"model": model}) if found and model else found
        if connection.conn_type != self.conn_type:
            raise ConfigurationError(
                f"the connection {self.gca_llm_conn_id!r} is of type {connection.conn_type!r}; "
                f"it has to be {self.conn_type}"
            )
        extra = connection.extra_dejson
        return checked_config(
            extra.get("provider") or "",
            model or extra.get("model") or "",
            base_url=extra.get("base_url") or None,
            api_key=SecretStr(connection.password) if connection.password else None,
        )

    def test_connection(self) -> tuple[bool, str]:
        """Check that the fields are complete; no call is made."""
        try:
            config = self.get_conn()
        except ConfigurationError as error:
            return False, str(error)
        if config is None:
            return False, "no model is named, neither by a connection nor by GCA_LLM"
        return True, f"{config.name} is configured; no call was made"

    def _from_settings(self) -> LlmConfig | None:
        from gca_core.config import load_settings
        from gca_core.llm.models import parse_model

        if self.gca_llm_conn_id != self.default_conn_name:
            raise ConfigurationError(
                f"the connection {self.gca_llm_conn_id!r} does not exist; create it with the type {self.conn_type}"
            )
        named = load_settings().llm
        return None if named is None else parse_model(named)
