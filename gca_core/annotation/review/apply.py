"""Corrections into the results of a run: the file, the report and its tables, all of them or none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gca_core.annotation.cohort import is_cohort, refresh_cohort
from gca_core.annotation.labels.corrections import (
    CORRECTIONS_FILE,
    FINGERPRINT_GENES,
    Correction,
    Corrections,
    load_corrections,
    place_corrections,
)
from gca_core.annotation.labels.vocabulary import Vocabulary, in_vocabulary
from gca_core.annotation.models import Agreement, DatasetReport, Status
from gca_core.annotation.report.page import render_csv, render_html
from gca_core.annotation.review.lock import LOCK_SECONDS, reviewing
from gca_core.annotation.review.queue import HERE, REPORT, Queue, Run, collect_review
from gca_core.annotation.review.relist import real_folder, relist
from gca_core.annotation.review.table import Decision, decide, parse_review
from gca_core.errors import DataValidationError
from gca_core.io import PathInput, as_path, json_text, read_text, staged, write_json
from gca_core.knowledge.bundled.ontology import load_ontology

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

__all__ = ["ReviewOutcome", "apply_review", "apply_to_run"]

ANNOTATED = ("annotated.h5ad", "annotated.zarr")
CSV, HTML, FIGURE = "clusters.csv", "report.html", "umap.png"


@dataclass(frozen=True)
class ReviewOutcome:
    """What applying a table did.

    Attributes:
        applied: corrections that are new or changed, by run.
        unchanged: how many were in place already.
        flagged: clusters of the cohort that are still flagged.
        corrections: where the corrections of the cohort, or of the one run, were written.
    """

    applied: dict[str, int] = field(default_factory=dict)
    unchanged: int = 0
    flagged: int = 0
    corrections: str = ""


def apply_review(
    table: PathInput,
    where: PathInput | Sequence[PathInput],
    *,
    who: str,
    when: datetime | None = None,
    free_labels: bool = False,
    timeout: float = LOCK_SECONDS,
) -> ReviewOutcome:
    """Put the corrections of a filled-in table into the results that ``where`` holds.

    Everything is judged before anything is written. What is in place already is left alone, so that the same table
    can be applied again, also after a break; the first reviewer and time of a decision stay. One reviewer applies at a
    time: others wait, and then find what was decided before them. Summaries of cohorts that the runs belong to are
    written anew, and what was decided leaves the review queues beside the results.

    Args:
        table: the table that :func:`gca_core.annotation.review.queue.write_review` wrote, filled in.
        where: as for :func:`gca_core.annotation.review.queue.collect_review`.
        who, when, free_labels: as for :func:`gca_core.annotation.review.table.decide`.
        timeout: seconds to wait for somebody else who applies corrections to the same results.

    Raises:
        DataValidationError: the table doesn't fit the results, a label is unknown, results are missing or can't be
            read, or somebody else was at them all the time.
    """
    rows = parse_review(_table_text(table))

    def judge(queue: Queue) -> tuple[list[Decision], list[_Plan]]:
        decisions = decide(rows, queue, who=who, when=when, free_labels=free_labels)
        return decisions, _plans(queue, decisions)

    queue = collect_review(where, everything=True)
    decisions, _ = judge(queue)
    with ExitStack() as stack:
        for folder in _written(queue, decisions):
            stack.enter_context(reviewing(folder, who, timeout=timeout))
        # somebody else may have decided until now
        queue = collect_review(where, everything=True)
        decisions, plans = judge(queue)
        outcome = _apply(queue, decisions, plans)
        for folder in _written(queue, decisions) if decisions else ():
            relist(folder, table, decisions)
        return outcome


def _plans(queue: Queue, decisions: Sequence[Decision]) -> list[_Plan]:
    """What becomes of each run; refuses what can't be done."""
    by_run: dict[str, list[Decision]] = {}
    for decision in decisions:
        by_run.setdefault(decision.run.name, []).append(decision)
    plans = [_plan(run, by_run.get(run.name, [])) for run in queue.runs]
    for plan in plans:
        if plan.differs:
            _annotated_file(plan.run)
    return plans


