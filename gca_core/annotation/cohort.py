"""A cohort: the files under a prefix, a folder of results for each, and one summary over all of them."""

from __future__ import annotations

import csv
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict
from upath import UPath

from gca_core.annotation.labels.corrections import load_corrections
from gca_core.annotation.markers.delimited import plain_cell, safe_cell
from gca_core.annotation.models import UNKNOWN, DatasetReport, Status
from gca_core.annotation.report.page import render_page
from gca_core.annotation.review.page import write_review
from gca_core.annotation.review.queue import PAGE, REPORT, Entry, Queue, Run, collect_review
from gca_core.errors import DataValidationError
from gca_core.io import (
    PathInput,
    as_path,
    as_uri,
    content_hash,
    join_uri,
    reaching,
    read_text,
    safe_name,
    write_json,
    write_text,
)
from gca_core.locks import BRIEFLY, sole_writer

log = logging.getLogger(__name__)

FILE_SUFFIXES = (".h5ad", ".loom")
FOLDER_SUFFIX = ".zarr"
OWN_RESULTS = ("annotated.h5ad", "annotated.zarr")
GIVEN_CORRECTIONS = "given_corrections.json"
FILES = {"csv": "cohort.csv", "composition": "composition.csv", "html": "cohort.html"}
CSV_COLUMNS = (
    "file",
    "status",
    "input",
    "clusters",
    "flagged",
    "cells",
    "genes",
    "species",
    "tissue",
    "unknown_cells",
    "agreement_exact",
    "agreement_related",
    "annotator",
    "model",
    "marker_database",
    "seconds",
    "report",
    "note",
)
COMPOSITION_COLUMNS = ("label", "ontology_id", "file", "clusters", "cells", "share")
ANNOTATED, FAILED = "annotated", "failed"
OLDER = (
    '<p class="against">Corrections were applied since this page was written. The reports of the files have them.</p>'
)
FAILED_NOTE = "no result; the log of its task says why"


class CohortFile(BaseModel):
    """One file of a cohort.

    Attributes:
        name: of its folder below the cohort's; safe as a file name, and its own.
        input_uri: of the data.
        output_uri: the folder for its results.
        corrections: URI of the corrections of this file, where a review made any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    input_uri: str
    output_uri: str
    corrections: str | None = None


class CohortResult(BaseModel):
    """What a cohort's summary says, small enough for XCom.

    Attributes:
        uris: of cohort.csv, composition.csv, cohort.html and the review queue, by csv, composition, html, review_csv
            and review_html.
        failed: names of the files without a result.
        n_unknown: cells that got no label.
    """

    model_config = ConfigDict(frozen=True)

    uris: dict[str, str]
    n_files: int
    failed: tuple[str, ...]
    n_clusters: int
    n_flagged: int
    n_cells: int
    n_unknown: int
    n_labels: int


@dataclass(frozen=True)
class _Share:
    """The part of one label in one file."""

    label: str
    ontology_id: str | None
    file: str
    clusters: int
    cells: int
    share: float


def find_files(prefix: PathInput) -> list[str]:
    """URIs of the h5ad, zarr and loom files under a prefix at any depth, sorted.

    A prefix is a folder, a file, or the beginning of names, as in ``gs://lab/run-``. Hidden files and folders, and
    the annotated files of earlier runs, are left out.

    Raises:
        DataValidationError: there is none.
    """
    path = _without_slash(prefix)
    with reaching(prefix):
        if _is_data(path):
            found = [path]
        elif path.is_dir():
            found = list(_walk(path))
        else:
            near = _entries(path.parent) if path.parent.is_dir() else []
            found = [f for entry in near if entry.name.startswith(path.name) for f in _below(entry)]
    if not found:
        raise DataValidationError(
            f"there is no {', '.join((*FILE_SUFFIXES, FOLDER_SUFFIX))} file under {str(prefix)!r}; "
            "check the prefix, and that this machine can list it"
        )
    return sorted(as_uri(file) for file in found)


def plan_cohort(prefix: PathInput, output: PathInput, *, corrections: PathInput | None = None) -> list[CohortFile]:
    """The files under a prefix, each with a folder below ``output``.

    Folders are named after the files, the same each time; where two files would share one, both get a hash.

    Args:
        prefix: as in :func:`find_files`.
        output: the cohort's folder.
        corrections: a file of corrections of this cohort; those of each file are written to its folder.

    Raises:
        DataValidationError: there is no file, or the corrections can't be read.
    """
    uris = find_files(prefix)
    base = _base(_without_slash(prefix))
    decided = None if corrections is None else load_corrections(corrections)
    planned = []
    for name, uri in zip(_names([_relative(uri, base) for uri in uris]), uris, strict=True):
        folder, kept = join_uri(output, name), None
        if decided is not None and (mine := decided.of_run(name)).corrections:
            kept = write_json(join_uri(folder, GIVEN_CORRECTIONS), mine)
        planned.append(CohortFile(name=name, input_uri=uri, output_uri=folder, corrections=kept))
    return planned


def finished_folders(files: Sequence[CohortFile], results: Sequence[Mapping[str, str]]) -> set[str]:
    """The output URIs of those files whose results, by name and URI, are there; the order doesn't matter."""
    reports = {uris.get("json") for uris in results}
    return {file.output_uri for file in files if join_uri(file.output_uri, REPORT) in reports}


