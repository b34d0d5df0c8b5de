"""Settings: ``GCA_*`` variables, an env file, and the profiles dev and prod.

Precedence, highest first: explicit arguments, environment variables, the env file named by
``GCA_ENV_FILE`` (``.env`` in the working directory when unset), the profile's defaults.
"""

import importlib
import os
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import platformdirs
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from gca_core.errors import ConfigurationError, complaints

DEFAULT_SEED = 0
# what programs need; keys, passwords and connections are not among it
PASSED_ON = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "PYTHONPATH", "PYTHONHASHSEED",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip


class Profile(StrEnum):
    """``dev`` starts what is missing on this machine; ``prod`` refuses to guess."""

    DEV = "dev"
    PROD = "prod"


class Settings(BaseSettings):
    """What ``gca_core`` reads from the environment.

    Args:
        profile: ``dev`` or ``prod``; ``prod`` never starts an embedded database.
        home: folder of the embedded database, results and caches.
        atlas_dsn: a PostgreSQL DSN; unset means the embedded server under ``home`` (dev only).
        results_uri: where runs write, ``file://`` or ``gs://``; unset means ``home/results``.
        marker_db_path: a marker database instead of the bundled one.
        cache_dir: answers and downloads that may be deleted at any time.
        assets_home: copies of remote marker tables; unset means under ``cache_dir``.
        llm: the chat model as ``provider:model``; unset means no model is ever called.
        llm_api_key: the key for a model whose address is given, as in ``provider:model@http://host/v1``.
        request_id: names a run in logs and results; unset means that each run makes one up.
        embeddings: the text embeddings as ``provider:model``; unset means the deterministic ones, without a model.
        seed: the seed of every random choice that has no seed of its own.
        runs_retention_days: after so many days the records of ended runs lose question, user and error, at the start of
            another run and by ``gca runs purge``; unset means that they stay.
        keep_predictions: keep predictions under ``cache_dir``, so that a repeated question costs nothing twice.
        page_dag_id: the DAG that the page in Airflow starts.
        page_folders: folders beside the results root whose reports the page shows, with commas between.
        log_level: level of the ``gca`` command's log.
    """

    model_config = SettingsConfigDict(env_prefix="GCA_", extra="ignore", frozen=True)

    profile: Profile = Profile.DEV
    home: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("gca", appauthor=False)))
    atlas_dsn: SecretStr | None = None
    results_uri: str | None = None
    marker_db_path: str | None = None
    cache_dir: Path | None = None
    assets_home: Path | None = None
    llm: str | None = None
    llm_api_key: SecretStr | None = None
    request_id: str | None = None
    embeddings: str | None = None
    seed: int = Field(default=DEFAULT_SEED, ge=0, lt=2**32)
    runs_retention_days: int | None = Field(default=None, ge=1)
    keep_predictions: bool = True
    page_dag_id: str = "gca_haystack_ask"
    page_folders: str = ""
    log_level: str = "INFO"

    def results_root(self) -> str:
        """The URI under which runs write their results."""
        return self.results_uri or (self.home.expanduser().resolve() / "results").as_uri()


def load_settings(**overrides: Any) -> Settings:
    """Read the settings afresh; ``overrides`` that are not None win over the environment.

    Raises:
        ConfigurationError: a variable has a value that does not fit.
    """
    env_file = os.environ.get("GCA_ENV_FILE", ".env")
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(_env_file=env_file, **given)
    except ValidationError as error:
        found = complaints(error, name=variable_name)
        raise ConfigurationError(f"the settings are not valid: {found}. see .env.example") from None


def variable_name(field: str) -> str:
    """The environment variable of a setting."""
    return f"GCA_{field.upper().replace('.', '_')}"


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Raises:
        ConfigurationError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"the module {module!r} can't be imported ({error}); "
            f"install it with: pip install 'airflow-provider-gca[{extra}]'"
        ) from error


def child_environment(*more: str) -> dict[str, str]:
    """What a child process gets of the environment: :data:`PASSED_ON` and the variables named here."""
    return {name: os.environ[name] for name in (*PASSED_ON, *more) if name in os.environ}
