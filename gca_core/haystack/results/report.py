"""The HTML report and its figure."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gca_core.haystack.models import Baseline, CandidateEvaluation, HaystackOutputs, HaystackRun, ReferenceResponse
from gca_core.pages import base64_text, render_template

UP, DOWN, CHOSEN, OTHER = "#b2452f", "#2f6db2", "#1b7f5c", "#9aa3ab"


def render_report(
    run: HaystackRun,
    best: CandidateEvaluation | None,
    outputs: HaystackOutputs,
    detail: str,
    baseline: Baseline,
    reference: ReferenceResponse,
    image: bytes,
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
    )


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
