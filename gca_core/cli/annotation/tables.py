"""What the commands that label clusters print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from gca_core.annotation.models import DatasetReport, ModelStats
    from gca_core.annotation.run import AnnotationResult


def print_result(result: AnnotationResult) -> None:
    """Labels with their cells, then what ran, how far it agrees with known labels, and where the results are."""
    console = Console()
    table = Table("label", "cells")
    for label, cells in result.labels.items():
        table.add_row(Text(label), f"{cells:,}")
    console.print(table)
    lines = [
        f"{result.n_clusters} clusters, {result.n_flagged} flagged; {result.n_cells:,} cells; {result.seconds:.1f} s",
        annotator_line(result.model, result.model_stats),
    ]
    if result.agreement is not None:
        a = result.agreement
        lines.append(
            f"agreement with {a.column} on the Cell Ontology: {100 * a.related:.1f} % of cells "
            f"({100 * a.exact:.1f} % exactly, {100 * a.close:.1f} % within two steps), "
            f"{100 * a.clusters_related:.1f} % of clusters"
        )
        if a.n_left_out:
            named = f", as no names of the Cell Ontology: {', '.join(a.unresolved)}" if a.unresolved else ""
            lines.append(f"left out of it: {a.n_left_out:,} cells{named}")
    lines += [f"{what}: {uri}" for what, uri in result.uris.items()]
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def print_judgement(result: AnnotationResult, report: DatasetReport) -> None:
    """Each group's label with its status, why it is flagged and what fits better, then where the results are."""
    console = Console()
    table = Table("group", "label", "confidence", "status", "flags", "better")
    for a in report.annotations:
        colour = "red" if a.flag_reasons else "green"
        flags = ", ".join(a.flag_reasons)
        cells = (a.cluster, a.primary_label, a.confidence.value)
        table.add_row(*map(Text, cells), Text(a.status.value, style=colour), Text(flags), Text(a.proposed_label or ""))
    console.print(table)
    lines = [
        f"{result.n_clusters} labels judged, {result.n_flagged} flagged; {result.n_cells:,} cells; "
        f"{result.seconds:.1f} s; none was changed",
        *(f"{what}: {uri}" for what, uri in result.uris.items()),
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def annotator_line(model: str | None, stats: ModelStats | None) -> str:
    """What labelled the clusters, and what it took."""
    if stats is None:
        return "labelled offline, by marker evidence; no model was called"
    spent = stats.usage
    tokens = f"{spent.input_tokens + spent.output_tokens:,} tokens"
    cost = "" if spent.cost is None else f", {spent.cost:.4f} {spent.currency}"
    return (
        f"labelled by {model}: {stats.llm_batches} prompts, {stats.cache_hits} answers from the cache, "
        f"{stats.fallbacks} clusters labelled offline instead; {tokens}{cost}"
    )
