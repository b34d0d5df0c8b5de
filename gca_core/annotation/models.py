"""What annotation takes and returns: plain values that serialise to JSON."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, Field

from gca_core.llm.models import Usage

UNKNOWN = "Unknown or Novel"
# key in uns of what an annotated file says about its annotation
STORED = "gca_annotation"


class _Value(BaseModel, frozen=True, extra="forbid"):
    """A value that never changes."""


class Confidence(StrEnum):
    """How clear the evidence is: levels of the agreement to expect, lowered by flags."""

    HIGH = "High"
    MEDIUM = "Medium"
    LOW = "Low"


class Status(StrEnum):
    """Whether a label stands, or somebody should look at it."""

    SUPPORTED = "supported"
    FLAGGED = "flagged"


class FlagReason(StrEnum):
    """Why a label is flagged."""

    SPECIES_MISMATCH = "species_mismatch"
    TISSUE_MISMATCH = "tissue_mismatch"
    NO_MARKERS_SUPPLIED = "no_markers_supplied"
    LOW_MARKER_OVERLAP = "low_marker_overlap"
    CONTRADICTORY_MARKERS = "contradictory_markers"
    AMBIGUOUS_EVIDENCE = "ambiguous_evidence"
    FEW_CELLS = "few_cells"
    LOW_CONFIDENCE = "low_confidence"
    LABEL_NOT_IN_KB = "label_not_in_kb"
    MISSING_ONTOLOGY_ID = "missing_ontology_id"
    ONTOLOGY_MISMATCH = "ontology_mismatch"
    MODEL_ABSTAINED = "model_abstained"
    MODEL_DISAGREEMENT = "model_disagreement"
    OFFLINE_FALLBACK = "offline_fallback"
    VALIDATION_MISSING = "validation_missing"
    ORTHOLOG_UNMAPPED = "ortholog_unmapped"
    OPINIONS_DISAGREE = "opinions_disagree"


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
        weight: signed contribution to the score.
        marks: the cell type whose marker it is, the label's own or one above it.
    """

    gene: str
    weight: float
    marks: str


class Evidence(_Value):
    """What speaks for and against a label.

    Attributes:
        supporting: positive markers found, strongest first.
        contradicting: negative markers found, strongest first.
        missing: markers that define the type, were measured and are absent.
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


class Opinion(_Value):
    """What one source says of a cluster.

    Attributes:
        source: ``markers``, a model, ``ULM``, ``reference``, or a column of obs.
        label: in the source's words; None where it says nothing.
        ontology_id: of the label; None where it is no name of the Cell Ontology.
        share: of the cluster's cells that are labelled so; None where the cluster is judged as one.
    """

    source: str
    label: str | None
    ontology_id: str | None
    share: float | None = None


class Override(_Value):
    """A person's decision that replaced a label.

    Attributes:
        label: what was decided.
        ontology_id: of the label; None where it is no Cell Ontology term.
        who: the reviewer.
        when: the time of the decision, ISO 8601 in UTC.
        note: the reviewer's words.
        replaced: the label that stood before.
    """

    label: str
    ontology_id: str | None
    who: str
    when: str
    note: str = ""
    replaced: str


class Annotation(_Value):
    """The label of one cluster.

    Attributes:
        primary_label: a Cell Ontology label, or ``Unknown or Novel``.
        ontology_id: of the label; None when unknown.
        proposed_label: the best guess, where the evidence is too thin to make it the label.
        markers: top genes of the cluster's ranking.
        annotator: what the label comes from; with a model, ``offline`` means that it gave none, and ``review`` that
            a person decided.
        confidence_score: agreement to expect with the truth on the Cell Ontology, of the label or the best guess, 0 to
            1; without the flags that lower ``confidence``.
        parent_label: the nearest type above the label, or above the best guess, that has markers.
        common_name: the label as biologists write it for short, such as ``CD4 T cell``.
        vocabulary_label: the name that the vocabulary of the run has for the label or for the nearest term above it,
            and ``Unknown or Novel`` as it is; None without a vocabulary, or where it lists no such term.
        opinions: of several sources, where a reference, a column of labels or a consensus was asked for.
        override: the decision of a person, where one replaced the label.
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
    annotator: Literal["offline", "llm", "review"] = "offline"
    common_name: str | None = None
    confidence_score: float | None = None
    parent_label: str | None = None
    opinions: tuple[Opinion, ...] = ()
    override: Override | None = None
    vocabulary_label: str | None = None


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
        n_left_out: cells with such a label, or none.
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
    n_left_out: int = 0
    by_label: tuple[LabelAgreement, ...]


class MarkerDatabaseInfo(_Value):
    """Which marker database was used."""

    name: str
    sha256: str
    n_types: int
    n_markers: int


class VocabularyInfo(_Value):
    """Which vocabulary the labels were also written in.

    Attributes:
        sha256: of the names with their terms, whatever else the file holds.
        n_names: how many there are; several terms may have one.
        names: by Cell Ontology id; a review names what it corrects by them.
    """

    name: str
    sha256: str
    n_names: int
    names: dict[str, str]


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


class RunStats(_Value):
    """What a run took; all else in a report is the same each time.

    Attributes:
        request_id: which request this was, as logs name it.
        seconds: wall time.
        stage_seconds: wall time of each stage: read, rank, annotate, write and the like.
        cache_hits: models' answers from the cache.
        llm_batches: prompts that were sent to models.
        overrides: labels that a reviewer's correction replaced.
        cost: of the models' calls in ``currency``; None where no price is known or no model was asked.
    """

    request_id: str = ""
    seconds: float = 0.0
    stage_seconds: dict[str, float] = Field(default_factory=dict)
    cache_hits: int = 0
    llm_batches: int = 0
    overrides: int = 0
    cost: float | None = None
    currency: str | None = None


class DatasetReport(_Value):
    """All annotations of a data set, with everything that decided them.

    Attributes:
        n_cells: 0 where only lists of markers were given.
        judged_column: of obs, whose labels were judged and not changed; None where the clusters were labelled.
        vocabulary: that names the labels; None where none was asked for.
        opinions: what was heard beside the markers or the model, and whether it was joined.
    """

    annotations: tuple[Annotation, ...]
    n_cells: int
    n_genes: int
    cluster_key: str
    clusters_computed: bool
    judged_column: str | None = None
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
    vocabulary: VocabularyInfo | None = None
    opinions: tuple[str, ...] = ()
    ontology_version: str
    agreement: Agreement | None
    versions: dict[str, str]
    stats: RunStats = Field(default_factory=RunStats)

    @property
    def n_flagged(self) -> int:
        """How many clusters are flagged."""
        return sum(a.status is Status.FLAGGED for a in self.annotations)
