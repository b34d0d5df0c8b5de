"""The review queue: the flagged clusters of one run, or of a cohort."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from gca_core.annotation.labels.corrections import FINGERPRINT_GENES
from gca_core.annotation.models import Annotation, DatasetReport, Status
from gca_core.errors import DataValidationError, complaints
from gca_core.io import PathInput, as_path, content_hash, read_text

REPORT, PAGE = "report.json", "report.html"
HERE = "."


@dataclass(frozen=True)
class Run:
    """One annotation whose report was found.

    Attributes:
        name: its folder below the cohort's, with slashes; ``.`` where it is that folder.
        folder: path or URI.
        has_page: whether its HTML report lies beside it.
    """

    name: str
    folder: str
    report: DatasetReport
    has_page: bool


@dataclass(frozen=True)
class Entry:
    """A cluster that is up for review."""

    run: Run
    annotation: Annotation

    @property
    def key(self) -> str:
        """Tells the cluster with its present top genes from all others of the cohort; 16 hex digits."""
        return cluster_key(self.run.name, self.annotation)


@dataclass(frozen=True)
class Queue:
    """The runs of a cohort, and what is up for review.

    Attributes:
        root: path or URI of the folder that the names of the runs start at.
    """

    root: str
    runs: tuple[Run, ...]
    entries: tuple[Entry, ...]

    def run(self, name: str) -> Run | None:
        """The run of that name."""
        return next((run for run in self.runs if run.name == name), None)


def cluster_key(run: str, annotation: Annotation) -> str:
    """A hash of the run, the cluster and its top genes; the label is not in it."""
    return content_hash([run, annotation.cluster, list(annotation.markers[:FINGERPRINT_GENES])])[:16]


def collect_review(where: PathInput | Sequence[PathInput], *, everything: bool = False) -> Queue:
    """Find the reports under a folder, or those of the files named, and what is flagged in them.

    Args:
        where: a folder or URI prefix, searched at any depth; or files, each a ``report.json`` or a result beside one.
        everything: take the clusters that are not flagged, too.

    Raises:
        DataValidationError: nothing is there, or a report can't be read.
    """
    given = [where] if isinstance(where, str) or not isinstance(where, Sequence) else list(where)
    found = sorted({report for place in given for report in _reports(place)})
    if not found:
        raise DataValidationError(
            f"there is no {REPORT} under {', '.join(str(place) for place in given) or 'no place'}; annotate first with "
            "'gca scanpy annotate', and name the folder of its results"
        )
    root = _root(given, found)
    runs = tuple(_read_run(report, root) for report in found)
    wanted = (Entry(run, a) for run in runs for a in run.report.annotations if everything or a.status is Status.FLAGGED)
    return Queue(root, runs, tuple(wanted))


def single_run(where: PathInput) -> Run:
    """The one annotation that a folder holds, or that a file is a result of.

    Raises:
        DataValidationError: nothing is there, a report can't be read, or there are several.
    """
    runs = collect_review(where).runs
    if len(runs) > 1:
        raise DataValidationError(
            f"{str(where)!r} holds the results of {len(runs)} runs: {', '.join(repr(run.name) for run in runs[:5])}; "
            "name the folder of one"
        )
    return runs[0]


def _reports(place: PathInput) -> list[str]:
    """The reports that a place stands for: those under a folder, or the one that is or lies beside a file."""
    path = as_path(place)
    if path.name.endswith(".json") and path.is_file():
        return [str(path)]
    if path.is_file() or path.name.endswith(".zarr"):
        beside = path.parent / REPORT
        if not beside.exists():
            raise DataValidationError(f"there is no {REPORT} beside {str(place)!r}; name a folder of results")
        return [str(beside)]
    if not path.exists():
        raise DataValidationError(f"{str(place)!r} does not exist; name a folder of results, or a {REPORT}")
    # hidden folders hold what is being written
    found = (str(report) for report in path.rglob(REPORT))
    return [report for report in found if "/." not in report.removeprefix(str(path))]


def _root(given: Sequence[PathInput], found: Sequence[str]) -> str:
    """The folder given, or the deepest one that holds all reports."""
    if len(given) == 1 and as_path(given[0]).is_dir() and not str(given[0]).endswith(".zarr"):
        return str(as_path(given[0])).rstrip("/")
    parts = [report.split("/")[:-1] for report in found]
    shared = 0
    while all(len(p) > shared and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return "/".join(parts[0][:shared])


def _read_run(path: str, root: str) -> Run:
    folder = path.rsplit("/", 1)[0]
    try:
        report = DatasetReport.model_validate_json(read_text(path, what="report"))
    except ValidationError as error:
        raise DataValidationError(
            f"{path} is no annotation report of this version: {complaints(error, at_most=1)}; annotate the file again"
        ) from None
    name = folder.removeprefix(root).strip("/") or HERE
    return Run(name, folder, report, as_path(f"{folder}/{PAGE}").exists())


def real_folder(folder: str) -> str:
    """One name for a folder, however it is reached."""
    return folder if "://" in folder else os.path.realpath(folder)
