"""One writer at a time: a lock beside the results of a run or of a cohort, for reviewers and annotations."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout
from upath import UPath

from gca_core.errors import DataValidationError
from gca_core.io import as_path, write_text

log = logging.getLogger(__name__)

# the first stays in a folder, empty, since whoever waits for it may have it open; in an object store it is removed
LOCK, HOLDER = ".corrections.lock", ".corrections.holder"
LOCK_SECONDS = 120.0
# an annotation has more to lose than a table that can be applied again
ANNOTATION_SECONDS = 900.0
ANNOTATION = "an annotation"
# an object outlives a process that was killed: it counts for less time than the next annotation waits
OBJECT_SECONDS = 840.0
OBJECT_POLL_SECONDS = 1.0
_UNLOCKED = "no lock can be taken in %s (%s); let nobody else write there until this is done"


@contextmanager
def reviewing(folder: str, who: str, *, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Keep others from writing to the results in ``folder`` for the time of the block.

    In a folder the lock is a file that the system locks; in an object store, an object that is made only where there
    is none, and that counts for a quarter of an hour. Where neither can be had, the block is run as it is, with a
    warning.

    Args:
        folder: path or URI; it is made where it isn't there.
        who: the reviewer or ``ANNOTATION``, for the message that others get.
        timeout: seconds to wait for somebody else.

    Raises:
        DataValidationError: somebody else held the lock all that time; says who.
    """
    path = as_path(folder)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    holder = f"{who}, process {os.getpid()} on {socket.gethostname()}, since {now}"
    if path.protocol in {"", "file", "local"}:
        with _file_lock(Path(str(path)), holder, timeout):
            yield
    else:
        with _object_lock(path / LOCK, holder, timeout):
            yield


@contextmanager
def _file_lock(folder: Path, holder: str, timeout: float) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    # whoever may write to the folder may take the lock, whoever took it first
    lock = FileLock(folder / LOCK, mode=0o666)
    try:
        _acquire(lock, folder, timeout)
    except Timeout:
        raise _refusal(folder, _held_by(folder), timeout) from None
    except OSError as error:
        log.warning(_UNLOCKED, folder, error)
    if not lock.is_locked:
        yield
        return
    try:
        write_text(folder / HOLDER, f"{holder}\n")
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, folder: Path, timeout: float) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("waiting for %s, to write in %s", _held_by(folder), folder)
        lock.acquire(timeout=timeout)


def _held_by(folder: Path) -> str:
    try:
        return (folder / HOLDER).read_text(encoding="utf-8").strip() or "somebody else"
    except OSError:
        return "somebody else"


@contextmanager
def _object_lock(lock: UPath, holder: str, timeout: float) -> Iterator[None]:
    token = uuid.uuid4().hex
    try:
        _make(lock, holder, token, timeout)
    except (OSError, TypeError, NotImplementedError) as error:
        log.warning(_UNLOCKED, lock.parent, error)
        yield
        return
    # what others wrote until now is not what a listing from before says
    lock.fs.invalidate_cache()
    try:
        yield
    finally:
        _release(lock, token)


def _make(lock: UPath, holder: str, token: str, timeout: float) -> None:
    """Make the object, once there is none of somebody else's that still counts."""
    deadline, told = time.monotonic() + timeout, False
    while True:
        until = datetime.now(UTC) + timedelta(seconds=OBJECT_SECONDS)
        mine = json.dumps({"holder": holder, "until": until.isoformat(), "token": token}).encode()
        try:
            lock.fs.pipe_file(lock.path, mine, mode="create")
        except FileExistsError:
            there = _content(lock)
        else:
            return
        if there is None:
            continue
        if _is_of(there, token):
            # the answer to an earlier try got lost
            return
        who, over = _of_object(there)
        if over:
            log.warning("the lock %s of %s is over, and is removed", lock, who)
            _remove(lock)
            continue
        if not told:
            log.warning("waiting for %s, to write in %s", who, lock.parent)
            told = True
        if time.monotonic() >= deadline:
            raise _refusal(lock.parent, who, timeout, f"; if that process is gone, delete {lock}")
        time.sleep(min(OBJECT_POLL_SECONDS, max(timeout, 0.01)))


def _release(lock: UPath, token: str) -> None:
    try:
        if _is_of(_content(lock), token):
            _remove(lock)
        else:
            log.warning("the lock %s was over before this was done; look whether somebody else wrote there", lock)
    except OSError as error:
        log.warning("the lock %s could not be removed (%s); delete it, or wait for a quarter of an hour", lock, error)


def _is_of(content: bytes | None, token: str) -> bool:
    return content is not None and f'"token": "{token}"'.encode() in content


def _content(lock: UPath) -> bytes | None:
    try:
        return bytes(lock.fs.cat_file(lock.path))
    except FileNotFoundError:
        return None


def _remove(lock: UPath) -> None:
    try:
        lock.fs.rm_file(lock.path)
    except FileNotFoundError:
        return


def _of_object(content: bytes) -> tuple[str, bool]:
    """Who holds a lock, and whether its time is over."""
    try:
        said = json.loads(content)
        return str(said["holder"]), datetime.fromisoformat(said["until"]) < datetime.now(UTC)
    except (ValueError, KeyError, TypeError):
        return "somebody else", False


def _refusal(folder: Path | UPath, who: str, timeout: float, advice: str = "") -> DataValidationError:
    return DataValidationError(
        f"the results in {folder} are being written by {who}, for more than {timeout:.0f} s; nothing was changed. do "
        f"it again when that is done{advice}"
    )