def _written(queue: Queue, decisions: Sequence[Decision]) -> list[str]:
    """The folders that are written to, in one order for everybody, so that no two wait for each other."""
    found = {queue.root, *(decision.run.folder for decision in decisions), *_cohorts(queue)}
    return sorted({real_folder(folder) for folder in found})


def _cohorts(queue: Queue) -> list[str]:
    """The folders with a summary of a cohort that runs of the queue may belong to."""
    above = {queue.root, *(run.folder.rsplit("/", 1)[0] for run in queue.runs)}
    return sorted(folder for folder in above if is_cohort(folder))


def _apply(queue: Queue, decisions: Sequence[Decision], plans: Sequence[_Plan]) -> ReviewOutcome:
    for plan in plans:
        if plan.differs:
            apply_to_run(plan.run, plan.corrections)
    kept = _write_joint(queue.root, plans)
    for folder in _cohorts(queue) if decisions else ():
        refresh_cohort(folder)
    return ReviewOutcome(
        applied={plan.run.name: plan.n_new for plan in plans if plan.n_new},
        unchanged=len(decisions) - sum(plan.n_new for plan in plans),
        flagged=sum(a.status is Status.FLAGGED for plan in plans for a in plan.report.annotations),
        corrections=kept,
    )


def apply_to_run(run: Run, corrections: Corrections) -> DatasetReport:
    """Write ``corrections.json`` and the results of one run with the corrections in them; returns the new report.

    All results are made under temporary names first, then renamed, the report last.

    Raises:
        DataValidationError: a result is missing or can't be read.
    """
    report = _corrected(run.report, corrections)
    with ExitStack() as stack:
        # renamed in reverse order
        paths = {
            name: stack.enter_context(staged(f"{run.folder}/{name}")) for name in (REPORT, HTML, CSV, CORRECTIONS_FILE)
        }
        figures: dict[str, bytes] = {}
        title = f"Cell types of {as_path(run.folder).name}"
        cells = _annotated_file(run)
        if cells is not None:
            target = stack.enter_context(staged(cells))
            report, figures, title = _write_cells(cells, target, report, corrections)
        if "label" in figures:
            stack.enter_context(staged(f"{run.folder}/{FIGURE}")).write_bytes(figures["label"])
        _write(paths[CORRECTIONS_FILE], json_text(corrections))
        _write(paths[CSV], render_csv(report))
        _write(paths[HTML], render_html(report, figures, title=title))
        _write(paths[REPORT], json_text(report))
    log.info("%d corrections are in %s", report.stats.overrides, run.folder)
    return report


@dataclass(frozen=True)
class _Plan:
    run: Run
    corrections: Corrections
    report: DatasetReport
    n_new: int
    differs: bool


def _plan(run: Run, decisions: Sequence[Decision]) -> _Plan:
    """What a run becomes, and whether anything has to be written for it."""
    path = f"{run.folder}/{CORRECTIONS_FILE}"
    known = load_corrections(path) if as_path(path).exists() else Corrections()
    mine = _with_standing(known.of_run(""), run.report)
    merged = mine.with_later([d.correction for d in decisions])
    report = _corrected(run.report, merged)
    new = [c for c in merged.corrections if c not in mine.corrections]
    differs = bool(decisions) and (bool(new) or report.annotations != run.report.annotations)
    return _Plan(run, merged, report if differs else run.report, len(new), differs)


def _with_standing(known: Corrections, report: DatasetReport) -> Corrections:
    """The corrections with those that the report shows and the file lacks, such as ones that came with the input."""
    named = {c.cluster for c in known.corrections}
    standing = (
        Correction(cluster=a.cluster, genes=a.markers[:FINGERPRINT_GENES], **a.override.model_dump())
        for a in report.annotations
        if a.override is not None and a.cluster not in named
    )
    return known.with_later(list(standing))