def write_cohort(output: PathInput, files: Sequence[CohortFile], finished: Collection[str]) -> CohortResult:
    """Join the reports of a cohort: a summary as CSV and HTML, the composition as CSV, and the review queue.

    Nobody else may apply corrections to a local cohort from when the reports are read.

    Args:
        output: the cohort's folder.
        files: as :func:`plan_cohort` gave them.
        finished: the output URIs of those whose annotation succeeded; the others are named as failed, also where a
            report of an earlier run lies in their folder.

    Raises:
        DataValidationError: the report of a finished file can't be read, or another process writes there.
    """
    done = [file for file in files if file.output_uri in finished]
    root = str(as_path(output)).rstrip("/")
    with sole_writer(root, wait=BRIEFLY):
        runs = tuple(_read_run(file) for file in done)
        queue = Queue(root, runs, tuple(_flagged(runs)))
        rows = _rows(files, runs)
        shares = _composition(runs)
        review = write_review(queue)
        uris = _write_summary(output, rows, shares)
    return CohortResult(
        uris={**uris, "review_csv": review["csv"], "review_html": review["html"]},
        n_files=len(files),
        failed=tuple(row["file"] for row in rows if row["status"] == FAILED),
        n_clusters=sum(len(run.report.annotations) for run in runs),
        n_flagged=len(queue.entries),
        n_cells=sum(run.report.n_cells for run in runs),
        n_unknown=sum(share.cells for share in shares if share.label == UNKNOWN),
        n_labels=len({share.label for share in shares} - {UNKNOWN}),
    )


def is_cohort(folder: PathInput) -> bool:
    """Whether a folder holds the summary of a cohort."""
    return as_path(join_uri(folder, FILES["csv"])).exists()


def refresh_cohort(folder: PathInput) -> bool:
    """Write the summary of a cohort anew from ``cohort.csv`` and the reports as they are now; the review queue stays.

    Returns:
        Whether that could be done. If not, the page says from then on that it is older than the corrections, and the
        log says why.
    """
    try:
        files, finished = _listed(folder)
        runs = tuple(_read_run(file) for file in files if file.name in finished)
    except (DataValidationError, UnicodeDecodeError, csv.Error) as error:
        log.warning("the summary of the cohort in %s could not be written anew: %s", folder, error)
        _say_older(join_uri(folder, FILES["html"]))
        return False
    _write_summary(folder, _rows(files, runs), _composition(runs))
    return True


def _listed(folder: PathInput) -> tuple[list[CohortFile], set[str]]:
    """The files of a cohort, and the names of those with a result, as its table has them."""
    uri = join_uri(folder, FILES["csv"])
    reader = csv.DictReader(StringIO(read_text(uri), newline=""))
    missing = {"file", "input", "status"} - set(reader.fieldnames or ())
    if missing:
        raise DataValidationError(f"{uri} has no columns {', '.join(sorted(missing))}; annotate the cohort again")
    rows = [{name: plain_cell(row[name] or "") for name in ("file", "input", "status")} for row in reader]
    files = [
        CohortFile(name=row["file"], input_uri=row["input"], output_uri=join_uri(folder, row["file"])) for row in rows
    ]
    return files, {row["file"] for row in rows if row["status"] == ANNOTATED}


def _say_older(uri: str) -> None:
    if not as_path(uri).exists():
        return
    page = read_text(uri)
    if OLDER not in page:
        write_text(uri, page.replace("</h1>", f"</h1>\n{OLDER}", 1))


def _write_summary(output: PathInput, rows: Sequence[dict[str, Any]], shares: Sequence[_Share]) -> dict[str, str]:
    return {
        "csv": write_text(join_uri(output, FILES["csv"]), _csv(CSV_COLUMNS, rows)),
        "composition": write_text(join_uri(output, FILES["composition"]), _csv(COMPOSITION_COLUMNS, map(vars, shares))),
        "html": write_text(join_uri(output, FILES["html"]), _page(rows, shares)),
    }


def _without_slash(prefix: PathInput) -> UPath:
    return as_path(prefix if isinstance(prefix, UPath) else str(prefix).rstrip("/") or "/")


def _is_data(path: UPath) -> bool:
    return (path.suffix in FILE_SUFFIXES and path.is_file()) or (path.suffix == FOLDER_SUFFIX and path.is_dir())


def _entries(folder: UPath) -> list[UPath]:
    return sorted(folder.iterdir(), key=lambda entry: str(entry.name))


def _below(entry: UPath) -> Iterator[UPath]:
    """The data that an entry of a folder is or holds."""
    if entry.name.startswith("."):
        return
    if _is_data(entry):
        if entry.name not in OWN_RESULTS or not (entry.parent / REPORT).exists():
            yield entry
    elif entry.is_dir() and not entry.is_symlink():
        yield from _walk(entry)


