"""The table that a reviewer filled in: read, matched to its clusters, and judged before anything changes."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO

from pydantic import ValidationError

from gca_core.annotation.labels.corrections import FINGERPRINT_GENES, Correction
from gca_core.annotation.markers.delimited import plain_cell, safe_cell
from gca_core.annotation.models import UNKNOWN, Annotation
from gca_core.annotation.report.words import flag_name
from gca_core.annotation.review.queue import HERE, Entry, Queue, Run, cluster_key
from gca_core.errors import DataValidationError, complaints
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

# the reviewer writes into the last two
COLUMNS = (
    "run",
    "cluster",
    "n_cells",
    "label",
    "proposed_label",
    "ontology_id",
    "confidence",
    "flags",
    "top_markers",
    "evidence_for",
    "evidence_against",
    "alternatives",
    "key",
    "corrected_label",
    "note",
)
N_TOP = 15
NEEDED = ("run", "cluster", "corrected_label")
MAX_NAMED = 10
_UNKNOWN = {UNKNOWN.casefold(), "unknown", "novel"}
_AGAIN = "write the table anew with 'gca review'"


@dataclass(frozen=True)
class Row:
    """A line of the table that holds a decision, as the reviewer left it.

    Attributes:
        line: of the file, for messages.
        key: of :class:`gca_core.annotation.review.queue.Entry`; empty in rows written by hand.
        label: the annotator's, when the table was written; empty in rows written by hand.
    """

    line: int
    run: str
    cluster: str
    key: str
    label: str
    corrected_label: str
    note: str


@dataclass(frozen=True)
class Decision:
    """A row's correction, with the cluster that it is about."""

    run: Run
    annotation: Annotation
    correction: Correction


def render_review_csv(entries: Iterable[Entry], filled: Mapping[str, Correction] | None = None) -> str:
    """A row per cluster; lists are joined by semicolons, and text from data starts no formula.

    Args:
        filled: decisions to write into the table, by the entry's key.
    """
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in entries:
        a, decided = entry.annotation, (filled or {}).get(entry.key)
        cells: tuple[str, ...] = (
            entry.run.name,
            a.cluster,
            "" if a.n_cells is None else str(a.n_cells),
            a.primary_label,
            a.proposed_label or "",
            a.ontology_id or "",
            a.confidence.value,
            "; ".join(flag_name(reason) for reason in a.flag_reasons),
            "; ".join(a.markers[:N_TOP]),
            "; ".join(g.gene for g in a.evidence.supporting),
            "; ".join(g.gene for g in a.evidence.contradicting),
            "; ".join(x.label for x in a.alternatives),
            entry.key,
            "" if decided is None else decided.label,
            "" if decided is None else decided.note,
        )
        writer.writerow([safe_cell(cell) for cell in cells])
    return buffer.getvalue()


def parse_review(text: str) -> list[Row]:
    """The rows of a filled-in table that hold a label; commas, semicolons or tabs separate.

    Raises:
        DataValidationError: a missing or unknown column, a cell too many, or a note without a label.
    """
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise DataValidationError("the table of corrections holds binary data; save it as CSV in UTF-8")
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=table_delimiter(text), strict=True)
    rows, faults = [], []
    try:
        _check_header([name or "" for name in reader.fieldnames or ()])
        for cells in reader:
            row = _row(cells, reader.line_num)
            if isinstance(row, str):
                faults.append(f"line {reader.line_num}: {row}")
            elif row is not None:
                rows.append(row)
    except csv.Error as error:
        faults.append(f"line {reader.line_num}: {error}")
    _refuse(faults)
    return rows


def table_delimiter(text: str) -> str:
    """What separates the cells of a table, by its first line: a comma, semicolon or tab."""
    first = text.split("\n", 1)[0]
    return max(",;\t", key=first.count)


