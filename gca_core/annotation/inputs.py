"""What an annotation takes in beside the cells: the keyword arguments of its functions, read once before any work."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypedDict, TypeVar

from gca_core.annotation.config import AnnotationOptions, make_options
from gca_core.annotation.labels.corrections import Corrections
from gca_core.annotation.labels.from_model import LlmAnnotator, ModelInput, as_annotator
from gca_core.annotation.labels.labelling import MarkerInput, SpeciesMarkers, species_markers
from gca_core.annotation.labels.vocabulary import Vocabulary, VocabularyInput, as_vocabulary
from gca_core.annotation.llm.models import LlmOptions
from gca_core.annotation.opinions.reference import Reference, ReferenceInput, as_reference
from gca_core.annotation.timing import Stopwatch
from gca_core.matrix import RankingMethod

P = ParamSpec("P")
R = TypeVar("R")


class _Keywords(TypedDict, total=False):
    species: str
    tissue: str | None
    marker_db: MarkerInput
    top_n_markers: int
    min_overlap: int
    request_id: str | None


class _ColumnKeywords(_Keywords, total=False):
    prefix: str
    layer: str | None
    gene_symbols: str | None


class ListKeywords(_Keywords, total=False):
    """Keyword arguments of :func:`gca_core.annotation.annotate_from_markers`."""

    vocabulary: VocabularyInput
    force_unknown: bool
    model: ModelInput | LlmAnnotator | None
    llm_options: LlmOptions | None


class RankedKeywords(ListKeywords, _ColumnKeywords, total=False):
    """Keyword arguments of :func:`gca_core.annotation.annotate_rank_genes`."""

    labels_key: str | None
    corrections: Corrections | None
    reference: ReferenceInput
    reference_labels: str | None
    opinion_column: str | None
    consensus: bool


class CellKeywords(RankedKeywords, total=False):
    """Keyword arguments of :func:`gca_core.annotation.annotate_anndata`."""

    ranking: RankingMethod
    resolution: float
    seed: int


class LabelKeywords(_ColumnKeywords, total=False):
    """Keyword arguments of :func:`gca_core.annotation.validate_anndata`."""

    cluster_key: str | None
    ontology_column: str | None
    ranking: RankingMethod
    ranking_key: str | None


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What was read for an annotation.

    Attributes:
        marker_db: what the markers are of.
        corrections: of people, to apply after those that the cells bring.
        annotator: of models; None works offline.
        reference: labelled cells that are heard, too.
        ranking_key: key in ``uns`` of a ranking to use instead of computing one.
        clock: runs since the reading began.
    """

    markers: SpeciesMarkers
    marker_db: MarkerInput = None
    vocabulary: Vocabulary | None = None
    corrections: Corrections = field(default_factory=Corrections)
    annotator: LlmAnnotator | None = None
    reference: Reference | None = None
    ranking_key: str | None = None
    clock: Stopwatch = field(default_factory=Stopwatch)


def read_inputs(
    options: AnnotationOptions,
    *,
    marker_db: MarkerInput = None,
    vocabulary: VocabularyInput = None,
    corrections: Corrections | None = None,
    model: ModelInput | LlmAnnotator | None = None,
    llm_options: LlmOptions | None = None,
    ranking_key: str | None = None,
    reference: ReferenceInput = None,
) -> Inputs:
    """Read what the arguments name.

    Raises:
        ConfigurationError: a model can't be used as it is named.
        DataValidationError: the vocabulary can't be read.
        MarkerDatabaseError: the marker database can't be read.
    """
    clock = Stopwatch()
    annotator = as_annotator(model, llm_options)
    with clock.stage("read"):
        markers = species_markers(marker_db, options.species)
        labels_key, species = options.reference_labels, options.species
        return Inputs(
            markers=markers,
            reference=as_reference(reference, labels_key, markers.database, species=species),
            marker_db=marker_db,
            vocabulary=as_vocabulary(vocabulary),
            corrections=corrections or Corrections(),
            annotator=annotator,
            ranking_key=ranking_key,
            clock=clock,
        )


def resolve(**given: Any) -> tuple[AnnotationOptions, Inputs]:
    """The options among keyword arguments, checked, and what the others name, read.

    Raises:
        ConfigurationError, DataValidationError, MarkerDatabaseError: as :func:`read_inputs`, or an option is out of
            range.
    """
    plain = {name: given.pop(name) for name in AnnotationOptions.model_fields if name in given}
    options = make_options(AnnotationOptions, plain)
    return options, read_inputs(options, **given)


def takes(keywords: type) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a function that ends in ``**keywords`` these in its signature, with their defaults, and refuse others."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        own = inspect.signature(function)
        fields = AnnotationOptions.model_fields
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(fields.get(name), "default", None))
            for name in inspect.get_annotations(keywords)
        ]
        signature = own.replace(parameters=[*list(own.parameters.values())[:-1], *named])

        @functools.wraps(function)
        def work(*args: P.args, **kwargs: P.kwargs) -> R:
            signature.bind(*args, **kwargs)
            return function(*args, **kwargs)

        work.__signature__ = signature  # type: ignore[attr-defined]
        return work

    return decorate
