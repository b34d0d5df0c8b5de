"""What annotation takes and returns: plain values that serialise to JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from gca_core.llm.models import Usage

UNKNOWN = "Unknown or Novel"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Confidence(StrEnum):
    """How clear the evidence is; a rule of thumb until it is calibrated, not a probability."""

    HIGH = "High"
    MEDIUM = "Medium"
    LOW = "Low"


class Status(StrEnum):
    """Whether a label stands, or somebody should look at it."""

    SUPPORTED = "supported"
    FLAGGED = "flagged"


class FlagReason(StrEnum):
    """Why a label is flagged."""

    TISSUE_MISMATCH = "tissue_mismatch"
    NO_MARKERS_SUPPLIED = "no_markers_supplied"
    LOW_MARKER_OVERLAP = "low_marker_overlap"
    CONTRADICTORY_MARKERS = "contradictory_markers"
    AMBIGUOUS_EVIDENCE = "ambiguous_evidence"
    LABEL_NOT_IN_KB = "label_not_in_kb"
    MISSING_ONTOLOGY_ID = "missing_ontology_id"
    ONTOLOGY_MISMATCH = "ontology_mismatch"
    MODEL_ABSTAINED = "model_abstained"
    MODEL_DISAGREEMENT = "model_disagreement"
    OFFLINE_FALLBACK = "offline_fallback"


class RankedGene(_Value):
    """A gene in the ranking of a cluster.

    Attributes:
        gene: current symbol.
        score: of the test.
        log_fold_change: difference of mean log1p expression, inside minus outside.
        fraction_in, fraction_out: share of cells that express it inside and outside the cluster.
    """

    gene: str
    score: float | None = None
    log_fold_change: float | None = None
    fraction_in: float | None = None
    fraction_out: float | None = None


class ClusterMarkers(_Value):
    """The ranked genes of one cluster, best first."""

    cluster: str
    n_cells: int | None = None
    genes: tuple[RankedGene, ...] = ()


class Alternative(_Value):
    """Another label that the evidence allows, and why it came second."""

    label: str
    ontology_id: str
    score: float
    reason: str


class GeneEvidence(_Value):
    """One gene's part in a decision.

    Attributes:
        weight: signed contribution to the score before normalisation.
        marks: the cell type whose marker it is, the label's own or an ancestor's.
    """

    gene: str
    weight: float
    marks: str


class Evidence(_Value):
    """What speaks for and against a label.

    Attributes:
        supporting: positive markers found, strongest first.
        contradicting: negative markers found, strongest first.
        missing: strong positive markers that were measured and are absent.
        support, contradiction: their sums as they enter the score.
        score: of the label.
        margin: lead of the score over the best label that is neither above nor below it on the ontology.
    """

    supporting: tuple[GeneEvidence, ...] = ()
    contradicting: tuple[GeneEvidence, ...] = ()
    missing: tuple[str, ...] = ()
    support: float = 0.0
    contradiction: float = 0.0
    score: float = 0.0
    margin: float = 0.0


class Annotation(_Value):
    """The label of one cluster.

    Attributes:
        primary_label: a Cell Ontology label, or ``Unknown or Novel``.
        ontology_id: of the label; None when unknown.
        proposed_label: the best guess, where the evidence is too thin to make it the label.
        markers: top genes of the cluster's ranking.
        annotator: what the label comes from; with a model, ``offline`` means that it gave none.
    """

    cluster: str
    n_cells: int | None
    primary_label: str
    ontology_id: str | None
    confidence: Confidence
    status: Status
    flag_reasons: tuple[FlagReason, ...]
    rationale: str
    caveats: tuple[str, ...]
    alternatives: tuple[Alternative, ...]
    markers: tuple[str, ...]
    proposed_label: str | None
    evidence: Evidence
    annotator: Literal["offline", "llm"] = "offline"


class LabelAgreement(_Value):
    """Agreement on the cells of one known label."""

    label: str
    ontology_id: str | None
    n_cells: int
    exact: float
    related: float
    close: float


class Agreement(_Value):
    """Agreement of the annotation with known labels, judged on the Cell Ontology.

    Exact means the same term; related the same term, or one above the other; close also a distance of two at
    most, as between siblings. Unknown counts as disagreement.
    Shares are over the cells whose known label could be resolved, and over the clusters by their commonest
    resolved label.

    Attributes:
        column: of obs that holds the known labels.
        n_cells, n_clusters: that could be judged.
        unresolved: known labels without a Cell Ontology term; their cells are left out.
    """

    column: str
    n_cells: int
    n_clusters: int
    exact: float
    related: float
    close: float
    clusters_exact: float
    clusters_related: float
    unresolved: tuple[str, ...]
    by_label: tuple[LabelAgreement, ...]


class MarkerDatabaseInfo(_Value):
    """Which marker database was used."""

    name: str
    sha256: str
    n_types: int
    n_markers: int


class ModelStats(_Value):
    """What the models did for a data set.

    Attributes:
        models: that were asked, as ``provider:model``.
        prompt_version: of the prompt files.
        cache_hits: answers from the cache, over all models.
        llm_batches: prompts that were asked, over all models.
        fallbacks: clusters without an answer, which the offline annotator labelled.
        disagreements: clusters on which several models found no majority.
        seconds: that the models took.
    """

    models: tuple[str, ...]
    prompt_version: str
    cache_hits: int
    llm_batches: int
    fallbacks: int
    disagreements: int
    usage: Usage
    seconds: float
    notes: tuple[str, ...] = ()


class DatasetReport(_Value):
    """All annotations of a data set, with everything that decided them."""

    annotations: tuple[Annotation, ...]
    n_cells: int
    n_genes: int
    cluster_key: str
    clusters_computed: bool
    species: str
    tissue: str | None
    prefix: str
    matrix: str
    annotator: Literal["offline", "llm"] = "offline"
    model: str | None = None
    model_stats: ModelStats | None = None
    ranking: str
    top_n_markers: int
    seed: int
    marker_database: MarkerDatabaseInfo
    ontology_version: str
    agreement: Agreement | None
    versions: dict[str, str]

    @property
    def n_flagged(self) -> int:
        """How many clusters are flagged."""
        return sum(a.status is Status.FLAGGED for a in self.annotations)
