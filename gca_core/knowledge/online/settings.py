"""Which services may be asked, and how: ``GCA_ONLINE_*``, ``GCA_NCBI_*`` and ``GCA_ENABLE_KEGG``."""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gca_core.cache import cache_root
from gca_core.config import load_settings, variable_name
from gca_core.errors import ConfigurationError, complaints

KEGG_TERMS = (
    "KEGG's REST service is offered to academic users for academic use; everyone else needs a licence "
    "(https://www.kegg.jp/kegg/legal.html). its answers are never stored here"
)


class Source(StrEnum):
    """A public service."""

    REACTOME = "reactome"
    UNIPROT = "uniprot"
    PUBMED = "pubmed"
    GO = "go"
    ENSEMBL = "ensembl"
    KEGG = "kegg"


@dataclass(frozen=True)
class Service:
    """What is known of a service.

    Attributes:
        base_url: where its calls begin.
        requests: how many calls are made within ``window_s`` seconds at most.
        stored: whether its answers may be kept in the disk cache.
    """

    base_url: str
    requests: int
    window_s: float
    stored: bool = True


# services that publish no limit get thirty calls a minute
SERVICES = MappingProxyType(
    {
        Source.REACTOME: Service("https://reactome.org/ContentService", 30, 60.0),
        Source.UNIPROT: Service("https://rest.uniprot.org", 30, 60.0),
        Source.PUBMED: Service("https://eutils.ncbi.nlm.nih.gov/entrez/eutils", 3, 1.0),
        Source.GO: Service("https://www.ebi.ac.uk/QuickGO/services", 30, 60.0),
        Source.ENSEMBL: Service("https://rest.ensembl.org", 15, 1.0),
        Source.KEGG: Service("https://rest.kegg.jp", 3, 1.0, stored=False),
    }
)
PUBMED_WITH_KEY = 10


class OnlineSettings(BaseSettings):
    """What ``gca_core.knowledge.online`` reads from the environment.

    Args:
        online_sources: services that may be asked, apart by commas; none by default.
        online_urls: other addresses by service, as JSON, for a mirror or a test.
        online_timeout_s: for one attempt.
        online_retries: further attempts after the first.
        online_wait_s: the first pause before another attempt; it doubles with each.
        online_max_wait_s: the longest pause; a service that asks for more is given up.
        online_cache_days: how long an answer counts; 0 for no cache.
        enable_kegg: KEGG's terms are met, see :data:`KEGG_TERMS`.
        ncbi_email: whom NCBI may write to; it asks for one.
        ncbi_tool: what NCBI sees as the caller.
        ncbi_api_key: raises PubMed's limit from 3 to 10 calls a second; never logged or cached.
    """

    model_config = SettingsConfigDict(env_prefix="GCA_", extra="ignore", frozen=True)

    online_sources: Annotated[tuple[Source, ...], NoDecode] = ()
    online_urls: dict[Source, str] = Field(default_factory=dict)
    online_timeout_s: float = Field(default=20.0, gt=0)
    online_retries: int = Field(default=3, ge=0, le=10)
    online_wait_s: float = Field(default=1.0, ge=0)
    online_max_wait_s: float = Field(default=30.0, ge=0)
    online_cache_days: float = Field(default=30.0, ge=0)
    enable_kegg: bool = False
    ncbi_email: str = ""
    ncbi_tool: str = "airflow-provider-gca"
    ncbi_api_key: SecretStr | None = None
    cache_dir: Path | None = None

    @field_validator("online_sources", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(filter(None, (part.strip().lower() for part in value.split(","))))
            if isinstance(value, str)
            else value
        )

    @field_validator("online_urls")
    @classmethod
    def _plain_urls(cls, value: dict[Source, str]) -> dict[Source, str]:
        for source, url in value.items():
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
                raise ValueError(f"the address of {source} is not a plain http address")
        return value

    def base_url(self, source: Source) -> str:
        """Where the calls of a service begin, without a final slash."""
        return (self.online_urls.get(source) or SERVICES[source].base_url).rstrip("/")

    def requests(self, source: Source) -> int:
        """How many calls a service gets in its window."""
        with_key = source is Source.PUBMED and self.ncbi_api_key is not None
        return PUBMED_WITH_KEY if with_key else SERVICES[source].requests

    def cache_folder(self) -> Path:
        """Where answers are kept."""
        return cache_root(self.cache_dir) / "online"


def load_online_settings(**overrides: object) -> OnlineSettings:
    """Read the settings afresh; ``overrides`` that are not None win over the environment.

    Raises:
        ConfigurationError: a variable has a value that does not fit, or KEGG is named without ``GCA_ENABLE_KEGG``.
    """
    env_file = os.environ.get("GCA_ENV_FILE", ".env")
    given = {name: value for name, value in overrides.items() if value is not None}
    given.setdefault("cache_dir", load_settings().cache_dir)
    try:
        settings = OnlineSettings(_env_file=env_file, **given)  # type: ignore[arg-type]
    except ValidationError as error:
        names = ", ".join(source.value for source in Source)
        lines = complaints(error, name=variable_name)
        raise ConfigurationError(f"the online settings are not valid: {lines}. the sources are {names}") from None
    if Source.KEGG in settings.online_sources and not settings.enable_kegg:
        raise ConfigurationError(f"KEGG is named as a source, but GCA_ENABLE_KEGG is not set. {KEGG_TERMS}")
    return settings
