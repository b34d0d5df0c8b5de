"""Files that are kept because making them again costs time or money: one entry each, under a key.

A key is the hash of all that the content follows from. An entry is written under a temporary name and renamed, so that
any number of processes may share a folder. It starts with the hash of the rest; one that is damaged, or lies under
another key, counts as absent.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from gca_core.config import load_settings
from gca_core.errors import ConfigurationError
from gca_core.io import as_path, is_local, sha256_bytes, staged

log = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9a-f]{64}")


def cache_root(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder that is given, else ``GCA_CACHE_DIR``, else the user's cache directory.

    Raises:
        ConfigurationError: not a place on this machine's file systems.
    """
    named = given or load_settings().cache_dir or platformdirs.user_cache_dir("gca", appauthor=False)
    path = as_path(named)
    if not is_local(path):
        raise ConfigurationError(f"the cache directory {os.fspath(named)!r} is remote; expected a local folder")
    return Path(str(path))


@dataclass(frozen=True)
class Entry:
    """What is kept under a key.

    Attributes:
        content: as it was given.
        about: what its owner wants to know of it, such as the model that it came from.
        created: seconds since 1970.
    """

    content: bytes
    about: dict[str, Any]
    created: float


class FileCache:
    """The entries under a folder, which is made with the first of them.

    Args:
        folder: of this kind of entry alone.
        clock: seconds since 1970.
    """

    def __init__(self, folder: str | os.PathLike[str], clock: Callable[[], float] = time.time) -> None:
        self.folder, self._clock = Path(folder), clock

    def get(self, key: str, *, max_age_s: float | None = None) -> Entry | None:
        """The entry under a key; None if there is none, none that is whole, or an older one."""
        entry = _read(self._path(key))
        if entry is None or max_age_s is None:
            return entry
        return entry if 0 <= self._clock() - entry.created < max_age_s else None

    def put(self, key: str, content: bytes, about: Mapping[str, Any] | None = None) -> None:
        """Keep an entry; a folder that can't be written to is no reason to fail."""
        head = json.dumps({"key": key, "created": round(self._clock(), 3), "about": dict(about or {})})
        rest = head.encode() + b"\n" + content
        try:
            with staged(self._path(key)) as path:
                path.write_bytes(sha256_bytes(rest).encode() + b"\n" + rest)
        except OSError as error:
            log.warning("nothing could be cached in %s: %s", self.folder, error)

    def files(self) -> Iterator[Path]:
        """The files of the entries, whole or not."""
        return (path for path in sorted(self.folder.glob("[0-9a-f][0-9a-f]/*")) if _NAME.fullmatch(path.name))

    def size(self) -> tuple[int, int]:
        """How many entries there are, and their bytes."""
        sizes = [path.stat().st_size for path in self.files()]
        return len(sizes), sum(sizes)

    def entries(self) -> Iterator[tuple[Path, Entry | None]]:
        """Each file with its entry, None where it isn't whole; O(bytes), since all are read."""
        return ((path, _read(path)) for path in self.files())

    def clear(self, only: Callable[[Entry], bool] | None = None) -> int:
        """Delete the entries, or those of a kind; returns how many. Nothing else is touched."""
        removed = 0
        for path in self.files():
            if only is not None and ((entry := _read(path)) is None or not only(entry)):
                continue
            path.unlink(missing_ok=True)
            removed += 1
        return removed

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key


def _read(path: Path) -> Entry | None:
    try:
        digest, _, rest = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if digest != sha256_bytes(rest).encode():
        return None
    head, _, content = rest.partition(b"\n")
    found = json.loads(head)
    return Entry(content, found["about"], found["created"]) if found["key"] == path.name else None