def _walk(folder: UPath) -> Iterator[UPath]:
    for entry in _entries(folder):
        yield from _below(entry)


def _base(path: UPath) -> str:
    """The folder that names start at."""
    return as_uri(path if path.is_dir() and path.suffix != FOLDER_SUFFIX else path.parent).rstrip("/")


def _relative(uri: str, base: str) -> str:
    return str(as_path(uri)).removeprefix(str(as_path(base))).strip("/")


def _names(paths: Sequence[str]) -> list[str]:
    """A folder's name for each path: without its ending, and with a hash where two would share one."""
    short = [safe_name(path.rsplit(".", 1)[0]) for path in paths]
    lowered = [name.lower() for name in short]
    return [
        name if lowered.count(name.lower()) == 1 else f"{name}-{content_hash(path)[:8]}"
        for name, path in zip(short, paths, strict=True)
    ]


def _read_run(file: CohortFile) -> Run:
    (run,) = collect_review(join_uri(file.output_uri, REPORT)).runs
    return Run(file.name, run.folder, run.report, run.has_page)


def _flagged(runs: Sequence[Run]) -> Iterator[Entry]:
    return (Entry(run, a) for run in runs for a in run.report.annotations if a.status is Status.FLAGGED)


def _rows(files: Sequence[CohortFile], runs: Sequence[Run]) -> list[dict[str, Any]]:
    known = {run.name: run for run in runs}
    empty = dict.fromkeys(CSV_COLUMNS, "")
    rows = []
    for file in files:
        row = {**empty, "file": file.name, "input": file.input_uri}
        run = known.get(file.name)
        if run is None:
            rows.append({**row, "status": FAILED, "note": FAILED_NOTE})
        else:
            page = join_uri(file.output_uri, PAGE) if run.has_page else ""
            rows.append({**row, "status": ANNOTATED, "report": page, **_figures(run.report)})
    return rows


def _figures(report: DatasetReport) -> dict[str, Any]:
    agreement = report.agreement
    return {
        "clusters": len(report.annotations),
        "flagged": report.n_flagged,
        "cells": report.n_cells,
        "genes": report.n_genes,
        "species": report.species,
        "tissue": report.tissue or "",
        "unknown_cells": sum(a.n_cells or 0 for a in report.annotations if a.primary_label == UNKNOWN),
        "agreement_exact": "" if agreement is None else round(agreement.exact, 4),
        "agreement_related": "" if agreement is None else round(agreement.related, 4),
        "annotator": report.annotator,
        "model": report.model or "",
        "marker_database": report.marker_database.sha256,
        "seconds": report.stats.seconds,
    }


def _composition(runs: Sequence[Run]) -> list[_Share]:
    """Clusters and cells of each label in each file, the commonest label first and unknown last.

    Labels are in the vocabulary's names where all files were annotated with one and the same.
    """
    vocabularies = {run.report.vocabulary.sha256 if run.report.vocabulary else None for run in runs}
    named = len(vocabularies) == 1 and None not in vocabularies
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    terms: dict[str, set[str | None]] = defaultdict(set)
    for run in runs:
        for a in run.report.annotations:
            label = (a.vocabulary_label if named else None) or a.primary_label
            groups[label][run.name].append(a.n_cells or 0)
            terms[label].add(a.ontology_id)
    totals = {run.name: max(run.report.n_cells, 1) for run in runs}
    commonest = {label: sum(map(sum, files.values())) for label, files in groups.items()}
    order = sorted(groups, key=lambda label: (label == UNKNOWN, -commonest[label], label))
    one_term = {label: next(iter(found)) if len(found) == 1 else None for label, found in terms.items()}
    return [
        _Share(label, one_term[label], file, len(cells), sum(cells), round(sum(cells) / totals[file], 4))
        for label in order
        for file, cells in groups[label].items()
    ]


def _csv(columns: Sequence[str], rows: Any) -> str:
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = ("" if row[column] is None else row[column] for column in columns)
        writer.writerow([safe_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    return buffer.getvalue()


def _page(rows: Sequence[dict[str, Any]], shares: Sequence[_Share]) -> str:
    annotated = [row for row in rows if row["status"] == ANNOTATED]
    names = [row["file"] for row in annotated]
    by_label: dict[str, dict[str, _Share]] = defaultdict(dict)
    for share in shares:
        by_label[share.label][share.file] = share
    return render_page(
        "cohort.html.j2",
        title=f"Cell types of {len(rows)} files" if len(rows) != 1 else "Cell types of one file",
        rows=rows,
        failed=[row for row in rows if row["status"] == FAILED],
        links={row["file"]: quote(f"{row['file']}/{PAGE}") for row in annotated if row["report"]},
        names=names,
        by_label=by_label,
        n_flagged=sum(row["flagged"] for row in annotated),
        n_cells=sum(row["cells"] for row in annotated),
        unknown=UNKNOWN,
    )
