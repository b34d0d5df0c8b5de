"""The grounding score: how well a predicted response agrees with what is known, from 1 to 10."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core.errors import EvaluationError
from gca_core.grounding.components import (
    Response,
    direction_of,
    literature_component,
    network_component,
    pathway_component,
    target_component,
)
from gca_core.grounding.enrichment import bundled_sets, enrichment_table
from gca_core.grounding.knowledge import GroundingKnowledge
from gca_core.grounding.literature import OFF
from gca_core.grounding.models import (
    ActionKind,
    EnrichedPathway,
    Expectation,
    GroundingComponent,
    GroundingConfig,
    GroundingScore,
    GroundingStatus,
    Literature,
    Suggestion,
)
from gca_core.matrix.differential import DifferentialExpression

MIN_KNOWN = 2
ANCHORS = frozenset({"pathway", "target"})
# enriched sets of each collection that a score lists
LISTED = 5


def score_response(
    found: DifferentialExpression,
    expectation: Expectation,
    knowledge: GroundingKnowledge,
    config: GroundingConfig | None = None,
    literature: Literature | None = None,
) -> GroundingScore:
    """Score a predicted response, and say what is in it: its genes, its gene sets, and what another should change.

    Args:
        found: the predicted cells against their control.
        expectation: what the catalogue expects.
        knowledge: gene sets, footprints and networks.
        config: weights and sizes.
        literature: what publications say; None where nobody was asked.

    Raises:
        EvaluationError: fewer than two genes, or repeated ones.
        DataValidationError: a GMT file of the config is missing or is none.
    """
    config = config or GroundingConfig()
    score = _score(found.lfc, found.genes, found.is_de, expectation, knowledge, config, literature)
    up, down = found.strongest("up"), found.strongest("down")
    table = enriched_sets(found, config)
    suggestions = score.improvement_suggestions
    if len(up) + len(down) < config.min_set_genes:
        few = f"{len(up) + len(down)} genes are differentially expressed"
        suggestions = (*suggestions, Suggestion(action=ActionKind.ENLARGE, component="network", detail=few))
    return score.model_copy(
        update={
            "enriched_pathways": tuple(_enriched(row) for row in table.groupby("collection").head(LISTED).itertuples()),
            "n_de_up": len(up),
            "n_de_down": len(down),
            "de_genes_up": tuple(up[: config.top_genes]),
            "de_genes_down": tuple(down[: config.top_genes]),
            "literature_evidence": literature.evidence if literature else (),
            "improvement_suggestions": suggestions,
        }
    )


def enriched_sets(found: DifferentialExpression, config: GroundingConfig) -> pd.DataFrame:
    """The sets that either test finds, as :func:`~gca_core.grounding.enrichment.enrichment_table` gives them.

    Raises:
        DataValidationError: a GMT file of the config is missing or is none.
    """
    # a gene without any change is in no cell, or was not predicted
    table = enrichment_table(bundled_sets(found.genes, config.gmt_uris), found.lfc, found.is_de, found.lfc != 0)
    kept = table[["padj", "padj_up", "padj_down"]].min(axis=1) <= config.max_padj
    return table[kept].reset_index(drop=True)


def score_prediction(
    lfc: npt.ArrayLike,
    genes: Sequence[str],
    expectation: Expectation,
    knowledge: GroundingKnowledge,
    config: GroundingConfig | None = None,
) -> GroundingScore:
    """Score a response of which only the changes are known, such as a mean of groups.

    The score is 1 + 9 m with m the weighted mean of the parts that are known. Unknown parts are left out
    and named in ``missing``. With fewer than two known parts, or neither pathway nor target known, the
    answer is ``ungroundable`` and has no score. No measured response of the target cells is looked at.

    Args:
        lfc: (n_genes,) predicted change of mean log1p(CP10k) against the control.
        genes: the gene symbols.
        expectation: what the catalogue expects.
        knowledge: gene sets, footprints and networks.
        config: weights and sizes; without cells to test, the effect alone says what is differentially expressed.

    Raises:
        EvaluationError: lengths differ, fewer than two genes, repeated genes, or values that aren't finite.
    """
    config = config or GroundingConfig()
    changes = np.asarray(lfc, dtype=np.float64).ravel() / np.log(2.0)
    return _score(changes, genes, np.abs(changes) >= config.min_lfc, expectation, knowledge, config, None)


def _score(
    lfc: npt.NDArray[np.float64],
    genes: Sequence[str],
    is_de: npt.NDArray[np.bool_],
    expectation: Expectation,
    knowledge: GroundingKnowledge,
    config: GroundingConfig,
    literature: Literature | None,
) -> GroundingScore:
    _check(lfc, genes)
    response = Response.of(lfc, genes, is_de)
    judged = (
        pathway_component(response, expectation, knowledge, config),
        target_component(response, expectation, knowledge, config),
        literature_component(literature or Literature(reason=OFF), config),
        network_component(response, expectation, knowledge, config),
    )
    score = combine([part for part, _ in judged], knowledge_version=knowledge.version)
    return score.model_copy(update={"improvement_suggestions": tuple(s for _, asked in judged for s in asked)})


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


def _enriched(row: Any) -> EnrichedPathway:
    direction = direction_of(row.z)
    return EnrichedPathway(
        name=row.name,
        collection=row.collection,
        direction=direction,
        size=row.size,
        z=round(row.z, 3),
        padj=float(f"{row.padj:.3g}"),
        overlap=getattr(row, f"overlap_{direction}"),
        overlap_padj=float(f"{getattr(row, f'padj_{direction}'):.3g}"),
    )


def _check(lfc: npt.NDArray[np.float64], genes: Sequence[str]) -> None:
    if len(lfc) != len(genes) or len(lfc) < 2:
        raise EvaluationError(f"expected a change for each of at least 2 genes; found {len(lfc)} and {len(genes)}")
    if not np.isfinite(lfc).all():
        raise EvaluationError("the predicted changes hold NaN or infinite values; the prediction is not usable")
    if len(set(genes)) != len(genes):
        raise EvaluationError("gene symbols are repeated; make them unique first")
