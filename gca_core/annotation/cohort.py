"""A cohort: the files under a prefix, a folder of results for each, and one summary over all of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from pydantic import BaseModel
from upath import UPath

from gca_core.annotation.labels.corrections import load_corrections
from gca_core.annotation.models import UNKNOWN, Status
from gca_core.annotation.review.page import write_review
from gca_core.annotation.review.queue import REPORT, Entry, Queue
from gca_core.annotation.review.summary import (
    FAILED,
    CohortFile,
    composition,
    read_run,
    summary_rows,
    write_summary,
)
from gca_core.errors import DataValidationError
from gca_core.io import (
    PathInput,
    as_path,
    as_uri,
    content_hash,
    join_uri,
    reaching,
    safe_name,
    write_json,
)
from gca_core.locks import BRIEFLY, sole_writer

FILE_SUFFIXES = (".h5ad", ".loom")
FOLDER_SUFFIX = ".zarr"
OWN_RESULTS = ("annotated.h5ad", "annotated.zarr")
GIVEN_CORRECTIONS = "given_corrections.json"


class CohortResult(BaseModel, frozen=True):
    """What a cohort's summary says, small enough for XCom.

    Attributes:
        uris: of cohort.csv, composition.csv, cohort.html and the review queue, by csv, composition, html, review_csv
            and review_html.
        failed: names of the files without a result.
        n_unknown: cells that got no label.
    """

    uris: dict[str, str]
    n_files: int
    failed: tuple[str, ...]
    n_clusters: int
    n_flagged: int
    n_cells: int
    n_unknown: int
    n_labels: int


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
        runs = tuple(read_run(file) for file in done)
        flagged = (Entry(run, a) for run in runs for a in run.report.annotations if a.status is Status.FLAGGED)
        queue = Queue(root, runs, tuple(flagged))
        rows = summary_rows(files, runs)
        shares = composition(runs)
        review = write_review(queue)
        uris = write_summary(output, rows, shares)
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
