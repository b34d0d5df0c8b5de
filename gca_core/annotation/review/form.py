"""Flagged clusters as questions to a person, and the answers as corrections."""

from __future__ import annotations

import csv
import logging
from collections import defaultdict
from collections.abc import Sequence
from io import StringIO

from pydantic import BaseModel, Field

from gca_core.annotation.markers.delimited import safe_cell
from gca_core.annotation.report.words import flag_name
from gca_core.annotation.review.apply import apply_review
from gca_core.annotation.review.queue import Entry, collect_review
from gca_core.annotation.review.table import Row, decide
from gca_core.errors import DataValidationError
from gca_core.io import PathInput, join_uri, write_text
from gca_core.pages import as_markdown

log = logging.getLogger(__name__)

COLUMNS = ("run", "cluster", "key", "label", "corrected_label", "note")
N_GENES = 15


class ClusterQuestion(BaseModel, frozen=True):
    """A flagged cluster, and what a person is shown of it; the body is Markdown."""

    run: str
    cluster: str
    key: str
    label: str
    subject: str
    body: str


class ClusterAnswer(BaseModel, frozen=True):
    """A person's decision on a cluster.

    Attributes:
        question: as it was asked.
        label: a name or id of the Cell Ontology, or ``Unknown or Novel``; empty leaves the cluster as it is.
        reason: why.
        who: who decided.
    """

    question: ClusterQuestion
    label: str = ""
    reason: str = ""
    who: str


class AppliedAnswers(BaseModel, frozen=True):
    """What became of the answers: labels by run, answers that could not be used, and clusters still flagged."""

    applied: dict[str, int] = Field(default_factory=dict)
    refused: tuple[str, ...] = ()
    flagged: int | None = None


def cluster_questions(where: PathInput | Sequence[PathInput], *, at_most: int) -> list[ClusterQuestion]:
    """A question for each flagged cluster, largest first.

    Raises:
        DataValidationError: there are no results, or they can't be read.
    """
    entries = sorted(collect_review(where).entries, key=lambda e: (-(e.annotation.n_cells or 0), e.key))
    if len(entries) > at_most:
        log.warning("%d clusters are flagged; the %d largest are asked about", len(entries), at_most)
    return [cluster_question(entry) for entry in entries[:at_most]]


def apply_answers(answers: Sequence[ClusterAnswer], where: PathInput, folder: str) -> AppliedAnswers:
    """Put the labels of people into the results; an answer that can't be used is named, and the others count.

    Args:
        answers: some may have no label.
        where: as for :func:`cluster_questions`.
        folder: for the tables of corrections, one for each person.

    Raises:
        DataValidationError: results are missing or can't be read, or another process was at them all the time.
    """
    by_person: dict[str, list[ClusterAnswer]] = defaultdict(list)
    refused: list[str] = []
    applied: dict[str, int] = {}
    flagged: int | None = None
    labelled = [answer for answer in answers if answer.label.strip()]
    if not labelled:
        return AppliedAnswers()
    queue = collect_review(where, everything=True)
    for answer in labelled:
        try:
            decide([_row(answer)], queue, who=answer.who)
        except DataValidationError as error:
            refused.append(f"{answer.question.subject}: {str(error).partition(': line 1: ')[2] or error}")
            log.warning("%s", refused[-1])
        else:
            by_person[answer.who].append(answer)
    for place, (who, given) in enumerate(sorted(by_person.items())):
        table = join_uri(folder, f"answers-{place}.csv")
        write_text(table, _table(given))
        outcome = apply_review(table, where, who=who)
        flagged = outcome.flagged
        for run, count in outcome.applied.items():
            applied[run] = applied.get(run, 0) + count
    return AppliedAnswers(applied=applied, refused=tuple(refused), flagged=flagged)


def cluster_question(entry: Entry) -> ClusterQuestion:
    """A cluster as a question."""
    a = entry.annotation
    facts = {
        "label": a.primary_label,
        "the annotator's word": a.proposed_label or "",
        "cells": "" if a.n_cells is None else f"{a.n_cells:,}",
        "why it is flagged": "; ".join(flag_name(reason) for reason in a.flag_reasons),
        "top markers": ", ".join(a.markers[:N_GENES]),
        "evidence for": ", ".join(g.gene for g in a.evidence.supporting[:N_GENES]),
        "evidence against": ", ".join(g.gene for g in a.evidence.contradicting[:N_GENES]),
        "alternatives": ", ".join(x.label for x in a.alternatives),
    }
    return ClusterQuestion(
        run=entry.run.name,
        cluster=a.cluster,
        key=entry.key,
        label=a.primary_label,
        subject=f"{entry.run.name}, cluster {a.cluster}"[:120],
        body="\n".join(f"- {name}: {as_markdown(text)}" for name, text in facts.items() if text),
    )


def _row(answer: ClusterAnswer) -> Row:
    q = answer.question
    return Row(1, q.run, q.cluster, q.key, q.label, " ".join(answer.label.split()), " ".join(answer.reason.split()))


def _table(answers: Sequence[ClusterAnswer]) -> str:
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for answer in answers:
        row = _row(answer)
        cells = (row.run, row.cluster, row.key, row.label, row.corrected_label, row.note)
        writer.writerow([safe_cell(cell) for cell in cells])
    return buffer.getvalue()
