"""The hook that says which language model may be called, and with which key."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.sdk import BaseHook
from pydantic import BaseModel, ConfigDict, SecretStr

from airflow_provider_gca._compat import AirflowNotFoundException
from airflow_provider_gca.connection_forms import LLM_FORM, LLM_PROVIDERS
from gca_core.errors import ConfigurationError


class LlmConfig(BaseModel):
    """A model and how to reach it; the key shows neither in ``repr`` nor in JSON."""

    model_config = ConfigDict(frozen=True)

    provider: str
    model: str
    base_url: str | None = None
    api_key: SecretStr | None = None

    @property
    def name(self) -> str:
        """``provider:model``, as results record it."""
        return f"{self.provider}:{self.model}"


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

    def get_conn(self) -> LlmConfig | None:
        """The model to use, or None where none was named.

        Raises:
            ConfigurationError: a connection was named that does not exist, or its fields don't fit.
        """
        try:
            connection = self.get_connection(self.gca_llm_conn_id)
        except AirflowNotFoundException:
            return self._from_settings()
        if connection.conn_type != self.conn_type:
            raise ConfigurationError(
                f"the connection {self.gca_llm_conn_id!r} is of type {connection.conn_type!r}; "
                f"it has to be {self.conn_type}"
            )
        extra = connection.extra_dejson
        return self._checked(
            provider=extra.get("provider") or "",
            model=extra.get("model") or "",
            base_url=extra.get("base_url") or None,
            api_key=connection.password or None,
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

        if self.gca_llm_conn_id != self.default_conn_name:
            raise ConfigurationError(
                f"the connection {self.gca_llm_conn_id!r} does not exist; create it with the type {self.conn_type}"
            )
        named = load_settings().llm
        if named is None:
            return None
        provider, _, model = named.partition(":")
        return self._checked(provider=provider, model=model, base_url=None, api_key=None)

    def _checked(self, *, provider: str, model: str, base_url: str | None, api_key: str | None) -> LlmConfig:
        if provider not in LLM_PROVIDERS:
            raise ConfigurationError(f"the provider {provider!r} is not known; use one of {', '.join(LLM_PROVIDERS)}")
        if not model:
            raise ConfigurationError("no model is named; fill in the model, for instance the provider's small one")
        if provider == "openai-compatible" and not base_url:
            raise ConfigurationError("openai-compatible needs the base URL of the endpoint")
        return LlmConfig(
            provider=provider, model=model, base_url=base_url, api_key=SecretStr(api_key) if api_key else None
        )
