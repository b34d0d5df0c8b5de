"""The connection forms, described once for every supported Airflow.

From 3.2 on Airflow reads ``conn-fields`` and ``ui-field-behaviour`` out of the provider info; 3.1 asks
the hooks. Both are made from the values here, in a module that imports nothing of Airflow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
LLM_PROVIDERS = ("openai", "anthropic", "google", "openai-compatible")


@dataclass(frozen=True)
class FormField:
    """One field of a connection form that is kept in the connection's extra."""

    label: str
    description: str
    choices: tuple[str, ...] = ()
    default: str | None = None

    def schema(self) -> dict[str, Any]:
        """The field's JSON schema; an optional field may be empty."""
        schema: dict[str, Any] = {"type": ["string", "null"]}
        if self.choices:
            schema["enum"] = [*self.choices, None]
        if self.default is not None:
            schema["default"] = self.default
        return schema


@dataclass(frozen=True)
class ConnectionForm:
    """The form of one connection type."""

    connection_type: str
    hook_class_name: str
    hook_name: str
    fields: Mapping[str, FormField]
    hidden: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    placeholders: Mapping[str, str] = field(default_factory=dict)

    def provider_entry(self) -> dict[str, Any]:
        """The entry of ``connection-types`` in the provider info."""
        return {
            "connection-type": self.connection_type,
            "hook-class-name": self.hook_class_name,
            "hook-name": self.hook_name,
            "ui-field-behaviour": {
                "hidden-fields": list(self.hidden),
                "relabeling": dict(self.labels),
                "placeholders": dict(self.placeholders),
            },
            "conn-fields": {
                name: {"label": entry.label, "description": entry.description, "schema": entry.schema()}
                for name, entry in self.fields.items()
            },
        }

    def field_behaviour(self) -> dict[str, Any]:
        """What a hook's ``get_ui_field_behaviour`` returns on Airflow 3.1."""
        return {
            "hidden_fields": list(self.hidden),
            "relabeling": dict(self.labels),
            "placeholders": dict(self.placeholders),
        }

    def widgets(self) -> dict[str, Any]:
        """What a hook's ``get_connection_form_widgets`` returns on Airflow 3.1; needs wtforms."""
        from wtforms import StringField, validators  # type: ignore[import-untyped,import-not-found,unused-ignore]

        made: dict[str, Any] = {}
        for name, entry in self.fields.items():
            checks: list[Any] = [validators.Optional()]
            if entry.choices:
                checks.append(validators.AnyOf(entry.choices))
            made[name] = StringField(
                entry.label, validators=checks, description=entry.description, default=entry.default or ""
            )
        return made


ATLAS_FORM = ConnectionForm(
    connection_type="gca_atlas",
    hook_class_name="airflow_provider_gca.hooks.atlas.AtlasHook",
    hook_name="GCA atlas (PostgreSQL)",
    fields={
        "sslmode": FormField(
            "SSL mode", "How the connection to PostgreSQL is encrypted and checked.", choices=SSL_MODES
        ),
        "store_uri": FormField(
            "Store URI",
            "Folder for the expression files of datasets that are ingested, file:// or gs://. Empty: under GCA_HOME.",
        ),
    },
    labels={"schema": "Database"},
    placeholders={"host": "10.0.0.5", "port": "5432", "schema": "gca", "login": "gca_app"},
)

LLM_FORM = ConnectionForm(
    connection_type="gca_llm",
    hook_class_name="airflow_provider_gca.hooks.llm.LlmHook",
    hook_name="GCA language model",
    fields={
        "provider": FormField("Provider", "Whose chat API the model is called through.", choices=LLM_PROVIDERS),
        "model": FormField("Model", "The model's name at that provider."),
        "base_url": FormField(
            "Base URL", "Address of an OpenAI-compatible endpoint; needed for openai-compatible, else optional."
        ),
    },
    hidden=("host", "port", "login", "schema"),
    labels={"password": "API key"},
)

FORMS = (ATLAS_FORM, LLM_FORM)
