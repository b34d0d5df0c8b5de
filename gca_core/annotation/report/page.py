"""The annotation report: one self-contained HTML page, and a CSV with a row per cluster."""

import csv
from collections import Counter
from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

from gca_core.annotation.markers.delimited import safe_cell
from gca_core.annotation.models import UNKNOWN, Annotation, DatasetReport, FlagReason, Status
from gca_core.annotation.report.dot_plot import MAX_CLUSTERS
from gca_core.annotation.report.palette import label_colours, shown_label
from gca_core.annotation.report.words import flag_advice, flag_name, opinion_words
from gca_core.pages import base64_text, render_page

Cell = str | float | None
CSV_COLUMNS: dict[str, Callable[[Annotation], Cell]] = {
    "cluster": lambda a: a.cluster,
    "n_cells": lambda a: a.n_cells,
    "label": lambda a: a.primary_label,
    "ontology_id": lambda a: a.ontology_id or "",
    "confidence": lambda a: a.confidence.value,
    "status": lambda a: a.status.value,
    "flag_reasons": lambda a: "; ".join(a.flag_reasons),
    "proposed_label": lambda a: a.proposed_label or "",
    "score": lambda a: a.evidence.score,
    "margin": lambda a: a.evidence.margin,
    "supporting_markers": lambda a: "; ".join(g.gene for g in a.evidence.supporting),
    "contradicting_markers": lambda a: "; ".join(g.gene for g in a.evidence.contradicting),
    "missing_markers": lambda a: "; ".join(a.evidence.missing),
    "alternatives": lambda a: "; ".join(f"{x.label} ({x.score:.2f})" for x in a.alternatives),
    "caveats": lambda a: "; ".join(a.caveats),
    "rationale": lambda a: a.rationale,
    "common_name": lambda a: a.common_name or "",
    "reviewed_by": lambda a: "" if a.override is None else a.override.who,
    "reviewed_at": lambda a: "" if a.override is None else a.override.when,
    "replaced_label": lambda a: "" if a.override is None else a.override.replaced,
    "review_note": lambda a: "" if a.override is None else a.override.note,
    "vocabulary_label": lambda a: a.vocabulary_label or "",
    "opinions": lambda a: "; ".join(opinion_words(o) for o in a.opinions),
}


def render_html(report: DatasetReport, figures: Mapping[str, bytes], *, title: str) -> str:
    """The page; all text from data is escaped, nothing is loaded from elsewhere.

    Args:
        report: with or without cells.
        figures: PNGs named ``label``, ``confidence`` and ``dotplot``, as
            :func:`gca_core.annotation.report.umap_figure.report_figures` makes them; missing ones are left out.
        title: of the page.
    """
    return render_page(
        "gca_core.annotation",
        "report.html.j2",
        title=title,
        report=report,
        pictures={name: base64_text(png) for name, png in figures.items()},
        colours=label_colours(report.annotations),
        composition=_composition(report),
        levels=Counter(a.confidence.value for a in report.annotations),
        reviewed=[a for a in report.annotations if a.override is not None],
        flags=_flags(report),
        max_clusters=MAX_CLUSTERS,
        unnamed="label" in figures,
        shown_label=shown_label,
        flag_name=flag_name,
        flag_advice=flag_advice,
        opinion_words=opinion_words,
    )


def _composition(report: DatasetReport) -> list[dict[str, Any]]:
    """Labels with their clusters and cells, the commonest first and unknown last."""
    colours = label_colours(report.annotations)
    groups: dict[str, list[Annotation]] = {}
    for a in report.annotations:
        groups.setdefault(shown_label(a), []).append(a)
    cells = {label: sum(a.n_cells or 0 for a in members) for label, members in groups.items()}
    total = max(sum(cells.values()), 1)
    order = sorted(groups, key=lambda label: (label == UNKNOWN, -cells[label], -len(groups[label])))
    return [
        {
            "label": label,
            "full": "; ".join(dict.fromkeys(a.primary_label for a in groups[label])),
            "unknown": label == UNKNOWN,
            "clusters": len(groups[label]),
            "cells": cells[label],
            "share": cells[label] / total,
            "colour": colours[label],
        }
        for label in order
    ]


def _flags(report: DatasetReport) -> list[dict[str, Any]]:
    """The flags that stand, in plain words, with their clusters."""
    found: dict[FlagReason, list[str]] = {}
    for a in report.annotations:
        if a.status is Status.FLAGGED:
            for reason in a.flag_reasons:
                found.setdefault(reason, []).append(a.cluster)
    return [
        {"name": flag_name(reason), "advice": flag_advice(reason), "clusters": found[reason]}
        for reason in FlagReason
        if reason in found
    ]


def render_csv(report: DatasetReport) -> str:
    """A row per cluster, in cluster order; lists are joined by semicolons."""
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for a in report.annotations:
        cells = [value(a) for value in CSV_COLUMNS.values()]
        writer.writerow([safe_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    return buffer.getvalue()
