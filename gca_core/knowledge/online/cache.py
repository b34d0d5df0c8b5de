"""Answers of services on disk, one file each, until they expire.

A file is written under a temporary name and renamed, so that processes may share a folder. What can't be
read counts as absent. Neither keys nor e-mail addresses are part of a file or of its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from gca_core import io

FORMAT = 1


class CachedResponse(BaseModel):
    """One file of the cache.

    Args:
        request: what was asked, without secrets.
        created: seconds since 1970.
        body: the answer as text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    request: dict[str, str]
    created: float
    body: str


class ResponseCache:
    """Answers under a folder.

    Args:
        folder: made when the first answer is kept.
        max_age_s: older answers count as absent; 0 keeps nothing.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Path, max_age_s: float, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._max_age_s, self._clock = folder, max_age_s, clock

    def get(self, request: Mapping[str, str]) -> str | None:
        """The answer to a request, if there is one that has not expired."""
        path = self._path(request)
        try:
            found = CachedResponse.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None
        age = self._clock() - found.created
        fresh = found.format == FORMAT and found.request == dict(request) and 0 <= age < self._max_age_s
        return found.body if fresh else None

    def put(self, request: Mapping[str, str], body: str) -> None:
        """Keep an answer; a disk that can't be written to is no failure of the call."""
        if self._max_age_s <= 0:
            return
        entry = CachedResponse(request=dict(request), created=self._clock(), body=body)
        try:
            io.write_text(self._path(request), entry.model_dump_json())
        except OSError:
            return

    def _path(self, request: Mapping[str, str]) -> Path:
        key = io.content_hash(dict(request))
        return self._folder / key[:2] / f"{key}.json"
