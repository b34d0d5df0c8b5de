"""The annotation report: one self-contained HTML page, and a CSV with a row per cluster."""

from __future__ import annotations

import base64
import csv
from io import StringIO

import jinja2

from gca_core.annotation.models import DatasetReport

CSV_COLUMNS = (
    "cluster",
    "n_cells",
    "label",
    "ontology_id",
    "confidence",
    "status",
    "flag_reasons",
    "proposed_label",
    "score",
    "margin",
    "supporting_markers",
    "contradicting_markers",
    "missing_markers",
    "alternatives",
    "caveats",
    "rationale",
)


def render_html(report: DatasetReport, figure_png: bytes, *, title: str) -> str:
    """The page; all text from data is escaped, nothing is loaded from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gca_core.annotation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    picture = base64.b64encode(figure_png).decode("ascii")
    return environment.get_template("report.html.j2").render(report=report, title=title, picture=picture)


def render_csv(report: DatasetReport) -> str:
    """A row per cluster, in cluster order; lists are joined by semicolons."""
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for a in report.annotations:
        e = a.evidence
        writer.writerow(
            (
                _safe_cell(a.cluster),
                a.n_cells,
                a.primary_label,
                a.ontology_id or "",
                a.confidence.value,
                a.status.value,
                "; ".join(a.flag_reasons),
                a.proposed_label or "",
                e.score,
                e.margin,
                "; ".join(g.gene for g in e.supporting),
                "; ".join(g.gene for g in e.contradicting),
                "; ".join(e.missing),
                "; ".join(f"{x.label} ({x.score:.2f})" for x in a.alternatives),
                "; ".join(a.caveats),
                a.rationale,
            )
        )
    return buffer.getvalue()


def _safe_cell(text: str) -> str:
    """Text from data, marked as text where a spreadsheet would take it for a formula."""
    return f"'{text}" if text[:1] in {"=", "+", "@", "\t", "\r"} else text
