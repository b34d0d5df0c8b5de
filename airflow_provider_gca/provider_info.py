"""What Airflow's provider discovery reads; imports nothing of Airflow."""

from typing import Any

from airflow_provider_gca import __version__
from airflow_provider_gca.hooks.connection_forms import FORMS

INTEGRATION = "Genomics cell annotation"
_PACKAGE = "airflow_provider_gca"


def get_provider_info() -> dict[str, Any]:
    """The provider's entry point, for Airflow 3.1 and later."""

    def modules(room: str, *names: str) -> list[dict[str, Any]]:
        return [{"integration-name": INTEGRATION, "python-modules": [f"{_PACKAGE}.{room}.{name}" for name in names]}]

    return {
        "package-name": "airflow-provider-gca",
        "name": "Genomics cell annotation",
        "description": "Cell-type annotation, latent models and HAYSTACK perturbation prediction for single-cell data.",
        "versions": [__version__],
        "integrations": [{"integration-name": INTEGRATION, "tags": ["science"]}],
        "operators": modules("operators", "annotation", "atlas", "batch", "inference", "latent"),
        "sensors": modules("sensors", "grounding"),
        "hooks": modules("hooks", "atlas", "batch", "llm"),
        "triggers": modules("triggers", "batch", "grounding", "loop"),
        "notifications": [f"{_PACKAGE}.notifications.haystack.HaystackNotifier"],
        "connection-types": [form.provider_entry() for form in FORMS],
        "extra-links": [
            f"{_PACKAGE}.utils.results.{name}Link"
            for name in ("Report", "Figure", "BatchJob", "BatchLogs", "Run", "Atlas")
        ],
    }
