"""What a prediction is expected to show, and how far it shows it."""

from enum import StrEnum

from pydantic import BaseModel, Field, computed_field

from gca_core.knowledge.bundled.catalogue import Direction, ExpectedGene, ExpectedPathway
from gca_core.matrix import MAX_PADJ, MIN_LFC

HALF_PUBLICATIONS = 5.0


class Expectation(BaseModel, frozen=True):
    """What the catalogue expects of a perturbation; never anything measured in the target cells.

    Args:
        targets: genes whose product is switched on (up) or off (down) by the perturbation itself.
        response: genes whose expression is expected to rise or fall.
        pathways: gene sets expected to rise or fall.
        footprints: signalling pathways with footprint genes, expected to rise or fall.
    """

    targets: tuple[ExpectedGene, ...] = ()
    response: tuple[ExpectedGene, ...] = ()
    pathways: tuple[ExpectedPathway, ...] = ()
    footprints: tuple[ExpectedPathway, ...] = ()


class GroundingStatus(StrEnum):
    """``ungroundable``: too little is known to score; that is not a low score."""

    SCORED = "scored"
    UNGROUNDABLE = "ungroundable"


class GroundingComponent(BaseModel, frozen=True):
    """One part of the score: ``value`` in 0..1, or None where nothing is known, which ``detail`` explains.

    ``figures`` are the numbers that it came from.
    """

    name: str
    value: float | None = Field(default=None, ge=0, le=1)
    weight: float = Field(gt=0)
    detail: str = ""
    figures: dict[str, float] = Field(default_factory=dict)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def score(self) -> float | None:
        """The value on the scale of the whole, 1 to 10."""
        return None if self.value is None else round(1.0 + 9.0 * self.value, 6)


class ActionKind(StrEnum):
    """What another prompt should do about the subject of a suggestion.

    ``strengthen``: it is expected and does not move. ``reverse``: it moves the other way. ``sharpen``: it is not
    expected and moves more than what is. ``enlarge``: too few genes change to be judged.
    """

    STRENGTHEN = "strengthen"
    REVERSE = "reverse"
    SHARPEN = "sharpen"
    ENLARGE = "enlarge"


class Suggestion(BaseModel, frozen=True):
    """An action that a next proposal can take.

    Args:
        action: what to do.
        component: the part of the score that asks for it.
        subject: a gene set, footprint or gene; empty for the whole response.
        direction: where the subject is wanted, or for ``sharpen`` where it goes too far.
        detail: the figure behind it.
    """

    action: ActionKind
    component: str
    subject: str = ""
    direction: Direction | None = None
    detail: str = ""


class EnrichedPathway(BaseModel, frozen=True):
    """A gene set that a prediction moves.

    Args:
        name, collection: the set.
        direction: where its genes go.
        size: its measured genes.
        z, padj: of its rank sum among all genes.
        overlap, overlap_padj: its differentially expressed genes of that direction, and Fisher's test of them.
    """

    name: str
    collection: str
    direction: Direction
    size: int
    z: float
    padj: float
    overlap: int
    overlap_padj: float


class RegulatorActivity(BaseModel, frozen=True):
    """A transcription factor whose targets a prediction moves.

    Args:
        name: the factor.
        n_targets: its measured targets.
        t, padj: of the univariate linear model of all genes' changes over its weights; positive where it is active.
    """

    name: str
    n_targets: int
    t: float
    padj: float


class GeneEvidence(BaseModel, frozen=True):
    """What PubMed says of one predicted gene.

    Args:
        gene: its symbol.
        direction: the predicted one.
        publications: that name the gene and the perturbation.
        in_cell_type: those among them that name the cell type.
        supporting, contradicting: those that say near the gene that it goes the predicted, or the other, way.
    """

    gene: str
    direction: Direction
    publications: int = 0
    in_cell_type: int = 0
    supporting: int = 0
    contradicting: int = 0

    @property
    def value(self) -> float:
        """From -1, all say the opposite, over 0, silence, to 1; those of the cell type count twice."""
        told = self.publications + self.in_cell_type
        strength = told / (told + HALF_PUBLICATIONS)
        against = self.contradicting - self.supporting
        if against <= 0:
            return strength
        return max(-1.0, -2.0 * strength * against / (self.contradicting + self.supporting))


class Literature(BaseModel, frozen=True):
    """The evidence by gene, or why there is none, with the number of answers, and of those that came from the cache."""

    evidence: tuple[GeneEvidence, ...] = ()
    reason: str = ""
    answers: int = 0
    answers_cached: int = 0


class GroundingScore(BaseModel, frozen=True):
    """The score from 1 to 10 with its parts; parts that aren't known are left out and named.

    ``de_genes_up`` and ``de_genes_down`` hold the strongest of ``n_de_up`` and ``n_de_down`` genes.
    """

    status: GroundingStatus
    score: float | None = Field(default=None, ge=1, le=10)
    components: tuple[GroundingComponent, ...] = ()
    missing: tuple[str, ...] = ()
    reason: str = ""
    knowledge_version: str = ""
    enriched_pathways: tuple[EnrichedPathway, ...] = ()
    n_de_up: int = 0
    n_de_down: int = 0
    de_genes_up: tuple[str, ...] = ()
    de_genes_down: tuple[str, ...] = ()
    literature_evidence: tuple[GeneEvidence, ...] = ()
    improvement_suggestions: tuple[Suggestion, ...] = ()


class GroundingConfig(BaseModel, frozen=True):
    """Weights of the parts, what counts as differentially expressed, and when a part counts as unknown.

    Args:
        min_lfc, max_padj: of a differentially expressed gene; log2.
        min_set_genes, min_response_genes: measured genes below which a set or the expected genes say nothing.
        max_network_set: largest Reactome set whose genes count as linked.
        top_genes: differentially expressed genes that are listed and whose links are counted.
        literature_genes: strongest genes that PubMed is asked about where it is switched on.
        gmt_uris: further gene sets to look for, as GMT files.
        regulons_uri: targets of transcription factors, whose activity a report then gives; see
            :func:`gca_core.grounding.regulons.read_regulons`.
    """

    pathway_weight: float = Field(default=0.25, gt=0)
    target_weight: float = Field(default=0.30, gt=0)
    network_weight: float = Field(default=0.20, gt=0)
    literature_weight: float = Field(default=0.25, gt=0)
    min_lfc: float = Field(default=MIN_LFC, ge=0)
    max_padj: float = Field(default=MAX_PADJ, gt=0, le=1)
    min_set_genes: int = Field(default=5, ge=2)
    min_response_genes: int = Field(default=3, ge=1)
    max_network_set: int = Field(default=100, ge=5)
    top_genes: int = Field(default=50, ge=5)
    literature_genes: int = Field(default=10, ge=1)
    gmt_uris: tuple[str, ...] = ()
    regulons_uri: str | None = None
