"""One writer at a time in a folder of results."""

import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

from filelock import FileLock, Timeout

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.io import PathInput, as_path, as_uri, is_local, reaching

log = logging.getLogger(__name__)

# of a folder of results; the lock stays, empty, since whoever waits for it may have it open
HIDDEN = ".gca"
# seconds to wait where others are done soon
BRIEFLY = 120.0


@contextmanager
def sole_writer(folder: PathInput, *, wait: float = 0.0) -> Iterator[None]:
    """Let no other process write results to ``folder`` for the time of the block.

    The lock is a file that the system locks, so it goes with the process. In an object store there is none: the last
    writer wins. Where a file system has no locks, the block is run as it is, with a warning.

    Args:
        folder: path or URI; it is made where it isn't there, and goes again if the block leaves nothing in it.
        wait: seconds to wait for another process.

    Raises:
        DataValidationError: another process is at it; says which, and since when.
        ConfigurationError: the folder can't be made or written to.
    """
    path = as_path(folder)
    if not is_local(path):
        yield
        return
    local = Path(str(path))
    made, hidden = not local.exists(), local / HIDDEN
    try:
        hidden.mkdir(parents=True, exist_ok=True)
        if not os.access(local, os.W_OK):
            raise PermissionError("this user has no right to")
    except OSError as error:
        raise ConfigurationError(
            f"results can't be written to {str(local)!r}: {error}; name a folder that this user may write to"
        ) from None
    lock = FileLock(hidden / "lock")
    _acquire(lock, hidden / "holder", local, wait)
    try:
        yield
    finally:
        (hidden / "holder").unlink(missing_ok=True)
        lock.release()
        if made and list(local.iterdir()) == [hidden]:
            shutil.rmtree(local, ignore_errors=True)


def check_earlier(folder: PathInput, result: str, *, overwrite: bool) -> None:
    """Say in the log that earlier results in ``folder`` are replaced, or refuse to.

    Args:
        folder: path or URI.
        result: name of the file that shows that there are any, or a pattern such as ``*_log.json``.

    Raises:
        DataValidationError: there are, and they are not to be overwritten.
    """
    with reaching(folder):
        place = as_path(folder)
        if "*" in result:
            there = place.is_dir() and any(fnmatch(path.name, result) for path in place.iterdir())
        else:
            there = (place / result).exists()
    if there and not overwrite:
        raise DataValidationError(
            f"{as_uri(folder)} holds earlier results, which are not to be replaced; name another output folder, or "
            "allow to overwrite"
        )
    if there:
        log.info("the earlier results in %s are replaced", as_uri(folder))


def _acquire(lock: FileLock, holder: Path, folder: Path, wait: float) -> None:
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wait:
                log.warning("waiting for %s, which writes to %s", _text(holder), folder)
            lock.acquire(timeout=wait)
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {now}", encoding="utf-8")
    except Timeout:
        raise DataValidationError(
            f"already running: {_text(holder)}, writes to {str(folder)!r}; nothing was changed. do it again when that "
            "is done, or name another output folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        log.warning("no lock can be taken in %s (%s); let nobody else write there until this is done", folder, error)


def _text(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8")
    except OSError:
        return "another process"
