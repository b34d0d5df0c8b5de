"""From ranked genes and evidence to labels: by the marker database alone, or by a model that it judges."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from gca_core.annotation.adata.expression import SPECIES
from gca_core.annotation.labels.from_model import LlmAnnotator
from gca_core.annotation.labels.names import common_name
from gca_core.annotation.labels.offline import annotate_clusters
from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.annotation.markers.load import load_marker_database
from gca_core.annotation.markers.orthologs import ortholog_checked
from gca_core.annotation.models import (
    UNKNOWN,
    Annotation,
    ClusterMarkers,
    Confidence,
    FlagReason,
    MarkerDatabaseInfo,
    ModelStats,
    Status,
)
from gca_core.annotation.scoring.marker_model import MarkerModel, Weighed, build_model
from gca_core.errors import ConfigurationError, MarkerDatabaseError
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

log = logging.getLogger(__name__)

MarkerInput = str | os.PathLike[str] | MarkerDatabase | None


@dataclass(frozen=True)
class SpeciesMarkers:
    """The markers for a species.

    Attributes:
        database: rows of the species; of human where the table has none of it, matched by the symbols' letters.
        elsewhere: terms that the table has rows for in human, and not in the species.
        borrowed: whether the rows are human's.
    """

    database: MarkerDatabase
    elsewhere: frozenset[str] = frozenset()
    borrowed: bool = False

    @property
    def info(self) -> MarkerDatabaseInfo:
        """As reports name it."""
        d = self.database
        return MarkerDatabaseInfo(name=d.name, sha256=d.content_hash, n_types=len(d.types), n_markers=d.n_markers)


@dataclass(frozen=True)
class Knowledge:
    """What labels are judged by.

    Attributes:
        model: the marker database over the measured genes.
    """

    markers: SpeciesMarkers
    ontology: CellOntology
    model: MarkerModel
    species: str
    tissue: str | None


def species_markers(marker_db: MarkerInput, species: str) -> SpeciesMarkers:
    """The markers of a table, or the bundled ones, for a species; a database that is given is taken as it is.

    Raises:
        ConfigurationError: unknown species.
        MarkerDatabaseError: the table can't be read.
    """
    if species not in SPECIES:
        raise ConfigurationError(f"the species {species!r} is not supported; use one of {', '.join(SPECIES)}")
    if isinstance(marker_db, MarkerDatabase):
        return SpeciesMarkers(marker_db)
    if species == "human":
        return SpeciesMarkers(load_marker_database(marker_db, species=species))
    try:
        own = load_marker_database(marker_db, species=species)
    except MarkerDatabaseError:
        human = load_marker_database(marker_db, species="human")
        log.warning("the marker database %s has no rows for %s; those of human are used", human.name, species)
        return SpeciesMarkers(human, borrowed=True)
    try:
        human = load_marker_database(marker_db, species="human")
    except MarkerDatabaseError:
        return SpeciesMarkers(own)
    known = {t.ontology_id for t in own.types}
    return SpeciesMarkers(own, frozenset(t.ontology_id for t in human.types) - known)


def gather_knowledge(
    markers: SpeciesMarkers, genes: Sequence[str] | None, *, species: str, tissue: str | None
) -> Knowledge:
    """The ontology, and the marker database over the measured genes; None means that all were.

    Raises:
        ConfigurationError: the marker database doesn't know the tissue.
    """
    ontology = load_ontology()
    return Knowledge(markers, ontology, build_model(markers.database, genes, ontology, tissue=tissue), species, tissue)


def label_clusters(
    clusters: Sequence[ClusterMarkers],
    weighed: Weighed,
    knowledge: Knowledge,
    annotator: LlmAnnotator | None,
    *,
    min_overlap: int,
    force_unknown: bool = True,
) -> tuple[list[Annotation], ModelStats | None]:
    """Label clusters, offline or by models.

    Args:
        weighed: their evidence, over the genes of the knowledge's model.
        annotator: None labels by the evidence alone.
        min_overlap: fewest supporting markers of a label.
        force_unknown: whether a label with too little evidence gives way to ``Unknown or Novel``; False keeps it,
            flagged.
    """
    stats = None
    if annotator is None:
        found = annotate_clusters(clusters, weighed, knowledge.model, knowledge.ontology, min_overlap=min_overlap)
    else:
        found, stats = annotator.annotate(
            clusters,
            weighed,
            knowledge.model,
            knowledge.ontology,
            species=knowledge.species,
            tissue=knowledge.tissue,
            marker_database=knowledge.markers.database.content_hash,
            min_overlap=min_overlap,
        )
    if not force_unknown:
        found = [as_proposed(annotation, knowledge.ontology) for annotation in found]
    found = [_low_flagged(_species_checked(annotation, knowledge)) for annotation in found]
    if knowledge.markers.borrowed and knowledge.species == "mouse":
        database = knowledge.markers.database
        found = [ortholog_checked(annotation, database, min_overlap=min_overlap) for annotation in found]
    return found, stats


def as_proposed(annotation: Annotation, ontology: CellOntology) -> Annotation:
    """The annotation with the proposed label in the place of ``Unknown or Novel``; it stays flagged."""
    label = annotation.proposed_label
    if annotation.primary_label != UNKNOWN or label is None:
        return annotation
    term = ontology.resolve(label)
    return annotation.model_copy(update={"primary_label": label, "ontology_id": term, "common_name": common_name(term)})


def _low_flagged(annotation: Annotation) -> Annotation:
    """The annotation, flagged where it is of Low confidence for no other reason."""
    if annotation.confidence is not Confidence.LOW or annotation.flag_reasons:
        return annotation
    return annotation.model_copy(update={"status": Status.FLAGGED, "flag_reasons": (FlagReason.LOW_CONFIDENCE,)})


def _species_checked(annotation: Annotation, knowledge: Knowledge) -> Annotation:
    """The annotation, flagged where the marker database knows its label in another species only.

    Labels of the offline annotator stand on the rows of the species, unless these are borrowed.
    """
    markers, term = knowledge.markers, annotation.ontology_id
    known = annotation.annotator == "offline" or term not in markers.elsewhere
    if term is None or (known and not markers.borrowed):
        return annotation
    why = f"the marker database knows {annotation.primary_label} by human markers only, not by those of "
    capped = Confidence.MEDIUM if annotation.confidence is Confidence.HIGH else annotation.confidence
    return annotation.model_copy(
        update={
            "confidence": capped,
            "status": Status.FLAGGED,
            "flag_reasons": (*annotation.flag_reasons, FlagReason.SPECIES_MISMATCH),
            "caveats": (*annotation.caveats, why + knowledge.species),
        }
    )
