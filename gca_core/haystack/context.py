"""What the steps stand on: the atlas, the run records and the knowledge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from gca_core import __version__
from gca_core.config import Settings, load_settings
from gca_core.errors import ConfigurationError
from gca_core.haystack.models import IterationConfig, Provenance, StructuredQuery
from gca_core.knowledge.bundled.catalogue import PerturbationCatalogue, load_catalogue
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

if TYPE_CHECKING:
    from gca_core.atlas import Atlas
    from gca_core.grounding.knowledge import GroundingKnowledge
    from gca_core.llm.embeddings import TextEmbeddings
    from gca_core.llm.models import LlmConfig
    from gca_core.runs.store import RunStore


@dataclass(frozen=True)
class HaystackContext:
    """Atlas, records and knowledge of one process.

    Attributes:
        settings: settings of this process.
        ontology: the Cell Ontology.
        catalogue: the perturbation catalogue.
        atlas: where prompts come from; None where only questions are read.
        run_store: where runs are recorded; None where only questions are read.
        language_model: the model that may be asked; None where nobody named one.
    """

    settings: Settings
    ontology: CellOntology
    catalogue: PerturbationCatalogue
    atlas: Atlas | None = None
    run_store: RunStore | None = None
    language_model: LlmConfig | None = None

    @cached_property
    def knowledge(self) -> GroundingKnowledge:
        """What predictions are scored against; a question is read without it."""
        from gca_core.grounding.knowledge import load_knowledge

        return load_knowledge()

    @cached_property
    def embeddings(self) -> TextEmbeddings:
        """From texts to vectors; a question is read without them.

        Raises:
            ConfigurationError: the embeddings of the settings can't be used.
        """
        from gca_core.llm.embeddings import open_embeddings

        return open_embeddings(self.settings)

    @property
    def embedding_model(self) -> str:
        """The name of the model behind :meth:`embed`."""
        return self.embeddings.model

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text."""
        return self.embeddings.embed_documents(list(texts))

    def literature_names(self, query: StructuredQuery) -> tuple[str, ...]:
        """Names of the asked perturbation that may be sent out; none where only the atlas knows it."""
        entry = self.catalogue.get(query.perturbation)
        if entry is not None:
            return entry.name, *entry.synonyms
        return (query.perturbation,) if query.in_catalogue else ()

    def known_perturbations(self, dataset: str | None = None) -> Sequence[str]:
        """The atlas's names of perturbations; none without an atlas."""
        return self.atlas.perturbations(dataset) if self.atlas else ()

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
        from gca_core import io

        entries = [entry.model_dump(mode="json") for entry in self.catalogue.entries.values()]
        return Provenance(
            package_version=__version__,
            ontology_version=self.ontology.version,
            knowledge_version=self.knowledge.version,
            catalogue_version=f"{self.catalogue.version}-{io.content_hash(entries)[:12]}",
            embedding_model=self.embedding_model,
            backend=config.backend,
            seed=config.seed,
            language_model=self.language_model.name if self.language_model and config.max_model_calls else None,
        )


def open_knowledge(settings: Settings | None = None) -> HaystackContext:
    """A context that reads questions and needs no database."""
    settings = settings or load_settings()
    return HaystackContext(settings, load_ontology(), load_catalogue(), language_model=_named_model(settings))


def open_context(settings: Settings | None = None, dsn: str | None = None) -> HaystackContext:
    """A context on the atlas and run records of a database, with all that a run reads.

    Args:
        settings: settings; read from the environment where None.
        dsn: connection string of the database; by the settings where None.

    Raises:
        StoreError: the database can't be reached.
        ConfigurationError: no database is configured and none may be started, or the embeddings or the model that are
            named can't be used.
    """
    from gca_core.atlas import open_atlas
    from gca_core.runs.store import RunStore
    from gca_core.store.resolve import resolve_dsn

    settings = settings or load_settings()
    address = dsn or resolve_dsn(settings, role="app")
    context = HaystackContext(
        settings,
        load_ontology(),
        load_catalogue(),
        open_atlas(settings, dsn=address),
        RunStore(address),
        _named_model(settings),
    )
    # what can't be used is told here, and not in the middle of a run
    context.embeddings, context.knowledge  # noqa: B018
    return context


def _named_model(settings: Settings) -> LlmConfig | None:
    from gca_core.llm.models import parse_model

    return parse_model(settings.llm) if settings.llm else None