def decide(
    rows: Sequence[Row], queue: Queue, *, who: str, when: datetime | None = None, free_labels: bool = False
) -> list[Decision]:
    """The corrections of the rows, each with its cluster.

    Labels are Cell Ontology labels, ids, synonyms or the field's names of them, or ``Unknown or Novel``.

    Args:
        queue: all clusters of the cohort, as they are now.
        who: the reviewer.
        when: of the decisions; None means now.
        free_labels: take labels that the Cell Ontology doesn't know as they are, without an id.

    Raises:
        DataValidationError: a cluster that isn't there, was annotated anew, or comes twice; an unknown label. All
            faults are named, and nothing is decided.
    """
    if not who.strip():
        raise DataValidationError("the reviewer's name is empty; every correction is recorded with who made it")
    moment = (when or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    ontology = load_ontology()
    decisions: list[Decision] = []
    faults: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for row in rows:
        try:
            run, annotation = _cluster(row, queue)
            label, term = _label(row.corrected_label, ontology, free_labels=free_labels)
            correction = _correction(row, annotation, label, term, who.strip(), moment)
        except DataValidationError as error:
            faults.append(f"line {row.line}: {error}")
            continue
        earlier = seen.setdefault((run.name, cluster_key(run.name, annotation)), row.line)
        if earlier != row.line:
            faults.append(f"line {row.line}: cluster {row.cluster!r} of run {row.run!r} is in line {earlier} already")
            continue
        decisions.append(Decision(run, annotation, correction))
    _refuse(faults)
    return decisions


def _check_header(names: list[str]) -> None:
    missing = [name for name in NEEDED if name not in names]
    unknown = [name for name in names if name not in COLUMNS]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if missing or unknown or repeated:
        parts = (("lacks", missing), ("has unknown columns:", unknown), ("has repeated columns:", repeated))
        said = "; ".join(f"{what} {', '.join(map(repr, found))}" for what, found in parts if found)
        raise DataValidationError(
            f"the table of corrections {said}; expected those that 'gca review' wrote ({', '.join(COLUMNS)}), with "
            f"corrections in corrected_label and remarks in note"
        )


def _row(cells: dict[str, str | None], line: int) -> Row | str | None:
    """The row, what is wrong with it, or None where nothing was decided."""
    if None in cells:
        return "there are more cells than columns; put quotes around text that holds the separator"
    given = {name: plain_cell((value or "").strip()) for name, value in cells.items()}
    if not given["corrected_label"]:
        if given.get("note"):
            return (
                "there is a note and no corrected_label; a note is kept with a decision: repeat the label to confirm it"
            )
        return None
    return Row(
        line=line,
        run=given["run"],
        cluster=given["cluster"],
        key=given.get("key", ""),
        label=given.get("label", ""),
        corrected_label=given["corrected_label"],
        note=given.get("note", ""),
    )


def _cluster(row: Row, queue: Queue) -> tuple[Run, Annotation]:
    """The run and the cluster that a row is about."""
    name = row.run or HERE
    run = queue.run(name)
    if run is None:
        known = ", ".join(repr(r.name) for r in queue.runs[:5])
        raise DataValidationError(f"there is no run {name!r} under {queue.root}; found {known}")
    if row.key:
        found = [a for a in run.report.annotations if cluster_key(name, a) == row.key]
    else:
        found = [a for a in run.report.annotations if a.cluster == row.cluster]
    if len(found) > 1:
        raise DataValidationError(f"run {name!r} has several clusters named {row.cluster!r} with the same genes")
    if not found and any(a.cluster == row.cluster for a in run.report.annotations):
        raise DataValidationError(
            f"cluster {row.cluster!r} of run {name!r} has other top genes than when the table was written, so it was "
            f"annotated anew since; {_AGAIN}"
        )
    if not found:
        known = ", ".join(repr(a.cluster) for a in run.report.annotations[:10])
        raise DataValidationError(f"run {name!r} has no cluster {row.cluster!r}; it has {known}")
    _check_label(row, found[0])
    return run, found[0]


def _check_label(row: Row, annotation: Annotation) -> None:
    """Refuse a decision that was made looking at another label than the present one."""
    before = annotation.primary_label if annotation.override is None else annotation.override.replaced
    if row.label and row.label not in {annotation.primary_label, before}:
        raise DataValidationError(
            f"cluster {row.cluster!r} of run {row.run!r} is now {annotation.primary_label!r}, and was {row.label!r} in "
            f"the table: the label changed since, or was edited in the column label. write corrections into "
            f"corrected_label; {_AGAIN}"
        )


def _label(text: str, ontology: CellOntology, *, free_labels: bool) -> tuple[str, str | None]:
    """Label and term that a reviewer's words mean."""
    if text.casefold() in _UNKNOWN:
        return UNKNOWN, None
    term = ontology.resolve(text)
    if term is not None:
        return ontology.label(term), term
    if free_labels:
        return " ".join(text.split()), None
    close = ", ".join(ontology.suggest(text))
    raise DataValidationError(
        f"{text!r} is no name of a Cell Ontology term; "
        + (f"close: {close}. " if close else "")
        + f"use a label or id of it, or {UNKNOWN!r}, or allow other labels with --free-labels"
    )


def _correction(row: Row, a: Annotation, label: str, term: str | None, who: str, when: str) -> Correction:
    try:
        return Correction(
            cluster=a.cluster,
            genes=a.markers[:FINGERPRINT_GENES],
            label=label,
            ontology_id=term,
            who=who,
            when=when,
            note=row.note,
            replaced=a.primary_label if a.override is None else a.override.replaced,
        )
    except ValidationError as error:
        raise DataValidationError(complaints(error, at_most=1)) from None


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        more = f" and {len(faults) - MAX_NAMED} more" if len(faults) > MAX_NAMED else ""
        raise DataValidationError(
            f"the table of corrections can't be applied, and nothing was changed: {'; '.join(faults[:MAX_NAMED])}{more}"
        )
