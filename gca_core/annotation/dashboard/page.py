"""What the dashboard shows, and how a decision goes from it into the results.

Streamlit reads Markdown in most of its texts. So whatever comes from data goes into ``text``, a table, the choices of a
select box or the chart, which read none; all else is written here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from gca_core.annotation.adata.files import open_data
from gca_core.annotation.models import Annotation, GeneEvidence, Status
from gca_core.annotation.report.drawn_cells import MAX_DRAWN, chosen_cells
from gca_core.annotation.report.palette import (
    CONFIDENCE_COLOURS,
    NO_LABEL,
    label_colours,
    shown_confidence,
    shown_label,
)
from gca_core.annotation.report.umap_figure import cluster_codes
from gca_core.annotation.report.uns_record import kept_drawn
from gca_core.annotation.report.words import flag_advice, flag_name, opinion_words
from gca_core.annotation.review.apply import annotated_file
from gca_core.annotation.review.form import ClusterAnswer, ClusterQuestion, apply_answers, cluster_question
from gca_core.annotation.review.queue import Entry, Run, single_run
from gca_core.config import require
from gca_core.errors import GcaError
from gca_core.io import content_hash

if TYPE_CHECKING:
    from gca_core.annotation.models import DatasetReport

N_MARKERS = 30
COLOURS = ("label", "confidence")


def show(where: str, who: str) -> None:
    """Draw the page; Streamlit calls this again after each click.

    Args:
        where: as for :func:`gca_core.annotation.review.queue.single_run`.
        who: the reviewer's name that the form begins with.
    """
    st: Any = require("streamlit", "ui")
    st.set_page_config(page_title="Cell types", layout="wide")
    st.title("Cell types")
    try:
        run = single_run(where)
        cells = _cells(st, run)
    except (GcaError, OSError) as error:
        st.error("The results can't be shown:")
        st.text(str(error))
        return
    _say(st)
    _head(st, run)
    annotations = run.report.annotations
    first = next((i for i, a in enumerate(annotations) if a.status is Status.FLAGGED), 0)
    beside, details = st.columns([3, 2])
    with details:
        place = st.selectbox(
            "Cluster", range(len(annotations)), index=first, format_func=lambda i: _name(annotations[i]), key="cluster"
        )
        if place is not None:
            _words(st, annotations[place])
            _form(st, run, annotations[place], where, who)
            _tables(st, annotations[place])
    with beside:
        if cells is not None:
            _umap(st, cells, run.report, place)
        st.dataframe(_table(annotations), hide_index=True)


def _head(st: Any, run: Run) -> None:
    report = run.report
    counts = {"clusters": len(report.annotations), "flagged": report.n_flagged, "cells": report.n_cells}
    decided = sum(a.override is not None for a in report.annotations)
    for column, (name, n) in zip(st.columns(4), {**counts, "decided by people": decided}.items(), strict=True):
        column.metric(name, f"{n:,}")
    st.text(run.folder)
    st.text(f"annotator: {report.model or report.annotator}; marker database: {report.marker_database.name}")


def _name(annotation: Annotation) -> str:
    flag = " (flagged)" if annotation.status is Status.FLAGGED else ""
    return f"{annotation.cluster}: {annotation.primary_label}{flag}"


def _table(annotations: Sequence[Annotation]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cluster": a.cluster,
            "label": a.primary_label,
            "id": a.ontology_id,
            "cells": a.n_cells,
            "confidence": shown_confidence(a),
            "flags": ", ".join(flag_name(reason) for reason in a.flag_reasons),
            "decided by": "" if a.override is None else a.override.who,
        }
        for a in annotations
    )


def _cells(st: Any, run: Run) -> pd.DataFrame | None:
    """Where the cells are drawn, and which annotation is theirs; read when the report is another than before."""
    state = content_hash(run.report.model_dump(mode="json"))
    if st.session_state.get("report") != state:
        st.session_state["cells"] = _read_cells(run)
        st.session_state["report"] = state
    found: pd.DataFrame | None = st.session_state["cells"]
    return found


def _read_cells(run: Run) -> pd.DataFrame | None:
    path = annotated_file(run)
    if path is None:
        return None
    with open_data(path, backed=True) as data:
        drawn = kept_drawn(data.adata)
        if drawn is None:
            return None
        codes = pd.Series(cluster_codes(drawn.of(data.adata), run.report))
    cells = pd.DataFrame({"x": drawn.coordinates[:, 0], "y": drawn.coordinates[:, 1], "annotation": codes})
    return cells if len(cells) <= MAX_DRAWN else cells.iloc[chosen_cells(codes.astype("category"), run.report.seed)]


def _umap(st: Any, cells: pd.DataFrame, report: DatasetReport, place: int | None) -> None:
    alt: Any = require("altair", "ui")
    by = st.selectbox("Colour by", COLOURS, key="colour")
    shown = {"label": shown_label, "confidence": shown_confidence}
    colours = {"label": label_colours(report.annotations), "confidence": CONFIDENCE_COLOURS}[by]
    words = {name: [*map(of, report.annotations), NO_LABEL] for name, of in shown.items()}
    names = [*(a.cluster for a in report.annotations), ""]
    frame = cells.assign(
        **{name: [values[i] for i in cells["annotation"]] for name, values in {**words, "cluster": names}.items()},
        chosen=cells["annotation"] == place,
    )
    plain = {"axis": alt.Axis(ticks=False, labels=False, grid=False), "scale": alt.Scale(zero=False, padding=10)}
    seen = [name for name in colours if name in set(frame[by])]
    st.altair_chart(
        alt.Chart(frame)
        .mark_circle()
        .encode(
            x=alt.X("x:Q", title="UMAP 1", **plain),
            y=alt.Y("y:Q", title="UMAP 2", **plain),
            color=alt.Color(
                f"{by}:N",
                scale=alt.Scale(domain=seen, range=[colours[name] for name in seen]),
                legend=alt.Legend(title=None, orient="bottom", columns=2, labelLimit=300),
            ),
            # the cluster that was chosen stands out
            size=alt.condition("datum.chosen", alt.value(40), alt.value(12)),
            opacity=alt.condition("datum.chosen", alt.value(1.0), alt.value(0.5)),
            tooltip=["cluster:N", "label:N", "confidence:N"],
        )
        .properties(height=520)
    )


def _words(st: Any, a: Annotation) -> None:
    facts = {
        "label": f"{a.primary_label} {a.ontology_id or ''}",
        "the annotator's word": a.proposed_label,
        "why": a.rationale,
        "caveats": "\n".join(a.caveats),
        "flags": "\n".join(f"{flag_name(reason)}: {flag_advice(reason)}" for reason in a.flag_reasons),
        "opinions": "\n".join(map(opinion_words, a.opinions)),
        "measured and absent": ", ".join(a.evidence.missing),
        "top markers": ", ".join(a.markers[:N_MARKERS]),
        "note": "" if a.override is None else a.override.note,
    }
    for name, text in facts.items():
        if text:
            st.caption(name)
            st.text(text)


def _tables(st: Any, a: Annotation) -> None:
    st.caption("evidence for and against")
    st.dataframe(_evidence(a.evidence.supporting, a.evidence.contradicting), hide_index=True)
    if a.alternatives:
        st.caption("alternatives")
        st.dataframe(pd.DataFrame([x.model_dump() for x in a.alternatives]), hide_index=True)


def _evidence(*genes: Sequence[GeneEvidence]) -> pd.DataFrame:
    rows = [gene.model_dump() for found in genes for gene in found]
    return pd.DataFrame(rows, columns=list(GeneEvidence.model_fields))


def _form(st: Any, run: Run, annotation: Annotation, where: str, who: str) -> None:
    question = cluster_question(Entry(run, annotation))
    with st.form("decision"):
        st.text_input(
            "Label",
            key=f"label {question.key}",
            help="A name or id of the Cell Ontology, or Unknown or Novel; the present label again confirms it.",
        )
        st.text_input("Why", key=f"reason {question.key}")
        st.text_input("Who decides", value=who, key="who")
        # the question goes along as it was shown, so that a decision on what has changed since is refused
        st.form_submit_button("Write it into the results", on_click=_decide, args=(st, question, where))


def _decide(st: Any, question: ClusterQuestion, where: str) -> None:
    """Take in the form; what came of it is said on the page that follows."""
    given = {name: str(st.session_state[f"{name} {question.key}"]) for name in ("label", "reason")}
    answer = ClusterAnswer(question=question, who=str(st.session_state["who"]), **given)
    try:
        with tempfile.TemporaryDirectory(prefix="gca-") as folder:
            outcome = apply_answers([answer], where, folder)
    except (GcaError, OSError) as error:
        said = ("error", str(error))
    else:
        if outcome.refused:
            said = ("error", "\n".join(outcome.refused))
        elif not given["label"].strip():
            said = ("error", "the label is empty, so nothing was decided")
        elif outcome.applied:
            said = ("success", f"{question.subject}: {given['label']}")
        else:
            said = ("success", f"{question.subject}: decided so already")
    st.session_state["said"] = said


def _say(st: Any) -> None:
    said = st.session_state.pop("said", None)
    if said is None:
        return
    kind, text = said
    if kind == "error":
        st.error("Nothing was changed:")
    else:
        st.success("Written into the results:")
    st.text(text)
