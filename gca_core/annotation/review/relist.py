"""The review queue beside results that corrections went into: what was decided leaves it."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

from gca_core.annotation.models import Status
from gca_core.annotation.report.page import plain_cell
from gca_core.annotation.review.page import QUEUE_CSV, QUEUE_HTML, pending_decisions, render_review_html
from gca_core.annotation.review.queue import HERE, Queue, cluster_key, collect_review
from gca_core.annotation.review.table import Decision, table_delimiter
from gca_core.errors import DataValidationError
from gca_core.io import PathInput, as_path, as_uri, join_uri, read_text, staged, write_text

log = logging.getLogger(__name__)

BOM = "\ufeff"


def relist(folder: str, applied: PathInput, decisions: Collection[Decision]) -> None:
    """Take what was decided off ``review.csv`` and ``review.html`` in a folder, where these are there.

    All other rows of the table stay as they are, to the letter, and so does the whole table where it is the one that
    was applied, or can't be read as one. The page lists what is flagged, and what else the table lists.

    Args:
        applied: the table that the decisions are from.
        decisions: that are in the results by now.
    """
    table, page = join_uri(folder, QUEUE_CSV), join_uri(folder, QUEUE_HTML)
    has_table, has_page = as_path(table).exists(), as_path(page).exists()
    if not has_table and not has_page:
        return
    try:
        queue = collect_review(folder, everything=True)
        made = {(real_folder(d.run.folder), cluster_key("", d.annotation)) for d in decisions}
        gone = {e.key for e in queue.entries if (real_folder(e.run.folder), cluster_key("", e.annotation)) in made}
        listed = _shorten(table, queue, gone, keep=_is_same(table, applied)) if has_table else set()
        if has_page:
            left = (e for e in queue.entries if e.annotation.status is Status.FLAGGED or e.key in listed - gone)
            text = render_review_html(replace(queue, entries=tuple(left)))
            if text != read_text(page):
                write_text(page, text)
    except (DataValidationError, OSError, UnicodeDecodeError) as error:
        log.warning("the review queue in %s still lists what was decided: %s", folder, error)


def real_folder(folder: str) -> str:
    """One name for a folder, however it is reached."""
    return folder if "://" in folder else os.path.realpath(folder)


def _shorten(table: str, queue: Queue, gone: Collection[str], *, keep: bool) -> set[str]:
    """Take rows of decided clusters out of a table, but those that say otherwise; returns the keys that it had."""
    try:
        pending = pending_decisions(table, queue)
        text = as_path(table).read_bytes().decode()
        rows = list(_rows(text, queue))
    except (DataValidationError, UnicodeDecodeError, csv.Error) as error:
        log.warning("%s stays as it is: %s", table, error)
        return set()
    left = [line for key, line in rows if key not in gone or key in pending]
    if not keep and len(left) < len(rows):
        with staged(table) as target:
            target.write_bytes("".join(left).encode())
    return {key for key, _ in rows}


def _rows(text: str, queue: Queue) -> Iterator[tuple[str, str]]:
    """The key and the text of each row, the header first, whose key is empty."""
    named = {(e.run.name, e.annotation.cluster): e.key for e in queue.entries}
    lines = list(StringIO(text, newline=""))
    reader = csv.reader(iter(lines), delimiter=table_delimiter(text), strict=True)
    header: list[str] = []
    start = 0
    for cells in reader:
        line, start = "".join(lines[start : reader.line_num]), reader.line_num
        if not header:
            header = [name.removeprefix(BOM) for name in cells]
            yield "", line
            continue
        row = {name: plain_cell(cell.strip()) for name, cell in zip(header, cells, strict=False)}
        place = (row.get("run") or HERE, row.get("cluster", ""))
        yield row.get("key") or named.get(place, ""), line


def _is_same(one: PathInput, other: PathInput) -> bool:
    first, second = as_path(one), as_path(other)
    if "://" in str(first) or "://" in str(second):
        return as_uri(first) == as_uri(second)
    return second.exists() and Path(str(first)).samefile(str(second))
