"""The summary of a cohort: a table of its files, their composition, and a page."""

import csv
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from gca_core.annotation.markers.delimited import plain_cell, safe_cell
from gca_core.annotation.models import UNKNOWN, DatasetReport
from gca_core.annotation.review.queue import PAGE, REPORT, Run, collect_review
from gca_core.errors import DataValidationError
from gca_core.io import (
    PathInput,
    as_path,
    join_uri,
    read_text,
    write_text,
)
from gca_core.pages import render_page

log = logging.getLogger(__name__)

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


class CohortFile(BaseModel, frozen=True, extra="forbid"):
    """One file of a cohort.

    Attributes:
        name: of its folder below the cohort's; safe as a file name, and its own.
        input_uri: of the data.
        output_uri: the folder for its results.
        corrections: URI of the corrections of this file, where a review made any.
    """

    name: str
    input_uri: str
    output_uri: str
    corrections: str | None = None


@dataclass(frozen=True)
class Share:
    """The part of one label in one file."""

    label: str
    ontology_id: str | None
    file: str
    clusters: int
    cells: int
    share: float


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
        runs = tuple(read_run(file) for file in files if file.name in finished)
    except (DataValidationError, UnicodeDecodeError, csv.Error) as error:
        log.warning("the summary of the cohort in %s could not be written anew: %s", folder, error)
        _say_older(join_uri(folder, FILES["html"]))
        return False
    write_summary(folder, summary_rows(files, runs), composition(runs))
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


def write_summary(output: PathInput, rows: Sequence[dict[str, Any]], shares: Sequence[Share]) -> dict[str, str]:
    return {
        "csv": write_text(join_uri(output, FILES["csv"]), _csv(CSV_COLUMNS, rows)),
        "composition": write_text(join_uri(output, FILES["composition"]), _csv(COMPOSITION_COLUMNS, map(vars, shares))),
        "html": write_text(join_uri(output, FILES["html"]), _page(rows, shares)),
    }


def read_run(file: CohortFile) -> Run:
    (run,) = collect_review(join_uri(file.output_uri, REPORT)).runs
    return Run(file.name, run.folder, run.report, run.has_page)


def summary_rows(files: Sequence[CohortFile], runs: Sequence[Run]) -> list[dict[str, Any]]:
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


def composition(runs: Sequence[Run]) -> list[Share]:
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
        Share(label, one_term[label], file, len(cells), sum(cells), round(sum(cells) / totals[file], 4))
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


def _page(rows: Sequence[dict[str, Any]], shares: Sequence[Share]) -> str:
    annotated = [row for row in rows if row["status"] == ANNOTATED]
    names = [row["file"] for row in annotated]
    by_label: dict[str, dict[str, Share]] = defaultdict(dict)
    for share in shares:
        by_label[share.label][share.file] = share
    return render_page(
        "gca_core.annotation",
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
