"""The report of a run, as a page and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gca_core.grounding.components import Link
from gca_core.grounding.models import RegulatorActivity
from gca_core.haystack.decide import STOPPED
from gca_core.haystack.models import (
    Baseline,
    CandidateEvaluation,
    GeneChange,
    HaystackOutputs,
    HaystackRun,
    ReferenceResponse,
)
from gca_core.haystack.results.pictures import gene_rows, network_picture, score_panels, volcano_points
from gca_core.haystack.results.words import caveats, choice, fates, headline
from gca_core.matrix.differential import DifferentialExpression
from gca_core.pages import render_markdown, render_page

LISTED_LINKS, LISTED_FACTORS = 10, 20


@dataclass(frozen=True)
class Findings:
    """All that a report tells of.

    Attributes:
        run: with all its iterations.
        best: the evaluation whose prediction was taken.
        outputs: where the results lie, and the figures.
        stopped: why the run stopped, in words.
        baseline, reference: what stands beside the prediction.
        found: the predicted against the control cells; None without a prediction.
        links: of the network, strongest first.
        regulators: activity of transcription factors, most significant first; empty where no table is configured.
    """

    run: HaystackRun
    best: CandidateEvaluation | None
    outputs: HaystackOutputs
    stopped: str
    baseline: Baseline
    reference: ReferenceResponse
    found: DifferentialExpression | None = None
    links: Sequence[Link] = ()
    regulators: Sequence[RegulatorActivity] = ()


def render_report(findings: Findings) -> str:
    """A self-contained page; every text from data is escaped."""
    f = findings
    measured = f.run.measured.top_genes if f.run.measured else ()
    answers = {
        "prediction": (f.best.top_genes if f.best else (), "prediction"),
        "measured": (measured, "measured"),
        "the atlas's own estimate": (f.reference.top_genes, "estimate"),
        "mean shift": (f.baseline.top_genes, "shift"),
    }
    answers = {name: answer for name, answer in answers.items() if answer[0]}
    rows, zero = gene_rows({name: _changes(genes) for name, (genes, _) in answers.items()})
    targets = [target.gene for target in f.run.query.expectation.targets]
    lfc = dict(zip(f.found.genes, f.found.lfc.tolist(), strict=True)) if f.found else {}
    nodes, edges = network_picture(f.links, lfc, targets)
    return render_page(
        "gca_core.haystack",
        "report.html.j2",
        **_texts(f),
        panels=score_panels(f.run, f.best) if f.best else [],
        volcano=volcano_points(f.found) if f.found else [],
        nodes=nodes,
        edges=edges,
        gene_rows=rows,
        zero=zero,
        answers={name: mark for name, (_, mark) in answers.items()},
    )


def render_report_markdown(findings: Findings) -> str:
    """The same as Markdown: what the page draws is listed."""
    return render_markdown("gca_core.haystack", "report.md.j2", **_texts(findings), listed=_listed)


def _texts(f: Findings) -> dict[str, Any]:
    kind = f.outputs.verdict
    return {
        "title": f.run.query.question,
        "run": f.run,
        "query": f.run.query,
        "best": f.best,
        "outputs": f.outputs,
        "stopped": f"{STOPPED[f.outputs.termination_reason]} ({f.stopped})",
        "baseline": f.baseline,
        "reference": f.reference,
        "verdict": kind.value,
        "headline": headline(kind, f.run.query.perturbation),
        "choice": choice(f.reference.selection, f.run.config.score_threshold) if f.reference.selection else [],
        "fates": fates(f.run, f.best),
        "caveats": caveats(f.run, f.outputs, f.baseline, f.reference),
        "n_cached": sum(evaluation.cached for evaluation in f.run.evaluations()),
        "n_answers": sum(evaluation.literature_answers for evaluation in f.run.evaluations()),
        "n_answers_cached": sum(evaluation.literature_cached for evaluation in f.run.evaluations()),
        "links": f.links[:LISTED_LINKS],
        "n_links": len(f.links),
        "regulators": f.regulators[:LISTED_FACTORS],
        "n_regulators": len(f.regulators),
    }


def _listed(genes: Sequence[GeneChange], k: int) -> str:
    return ", ".join(f"{gene.gene} {gene.change:+.2f}" for gene in genes[:k])


def _changes(genes: Sequence[GeneChange]) -> Mapping[str, float]:
    return {gene.gene: gene.change for gene in genes}
