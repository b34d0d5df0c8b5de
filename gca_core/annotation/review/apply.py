"""Corrections into the results of a run: its cells are written again with the labels it found and those of people."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from gca_core.annotation.labels.corrections import (
    CORRECTIONS_FILE,
    FINGERPRINT_GENES,
    Correction,
    Corrections,
    load_corrections,
    place_corrections,
)
from gca_core.annotation.labels.vocabulary import Vocabulary, in_vocabulary
from gca_core.annotation.models import DatasetReport, Status
from gca_core.annotation.review.page import refresh_review
from gca_core.annotation.review.queue import HERE, REPORT, Queue, Run, collect_review, real_folder
from gca_core.annotation.review.summary import is_cohort, refresh_cohort
from gca_core.annotation.review.table import Decision, decide, parse_review
from gca_core.errors import DataValidationError
from gca_core.io import PathInput, as_path, read_text, write_json
from gca_core.knowledge.bundled.ontology import load_ontology
from gca_core.locks import BRIEFLY, sole_writer

if TYPE_CHECKING:
    from anndata import AnnData

ANNOTATED = ("annotated.h5ad", "annotated.zarr")


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
    wait: float = BRIEFLY,
) -> ReviewOutcome:
    """Put the corrections of a filled-in table into the results that ``where`` holds.

    Everything is judged before anything is written. Then the cells of each run are labelled again: with what the
    annotation found, which is in its report, and the corrections. Nothing is ranked and no model is asked, so no other
    label changes. What is in place already is left alone, so that the same table can be applied again, also after a
    break; the first reviewer and time of a decision stay. In folders one reviewer applies at a time, and finds what
    was decided before; in an object store the last one wins. Summaries of cohorts that the runs belong to are written
    anew, and what was decided leaves the review queues beside the results.

    Args:
        table: the table that :func:`gca_core.annotation.review.page.write_review` wrote, filled in.
        where: as for :func:`gca_core.annotation.review.queue.collect_review`.
        who, when, free_labels: as for :func:`gca_core.annotation.review.table.decide`.
        wait: seconds to wait for another process that writes to the same results.

    Raises:
        DataValidationError: the table doesn't fit the results, a label is unknown, results are missing or can't be
            read, or another process was at them all the time.
    """
    rows = parse_review(_table_text(table))

    def judge(queue: Queue) -> tuple[list[Decision], list[_Plan]]:
        decisions = decide(rows, queue, who=who, when=when, free_labels=free_labels)
        return decisions, _plans(queue, decisions)

    queue = collect_review(where, everything=True)
    decisions, _ = judge(queue)
    folders = _written(queue, decisions)
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(sole_writer(folder, wait=wait))
        # somebody else may have decided until now
        queue = collect_review(where, everything=True)
        decisions, plans = judge(queue)
        for plan in plans:
            if plan.differs:
                _label_again(plan)
        kept = _write_joint(queue.root, plans)
        for folder in folders if decisions else ():
            if is_cohort(folder):
                refresh_cohort(folder)
            refresh_review(folder, table)
    return ReviewOutcome(
        applied={plan.run.name: plan.n_new for plan in plans if plan.n_new},
        unchanged=len(decisions) - sum(plan.n_new for plan in plans),
        flagged=sum(a.status is Status.FLAGGED for plan in plans for a in plan.report.annotations),
        corrections=kept,
    )


def _plans(queue: Queue, decisions: Sequence[Decision]) -> list[_Plan]:
    """What becomes of each run; refuses what can't be done."""
    by_run: dict[str, list[Decision]] = {}
    for decision in decisions:
        by_run.setdefault(decision.run.name, []).append(decision)
    plans = [_plan(run, by_run.get(run.name, [])) for run in queue.runs]
    for plan in plans:
        if plan.differs:
            annotated_file(plan.run)
    return plans


def _written(queue: Queue, decisions: Sequence[Decision]) -> list[str]:
    """The folders that are written to, in one order for everybody, so that no two wait for each other."""
    above = {run.folder.rsplit("/", 1)[0] for run in queue.runs}
    found = {queue.root, *(decision.run.folder for decision in decisions), *filter(is_cohort, above)}
    return sorted({real_folder(folder) for folder in found})


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


def annotated_file(run: Run) -> str | None:
    """The annotated cells of a run, as path or URI; None where it is of lists of markers.

    Raises:
        DataValidationError: they are not beside the report.
    """
    if not run.report.n_cells:
        return None
    found = next((path for name in ANNOTATED if as_path(path := f"{run.folder}/{name}").exists()), None)
    if found is None:
        raise DataValidationError(
            f"{ANNOTATED[0]} is not beside {REPORT} in {run.folder}, so the labels of its cells can't be changed; put "
            "it back, or annotate again. nothing was changed"
        )
    return found


def _label_again(plan: _Plan) -> None:
    """Write the results of a run again, with its corrections."""
    from gca_core.annotation.adata.files import open_data
    from gca_core.annotation.report.uns_record import kept_drawn, kept_markers, kept_source
    from gca_core.annotation.run import write_folder

    folder, cells = plan.run.folder, annotated_file(plan.run)
    if cells is None:
        write_folder(folder, plan.report, None, source=as_path(folder).name, corrections=plan.corrections)
        return
    with open_data(cells, backed=True) as data:
        report = _label_cells(data.adata, plan.report, plan.corrections)
        write_folder(
            folder,
            report,
            data,
            source=kept_source(data.adata),
            drawn=kept_drawn(data.adata),
            markers=kept_markers(data.adata),
            corrections=plan.corrections,
        )


def _label_cells(adata: AnnData, report: DatasetReport, corrections: Corrections) -> DatasetReport:
    """Write the labels of a report to its cells; returns it with the agreement measured anew."""
    from gca_core.annotation.adata.obs import as_groups, broadcast_to_cells, write_columns
    from gca_core.annotation.labels.agreement import measure_agreement
    from gca_core.annotation.labels.corrections import keep_corrections
    from gca_core.annotation.report.umap_figure import cluster_codes

    cluster_codes(adata, report)
    groups = as_groups(adata.obs[report.cluster_key])
    named = report.vocabulary is not None
    write_columns(adata, groups, report.annotations, report.prefix, computed=False, vocabulary=named)
    keep_corrections(adata, corrections)
    if report.agreement is None or report.agreement.column not in adata.obs:
        return report
    predicted = broadcast_to_cells(groups, [a.ontology_id for a in report.annotations])
    known = adata.obs[report.agreement.column]
    agreement = measure_agreement(predicted, known, load_ontology(), clusters=groups)
    return report.model_copy(update={"agreement": agreement})


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
