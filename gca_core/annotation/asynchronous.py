"""Twins of the annotating functions that can be awaited, for notebooks and services.

Each has the signature of its twin and does its work in a worker thread, so that the event loop goes on. What the
twin raises, the await raises. A thread can't be stopped: where the await is cancelled, it ends at once, and the work
goes on to its end in the background; its result is dropped, but columns are still written to the AnnData. So leave an
AnnData alone while one of these works on it, cancelled or not.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from gca_core.annotation.clusters import annotate_anndata, annotate_rank_genes
from gca_core.annotation.lists import annotate_from_markers
from gca_core.annotation.validate import validate_anndata

P = ParamSpec("P")
R = TypeVar("R")


def _twin(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """The function as one that can be awaited."""

    @functools.wraps(function)
    async def work(*args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(function, *args, **kwargs)

    work.__name__ = work.__qualname__ = f"{function.__name__}_async"
    return work


annotate_anndata_async = _twin(annotate_anndata)
annotate_rank_genes_async = _twin(annotate_rank_genes)
annotate_from_markers_async = _twin(annotate_from_markers)
validate_anndata_async = _twin(validate_anndata)
