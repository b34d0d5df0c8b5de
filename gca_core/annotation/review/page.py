"""The review queue written out: the table to fill in, and the page to read beside it."""

import logging
from collections.abc import Mapping
from urllib.parse import quote

from gca_core.annotation.labels.corrections import Correction
from gca_core.annotation.report.words import flag_advice, flag_name
from gca_core.annotation.review.queue import HERE, PAGE, Entry, Queue, collect_review, real_folder
from gca_core.annotation.review.table import N_TOP, decide, parse_review, render_review_csv
from gca_core.errors import DataValidationError
from gca_core.io import PathInput, as_path, join_uri, read_text, write_text
from gca_core.pages import render_page

log = logging.getLogger(__name__)

QUEUE_CSV, QUEUE_HTML = "review.csv", "review.html"


def write_review(queue: Queue, folder: PathInput | None = None) -> dict[str, str]:
    """Write ``review.csv`` and ``review.html`` and return their URIs, by csv and html.

    Decisions in a table that is there already, and that were not applied yet, are kept in the new one.

    Args:
        folder: where to; None means the cohort's own folder, from where the page links to the reports.

    Raises:
        DataValidationError: a table is there with decisions that are neither applied nor fit the clusters any more.
    """
    target = queue.root if folder is None else str(as_path(folder)).rstrip("/")
    linked = target == queue.root
    pending = _pending_decisions(join_uri(target, QUEUE_CSV), queue)
    listed = {entry.key for entry in queue.entries}
    entries = [*queue.entries, *(entry for key, (entry, _) in pending.items() if key not in listed)]
    filled: Mapping[str, Correction] = {key: correction for key, (_, correction) in pending.items()}
    return {
        "csv": write_text(join_uri(target, QUEUE_CSV), render_review_csv(entries, filled)),
        "html": write_text(join_uri(target, QUEUE_HTML), render_review_html(queue, linked=linked)),
    }


def refresh_review(folder: str, applied: PathInput) -> None:
    """Write ``review.csv`` and ``review.html`` of a folder again, where these are there, without what was decided.

    The table that was applied stays as the reviewer left it. So does one that can't be read, and the log says so.
    """
    table, page = (as_path(join_uri(folder, name)) for name in (QUEUE_CSV, QUEUE_HTML))
    try:
        if page.exists():
            write_text(page, render_review_html(collect_review(folder)))
        if table.exists() and real_folder(str(table)) != real_folder(str(as_path(applied))):
            write_review(collect_review(folder))
    except (DataValidationError, OSError) as error:
        log.warning("the review queue in %s still lists what was decided: %s", folder, error)


def render_review_html(queue: Queue, *, linked: bool = True) -> str:
    """The page; all text from data is escaped.

    Args:
        linked: whether it will lie in the cohort's folder, so that links to the reports lead there.
    """
    links = {run.name: quote(PAGE if run.name == HERE else f"{run.name}/{PAGE}") for run in queue.runs if run.has_page}
    return render_page(
        "gca_core.annotation",
        "review.html.j2",
        title=f"{len(queue.entries)} clusters to review" if len(queue.entries) != 1 else "1 cluster to review",
        queue=queue,
        links=links if linked else {},
        n_clusters=sum(len(run.report.annotations) for run in queue.runs),
        n_decided=sum(a.override is not None for run in queue.runs for a in run.report.annotations),
        n_top=N_TOP,
        flag_name=flag_name,
        flag_advice=flag_advice,
    )


def _pending_decisions(uri: str, queue: Queue) -> dict[str, tuple[Entry, Correction]]:
    """The decisions of the table at ``uri`` that are not in the reports yet, by the key of their cluster.

    Raises:
        DataValidationError: the table can't be read, or doesn't fit the reports.
    """
    if not as_path(uri).exists():
        return {}
    try:
        decisions = decide(parse_review(read_text(uri)), queue, who="pending", free_labels=True)
    except (DataValidationError, UnicodeDecodeError) as error:
        raise DataValidationError(
            f"{uri} is there and can't be read as a table of corrections for these results; apply it, or move it "
            f"away, before a new one is written. {error}"
        ) from None
    entries = ((Entry(d.run, d.annotation), d.correction) for d in decisions)
    return {entry.key: (entry, correction) for entry, correction in entries if not _in_place(entry, correction)}


def _in_place(entry: Entry, correction: Correction) -> bool:
    known = entry.annotation.override
    return known is not None and (known.label, known.note) == (correction.label, correction.note)
