"""Predictions that were made before: kept under the hash of all that they follow from."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from gca_core import __version__, io
from gca_core.cache import Entry, FileCache, cache_root
from gca_core.config import load_settings
from gca_core.errors import GcaError
from gca_core.inference.models import InferenceRequest, InferenceResult, InferenceStatus

log = logging.getLogger(__name__)

FOLDER = "predictions"
# the oldest go first
MOST_BYTES = 10 * 2**30


def kept_predictions(cache_dir: str | None = None) -> FileCache:
    """The cache, under the folder that is given, ``GCA_CACHE_DIR`` or the user's cache directory."""
    return FileCache(cache_root(cache_dir) / FOLDER)


def take(requests: Sequence[InferenceRequest]) -> dict[str, InferenceResult]:
    """The answers that are known, by candidate id, with their predictions at the places that are asked for.

    What can't be read counts as unknown, so that the job itself says what is wrong. Where ``GCA_KEEP_PREDICTIONS`` is
    off, nothing is known.
    """
    if not load_settings().keep_predictions:
        return {}
    cache, found = kept_predictions(), {}
    for request in requests:
        entry = _entry(cache, request)
        if entry is None:
            continue
        with io.staged(request.output_uri) as path:
            path.write_bytes(entry.content)
        kept = InferenceResult.model_validate(entry.about)
        changes = {"candidate_id": request.candidate_id, "prediction_uri": io.as_uri(request.output_uri)}
        found[request.candidate_id] = kept.model_copy(update={**changes, "duration_seconds": 0.0, "cached": True})
        log.info("the prediction of %s was made before and is taken from the cache", request.candidate_id)
    return found


def keep(requests: Sequence[InferenceRequest], results: Sequence[InferenceResult]) -> None:
    """Keep the predictions that succeeded and are new; one that can't be kept is no reason to fail."""
    if not load_settings().keep_predictions:
        return
    by_id, cache, new = {request.candidate_id: request for request in requests}, kept_predictions(), False
    for result in results:
        request = by_id.get(result.candidate_id)
        if request is None or result.cached or result.status is not InferenceStatus.SUCCEEDED:
            continue
        try:
            key, content = request_key(request), io.as_path(result.prediction_uri or "").read_bytes()
        except (OSError, GcaError) as error:
            log.warning("the prediction of %s is not kept: %s", result.candidate_id, error)
            continue
        cache.put(key, content, result.model_dump(mode="json", exclude={"prediction_uri", "candidate_id"}) | _NAMELESS)
        new = True
    if new:
        _make_room(cache)


def request_key(request: InferenceRequest) -> str:
    """The hash of a request's content: cells, model, seeds, and this version; neither names nor places are in it.

    Raises:
        DataValidationError: a file can't be read.
    """
    own = request.model_dump(mode="json", exclude={"candidate_id", "output_uri"})
    cells = {name: io.sha256_file(own.pop(name)) for name in ("prompt_uri", "control_uri", "query_uri")}
    # weights are too large to be read again
    model = {name: _stamp(uri) for name in ("checkpoint", "gene_list_uri") if (uri := own.get(name))}
    return io.content_hash({"version": __version__, "cells": cells, "model": model, "asked": own})


_NAMELESS = {"candidate_id": "", "prediction_uri": None}


def _entry(cache: FileCache, request: InferenceRequest) -> Entry | None:
    try:
        return cache.get(request_key(request))
    except (OSError, GcaError):
        return None


def _stamp(uri: str) -> list[float]:
    found = io.as_path(uri).stat()
    return [found.st_size, found.st_mtime]


def _make_room(cache: FileCache) -> None:
    files = sorted(((path.stat().st_mtime, path.stat().st_size, path) for path in cache.files()), reverse=True)
    total = 0
    for _, size, path in files:
        total += size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)
