"""The HTML report and its figure."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gca_core.haystack.models import Baseline, CandidateEvaluation, HaystackOutputs, HaystackRun, ReferenceResponse
from gca_core.matrix.differential import DifferentialExpression
from gca_core.pages import base64_text, render_template

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
    image: bytes,
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
        image=base64_text(image),
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


def draw_figure(run: HaystackRun, best: CandidateEvaluation) -> bytes:
    """PNG: the 50 largest predicted changes, and the score of every candidate by iteration."""
    figure = Figure(figsize=(11, 7.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{run.query.cell_type} under {run.query.perturbation}", fontsize=11)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1))
    half = (len(best.top_genes) + 1) // 2
    changes = [gene.change for gene in best.top_genes] or [1.0]
    low, high = min(0.0, *changes), max(0.0, *changes)
    for axes, genes, first in ((left, best.top_genes[:half], 1), (middle, best.top_genes[half:], half + 1)):
        places = range(len(genes))
        axes.barh(places, [g.change for g in genes], color=[UP if g.change > 0 else DOWN for g in genes])
        axes.set_yticks(places, [g.gene for g in genes], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(low * 1.05, high * 1.05)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_xlabel("predicted change of mean log1p(CP10k)", fontsize=8)
        axes.set_title(f"genes {first} to {first + len(genes) - 1} by effect size", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    _draw_scores(right, run, best)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_scores(axes: Any, run: HaystackRun, best: CandidateEvaluation) -> None:
    for record in run.iterations:
        for evaluation in record.evaluations:
            if evaluation.score is not None:
                chosen = evaluation.candidate.candidate_id == best.candidate.candidate_id
                axes.scatter(
                    record.iteration,
                    evaluation.score,
                    color=CHOSEN if chosen else OTHER,
                    s=70 if chosen else 30,
                    zorder=3 if chosen else 2,
                )
    axes.axhline(run.config.score_threshold, color="black", linestyle="--", linewidth=0.8)
    axes.text(
        0.99,
        run.config.score_threshold,
        "threshold",
        fontsize=7,
        ha="right",
        va="bottom",
        transform=axes.get_yaxis_transform(),
    )
    axes.set_ylim(1, 10)
    axes.set_xlim(-0.5, max(len(run.iterations) - 0.5, 0.5))
    axes.set_xticks(range(len(run.iterations)))
    axes.set_xlabel("iteration", fontsize=8)
    axes.set_ylabel("grounding score", fontsize=8)
    axes.set_title("candidates by iteration; green: chosen", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
