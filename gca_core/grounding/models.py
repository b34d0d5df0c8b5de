"""What a prediction is expected to show, and how far it shows it."""

from enum import StrEnum

from pydantic import BaseModel, Field

from gca_core.knowledge.bundled.catalogue import ExpectedGene, ExpectedPathway


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
    """One part of the score: ``value`` in 0..1, or None where nothing is known."""

    name: str
    value: float | None = Field(default=None, ge=0, le=1)
    weight: float = Field(gt=0)
    detail: str = ""
    figures: dict[str, float] = Field(default_factory=dict)


class GroundingScore(BaseModel, frozen=True):
    """The score from 1 to 10 with its parts; parts that aren't known are left out and named."""

    status: GroundingStatus
    score: float | None = Field(default=None, ge=1, le=10)
    components: tuple[GroundingComponent, ...] = ()
    missing: tuple[str, ...] = ()
    reason: str = ""
    knowledge_version: str = ""


class GroundingConfig(BaseModel, frozen=True):
    """Weights of the parts and the sizes below which a part counts as unknown."""

    pathway_weight: float = Field(default=0.35, gt=0)
    target_weight: float = Field(default=0.30, gt=0)
    network_weight: float = Field(default=0.20, gt=0)
    literature_weight: float = Field(default=0.15, gt=0)
    min_set_genes: int = Field(default=5, ge=2)
    min_response_genes: int = Field(default=3, ge=1)
    max_network_set: int = Field(default=100, ge=5)
    top_genes: int = Field(default=50, ge=5)