def _corrected(report: DatasetReport, corrections: Corrections) -> DatasetReport:
    placed = place_corrections(report.annotations, corrections)
    found = placed.annotations
    if report.vocabulary is not None:
        found = tuple(in_vocabulary(found, Vocabulary.from_info(report.vocabulary, load_ontology())))
    stats = report.stats.model_copy(update={"overrides": placed.n_placed})
    return report.model_copy(update={"annotations": found, "stats": stats})


def _annotated_file(run: Run) -> str | None:
    """The annotated cells of a run; None where it is of lists of markers."""
    if not run.report.n_cells:
        return None
    found = next((path for name in ANNOTATED if as_path(path := f"{run.folder}/{name}").exists()), None)
    if found is None:
        raise DataValidationError(
            f"{ANNOTATED[0]} is not beside {REPORT} in {run.folder}, so the labels of its cells can't be changed; put "
            "it back, or annotate again. nothing was changed"
        )
    return found


def _write_cells(
    source: str, target: Path, report: DatasetReport, corrections: Corrections
) -> tuple[DatasetReport, dict[str, bytes], str]:
    """Write the annotated file with the labels to ``target``; returns the report, its pictures and its title."""
    from gca_core.annotation.adata.files import open_data
    from gca_core.annotation.adata.obs import as_groups, keep_corrections, write_columns
    from gca_core.annotation.adata.uns_record import keep_record, kept_drawn, kept_markers, kept_source
    from gca_core.annotation.report.umap_figure import cluster_codes, report_figures

    with open_data(source, backed=True) as data:
        adata = data.adata
        cluster_codes(adata, report)
        groups = as_groups(adata.obs[report.cluster_key])
        named = report.vocabulary is not None
        write_columns(adata, groups, report.annotations, report.prefix, computed=False, vocabulary=named)
        report = report.model_copy(update={"agreement": _agreement(adata.obs, groups, report)})
        drawn, markers, name = kept_drawn(adata), kept_markers(adata), kept_source(adata)
        figures = {} if drawn is None else report_figures(drawn.of(adata), report, drawn.coordinates, markers)
        keep_corrections(adata, corrections)
        keep_record(adata, report, source=name, markers=markers, drawn=drawn)
        data.write(target, [column for column in adata.obs if str(column).startswith(report.prefix)], {})
    judged = f"Labels in {report.judged_column} of {name}, judged by their markers"
    title = f"Cell types of {name}" if report.judged_column is None else judged
    return report, figures, f"{title}{'' if drawn is None else drawn.note}"


def _agreement(obs: pd.DataFrame, groups: pd.Series, report: DatasetReport) -> Agreement | None:
    """The agreement with known labels, measured anew."""
    from gca_core.annotation.adata.obs import broadcast_to_cells
    from gca_core.annotation.labels.agreement import measure_agreement

    if report.agreement is None or report.agreement.column not in obs:
        return report.agreement
    predicted = broadcast_to_cells(groups, [a.ontology_id for a in report.annotations])
    return measure_agreement(predicted, obs[report.agreement.column], load_ontology(), clusters=groups)


def _write_joint(root: str, plans: Sequence[_Plan]) -> str:
    """The corrections of all runs in the cohort's folder; of one run in that folder, they are there already."""
    path = f"{root}/{CORRECTIONS_FILE}"
    if all(plan.run.name == HERE for plan in plans):
        return path
    joint: list[Correction] = [
        c.model_copy(update={"run": plan.run.name}) for plan in plans for c in plan.corrections.corrections
    ]
    own = next((list(plan.corrections.corrections) for plan in plans if plan.run.name == HERE), [])
    if joint:
        write_json(path, Corrections(corrections=(*own, *(c for c in joint if c.run != HERE))))
    return path


def _table_text(table: PathInput) -> str:
    try:
        return read_text(table, what="table of corrections")
    except UnicodeDecodeError:
        raise DataValidationError(
            f"{str(table)!r} is not UTF-8 text; save it from the spreadsheet as CSV UTF-8"
        ) from None


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
