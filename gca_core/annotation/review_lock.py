"""One reviewer at a time: a lock beside the corrections of a run or of a cohort."""

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


@contextmanager
def reviewing(folder: str, who: str, *, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Keep others from applying corrections to the results in ``folder`` for the time of the block.

    Object stores have no locks: there the block is run as it is.

    Args:
        who: the reviewer, for the message that others get.
        timeout: seconds to wait for somebody else.

    Raises:
        DataValidationError: somebody else held the lock all that time; says who.
    """
    path = as_path(folder)
    if path.protocol not in {"", "file", "local"}:
        yield
        return
    holder = Path(str(path)) / HOLDER
    # whoever may write to the folder may take the lock, whoever took it first
    lock = FileLock(Path(str(path)) / LOCK, mode=0o666)
    try:
        _acquire(lock, holder, timeout)
    except Timeout:
        raise DataValidationError(
            f"corrections are being applied to {folder} by {_held_by(holder)}, for more than {timeout:.0f} s; nothing "
            "was changed. apply again when that is done"
        ) from None
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
        log.warning("waiting for %s, who applies corrections", _held_by(holder))
        lock.acquire(timeout=timeout)


def _held_by(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8").strip() or "somebody else"
    except OSError:
        return "somebody else"
