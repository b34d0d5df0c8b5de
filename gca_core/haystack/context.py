"""What the steps stand on: the atlas, the run records and the knowledge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gca_core import __version__, io
from gca_core.atlas import Atlas, open_atlas
from gca_core.config import Settings, load_settings
from gca_core.errors import ConfigurationError
from gca_core.grounding.knowledge import GroundingKnowledge, load_knowledge
from gca_core.haystack.models import IterationConfig, Provenance
from gca_core.knowledge.bundled.catalogue import PerturbationCatalogue, load_catalogue
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology
from gca_core.llm.embeddings import open_embeddings
from gca_core.llm.models import parse_model
from gca_core.runs.store import RunStore
from gca_core.store.resolve import resolve_dsn

if TYPE_CHECKING:
    from pydantic import BaseModel

Embed = Callable[[Sequence[str]], list[list[float]]]


@dataclass(frozen=True)
class HaystackContext:
    """Atlas, records and knowledge of one process.

    Attributes:
        atlas: where prompts come from; None where only questions are read.
        run_store: where runs are recorded; None where only questions are read.
        ontology: the Cell Ontology.
        catalogue: the perturbation catalogue.
        knowledge: what predictions are scored against.
        embed: texts to vectors.
        embedding_model: name of the model behind ``embed``.
        settings: settings of this process.
    """

    atlas: Atlas | None
    run_store: RunStore | None
    ontology: CellOntology
    catalogue: PerturbationCatalogue
    knowledge: GroundingKnowledge
    embed: Embed
    embedding_model: str
    settings: Settings

    def require_atlas(self) -> Atlas:
        """The atlas.

        Raises:
            ConfigurationError: this context reads questions only.
        """
        if self.atlas is None:
            raise ConfigurationError("this context has no atlas; make it with open_context()")
        return self.atlas

    def require_runs(self) -> RunStore:
        """The run records.

        Raises:
            ConfigurationError: this context reads questions only.
        """
        if self.run_store is None:
            raise ConfigurationError("this context has no run records; make it with open_context()")
        return self.run_store

    def provenance(self, config: IterationConfig) -> Provenance:
        """What decides a result beside the question and the data."""
        entries = [_dump(entry) for entry in self.catalogue.entries.values()]
        return Provenance(
            package_version=__version__,
            ontology_version=self.ontology.version,
            knowledge_version=self.knowledge.version,
            catalogue_version=f"{self.catalogue.version}-{io.content_hash(entries)[:12]}",
            embedding_model=self.embedding_model,
            backend=config.backend,
            seed=config.seed,
            language_model=parse_model(self.settings.llm).name
            if self.settings.llm and config.max_model_calls
            else None,
        )


def open_knowledge(settings: Settings | None = None) -> HaystackContext:
    """A context that reads questions and needs no database.

    Raises:
        ConfigurationError: the embeddings of the settings can't be used.
    """
    settings = settings or load_settings()
    embeddings = open_embeddings(settings)
    return HaystackContext(
        atlas=None,
        run_store=None,
        ontology=load_ontology(),
        catalogue=load_catalogue(),
        knowledge=load_knowledge(),
        embed=lambda texts: embeddings.embed_documents(list(texts)),
        embedding_model=embeddings.model,
        settings=settings,
    )


def open_context(settings: Settings | None = None, dsn: str | None = None) -> HaystackContext:
    """A context on the atlas and run records of a database.

    Args:
        settings: settings; read from the environment where None.
        dsn: connection string of the database; by the settings where None.

    Raises:
        StoreError: the database can't be reached.
        ConfigurationError: no database is configured and none may be started.
    """
    base = open_knowledge(settings)
    address = dsn or resolve_dsn(base.settings, role="app")
    return HaystackContext(
        **{name: getattr(base, name) for name in base.__dataclass_fields__ if name not in {"atlas", "run_store"}},
        atlas=open_atlas(base.settings, dsn=address),
        run_store=RunStore(address),
    )


def _dump(value: BaseModel) -> object:
    return value.model_dump(mode="json")
