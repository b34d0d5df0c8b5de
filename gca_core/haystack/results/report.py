"""The HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gca_core.haystack.models import Baseline, CandidateEvaluation, HaystackOutputs, HaystackRun, ReferenceResponse
from gca_core.matrix.differential import DifferentialExpression
from gca_core.pages import render_template

UP, DOWN, CHOSEN, OTHER = "#b2452f", "#2f6db2", "#1b7f5c", "#9aa3ab"
# points of the volcano, and the -log10 p beyond which all are drawn alike
MAX_CHANGED, MAX_OTHERS, MAX_HEIGHT = 300, 500, 50.0


class VolcanoPoint(NamedTuple):
    """A gene: ``x`` from -1 to 1 by log2 fold change, ``y`` from 0 to 1 by -log10 p."""

    x: float
    y: float
    gene: str
    lfc: float
    colour: str


def render_report(
    run: HaystackRun,
    best: CandidateEvaluation | None,
    outputs: HaystackOutputs,
    detail: str,
    baseline: Baseline,
    reference: ReferenceResponse,
    volcano: Sequence[VolcanoPoint] = (),
) -> str:
    """A self-contained page; every text from data is escaped."""
    return render_template(
        "gca_core.haystack",
        "report.html.j2",
        run=run,
        query=run.query,
        best=best,
        outputs=outputs,
        detail=detail,
        baseline=baseline,
        reference=reference,
        volcano=volcano,
    )


def volcano_points(found: DifferentialExpression) -> list[VolcanoPoint]:
    """Some of the genes that do not change, evenly by effect, then the strongest of those that do."""
    heights = np.minimum(-np.log10(np.maximum(found.pvalue, 1e-300)), MAX_HEIGHT)
    order = np.argsort(np.abs(found.lfc), kind="stable")
    changed, others = order[found.is_de[order]][-MAX_CHANGED:], order[~found.is_de[order]]
    others = others[:: max(1, len(others) // MAX_OTHERS)]
    scale = float(np.abs(found.lfc).max()) or 1.0
    return [
        VolcanoPoint(
            x=round(float(found.lfc[i]) / scale, 4),
            y=round(float(heights[i]) / MAX_HEIGHT, 4),
            gene=found.genes[i],
            lfc=round(float(found.lfc[i]), 3),
            colour=OTHER if not found.is_de[i] else UP if found.lfc[i] > 0 else DOWN,
        )
        for i in (*others, *changed)
    ]
