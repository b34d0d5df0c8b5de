"""Models' answers on disk, under the hash of everything that decided them; no cluster name and no key is in them."""

import os
from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ValidationError

from gca_core.annotation.llm.models import ClusterAnswer
from gca_core.cache import FileCache, cache_root

FOLDER = "answers"


class CacheInfo(BaseModel, frozen=True):
    """What a cache holds.

    Attributes:
        models: answers by model.
        unreadable: files that are no answers, which count as absent.
        oldest, newest: seconds since 1970.
    """

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
    return cache_root(cache_dir) / FOLDER


class AnswerCache:
    """The answers under a folder, see :func:`cache_folder`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._files = FileCache(folder)

    def get(self, key: str) -> ClusterAnswer | None:
        """The answer under a key; None if there is none, or none that can be read."""
        entry = self._files.get(key)
        try:
            return None if entry is None else ClusterAnswer.model_validate_json(entry.content)
        except ValidationError:
            return None

    def put(self, key: str, answer: ClusterAnswer, *, model: str, prompt_version: str) -> None:
        """Keep an answer; a cache that can't be written to is no reason to fail."""
        plain = ClusterAnswer.model_validate(answer.model_dump())
        self._files.put(key, plain.model_dump_json().encode(), {"model": model, "prompt_version": prompt_version})

    def info(self) -> CacheInfo:
        """What the cache holds; O(number of answers), all of which are read."""
        found = [entry for _, entry in self._files.entries()]
        whole = [entry for entry in found if entry is not None]
        created = [entry.created for entry in whole]
        return CacheInfo(
            folder=str(self._files.folder),
            answers=len(whole),
            unreadable=len(found) - len(whole),
            bytes=self._files.size()[1],
            models=dict(sorted(Counter(entry.about["model"] for entry in whole).items())),
            oldest=min(created, default=None),
            newest=max(created, default=None),
        )

    def clear(self, *, model: str | None = None) -> int:
        """Delete all answers, or those of one model; returns how many. Nothing but answers is touched."""
        return self._files.clear(None if model is None else lambda entry: entry.about["model"] == model)
