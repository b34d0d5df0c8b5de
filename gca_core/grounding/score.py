"""The grounding score: how well a predicted response agrees with what is known, from 1 to 10."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gca_core.errors import EvaluationError
from gca_core.grounding.components import (
    Response,
    literature_component,
    network_component,
    pathway_component,
    target_component,
)
from gca_core.grounding.knowledge import GroundingKnowledge
from gca_core.grounding.models import (
    Expectation,
    GroundingComponent,
    GroundingConfig,
    GroundingScore,
    GroundingStatus,
)

MIN_KNOWN = 2
ANCHORS = frozenset({"pathway", "target"})


def score_prediction(
    lfc: npt.ArrayLike,
    genes: Sequence[str],
    expectation: Expectation,
    knowledge: GroundingKnowledge,
    config: GroundingConfig | None = None,
) -> GroundingScore:
    """Score a predicted response against what the catalogue expects of the perturbation.

    The score is 1 + 9 m with m the weighted mean of the parts that are known. Unknown parts are left out
    and named in ``missing``. With fewer than two known parts, or neither pathway nor target known, the
    answer is ``ungroundable`` and has no score. No measured response of the target cells is looked at.

    Args:
        lfc: (n_genes,) predicted change of mean log1p(CP10k) against the control.
        genes: the gene symbols.
        expectation: what the catalogue expects.
        knowledge: gene sets, footprints and networks.
        config: weights and sizes.

    Raises:
        EvaluationError: lengths differ, fewer than two genes, repeated genes, or values that aren't finite.
    """
    config = config or GroundingConfig()
    changes = _checked(lfc, genes)
    response = Response.of(changes, genes)
    parts = (
        pathway_component(response, expectation, knowledge, config),
        target_component(response, expectation, knowledge, config),
        network_component(response, expectation, knowledge, config),
        literature_component(config),
    )
    return combine(parts, knowledge_version=knowledge.version)


def combine(parts: Sequence[GroundingComponent], *, knowledge_version: str = "") -> GroundingScore:
    """The score of some parts, of which unknown ones are left out."""
    known = [(part.weight, part.value) for part in parts if part.value is not None]
    names = {part.name for part in parts if part.value is not None}
    missing = tuple(part.name for part in parts if part.value is None)
    common = {"components": tuple(parts), "missing": missing, "knowledge_version": knowledge_version}
    if len(known) < MIN_KNOWN or not names & ANCHORS:
        reason = (
            f"only {', '.join(sorted(names)) or 'nothing'} is known of this perturbation; a score needs two parts, "
            "one of them pathway or target"
        )
        return GroundingScore(status=GroundingStatus.UNGROUNDABLE, reason=reason, **common)
    mean = sum(weight * value for weight, value in known) / sum(weight for weight, _ in known)
    return GroundingScore(status=GroundingStatus.SCORED, score=round(1.0 + 9.0 * mean, 6), **common)


def _checked(lfc: npt.ArrayLike, genes: Sequence[str]) -> npt.NDArray[np.float64]:
    changes = np.asarray(lfc, dtype=np.float64).ravel()
    if len(changes) != len(genes) or len(changes) < 2:
        raise EvaluationError(f"expected a change for each of at least 2 genes; found {len(changes)} and {len(genes)}")
    if not np.isfinite(changes).all():
        raise EvaluationError("the predicted changes hold NaN or infinite values; the prediction is not usable")
    if len(set(genes)) != len(genes):
        raise EvaluationError("gene symbols are repeated; make them unique first")
    return changes
