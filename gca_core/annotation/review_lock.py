"""One writer at a time: a lock beside the results of a run or of a cohort, for reviewers and annotations."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from gca_core.errors import DataValidationError
from gca_core.io import as_path, write_text

log = logging.getLogger(__name__)

# the first stays there, empty, since whoever waits for it may have it open
LOCK, HOLDER = ".corrections.lock", ".corrections.holder"
LOCK_SECONDS = 120.0
# an annotation has more to lose than a table that can be applied again
ANNOTATION_SECONDS = 900.0
ANNOTATION = "an annotation"


@contextmanager
def reviewing(folder: str, who: str, *, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Keep others from writing to the results in ``folder`` for the time of the block.

    Object stores have no locks: there the block is run as it is, and so it is, with a warning, on a file system
    without them.

    Args:
        folder: path or URI; it is made where it isn't there.
        who: the reviewer or ``ANNOTATION``, for the message that others get.
        timeout: seconds to wait for somebody else.

    Raises:
        DataValidationError: somebody else held the lock all that time; says who.
    """
    path = as_path(folder)
    if path.protocol not in {"", "file", "local"}:
        yield
        return
    local = Path(str(path))
    local.mkdir(parents=True, exist_ok=True)
    holder = local / HOLDER
    # whoever may write to the folder may take the lock, whoever took it first
    lock = FileLock(local / LOCK, mode=0o666)
    try:
        _acquire(lock, holder, timeout)
    except Timeout:
        raise DataValidationError(
            f"the results in {folder} are being written by {_held_by(holder)}, for more than {timeout:.0f} s; nothing "
            "was changed. do it again when that is done"
        ) from None
    except OSError as error:
        log.warning("no lock can be taken in %s (%s); let nobody else write there until this is done", folder, error)
    if not lock.is_locked:
        yield
        return
    try:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        write_text(holder, f"{who}, process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, holder: Path, timeout: float) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("waiting for %s, to write in %s", _held_by(holder), holder.parent)
        lock.acquire(timeout=timeout)


def _held_by(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8").strip() or "somebody else"
    except OSError:
        return "somebody else"
