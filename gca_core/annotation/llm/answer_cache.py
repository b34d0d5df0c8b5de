"""Models' answers on disk: one file per answer, under the hash of everything that decided it.

Each file is written under a temporary name and renamed, so that any number of processes may share a cache and
one that dies leaves nothing half-written under a final name. What can't be read counts as absent.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs
from pydantic import BaseModel, ConfigDict, ValidationError

from gca_core.annotation.llm.models import ClusterAnswer
from gca_core.config import load_settings
from gca_core.errors import ConfigurationError
from gca_core.io import as_path, staged

log = logging.getLogger(__name__)

FOLDER = "answers"
FORMAT = 1
_NAME = re.compile(r"([0-9a-f]{64})\.json")
_BUCKET = re.compile(r"[0-9a-f]{2}")


class CachedAnswer(BaseModel):
    """One file of the cache; it holds no cluster name and no key of a provider."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    key: str
    model: str
    prompt_version: str
    created: float
    answer: ClusterAnswer


class CacheInfo(BaseModel):
    """What a cache holds.

    Attributes:
        models: answers by model.
        unreadable: files that are no answers, which count as absent.
        oldest, newest: seconds since 1970.
    """

    model_config = ConfigDict(frozen=True)

    folder: str
    answers: int
    unreadable: int
    bytes: int
    models: dict[str, int]
    oldest: float | None
    newest: float | None


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where answers are kept: under ``cache_dir``, ``GCA_CACHE_DIR`` or the user's cache directory.

    Raises:
        ConfigurationError: not a place on this machine's file systems.
    """
    given = cache_dir or load_settings().cache_dir or platformdirs.user_cache_dir("gca", appauthor=False)
    path = as_path(given)
    if path.protocol not in {"", "file", "local"}:
        raise ConfigurationError(f"the cache directory {os.fspath(given)!r} is remote; expected a local folder")
    return Path(str(path)) / FOLDER


class AnswerCache:
    """The answers under a folder, see :func:`cache_folder`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> ClusterAnswer | None:
        """The answer under a key; None if there is none, or none that can be read."""
        found = _read(self._path(key))
        return found.answer if found is not None and found.key == key else None

    def put(self, key: str, answer: ClusterAnswer, *, model: str, prompt_version: str) -> None:
        """Keep an answer; a cache that can't be written to is no reason to fail."""
        entry = CachedAnswer(
            key=key,
            model=model,
            prompt_version=prompt_version,
            created=round(time.time(), 3),
            answer=ClusterAnswer.model_validate(answer.model_dump()),
        )
        try:
            with staged(self._path(key)) as path:
                path.write_text(entry.model_dump_json(), encoding="utf-8")
        except OSError as error:
            log.warning("the answer could not be cached in %s: %s", self.folder, error)

    def info(self) -> CacheInfo:
        """What the cache holds; O(number of answers), all of which are read."""
        models: dict[str, int] = {}
        created: list[float] = []
        size = unreadable = 0
        for path in self._files():
            try:
                size += path.stat().st_size
            except OSError:
                continue
            entry = _read(path)
            if entry is None:
                unreadable += 1
                continue
            models[entry.model] = models.get(entry.model, 0) + 1
            created.append(entry.created)
        return CacheInfo(
            folder=str(self.folder),
            answers=len(created),
            unreadable=unreadable,
            bytes=size,
            models=dict(sorted(models.items())),
            oldest=min(created, default=None),
            newest=max(created, default=None),
        )

    def clear(self, *, model: str | None = None) -> int:
        """Delete all answers, or those of one model; returns how many. Nothing but answers is touched.

        A process that writes at the same time loses nothing: its answer is there or is not.
        """
        removed = 0
        for path in self._files():
            if model is not None:
                entry = _read(path)
                if entry is None or entry.model != model:
                    continue
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            removed += 1
        return removed

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def _buckets(self) -> Iterator[Path]:
        try:
            found = sorted(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from (path for path in found if _BUCKET.fullmatch(path.name) and path.is_dir())

    def _files(self) -> Iterator[Path]:
        for bucket in self._buckets():
            yield from (path for path in sorted(bucket.iterdir()) if _NAME.fullmatch(path.name))


def _read(path: Path) -> CachedAnswer | None:
    try:
        entry = CachedAnswer.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return entry if entry.format == FORMAT else None
