"""The one call of arc-stack's in-context generation."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from gca_core.errors import MemoryExhaustedError
from gca_core.inference.stack.checkpoint import require_stack
from gca_core.inference.stack.genes import write_pickled

log = logging.getLogger(__name__)

PROMPT_RATIO, CONTEXT_RATIO = 0.25, 0.4
# cells that look like the context are accepted, the others wait for a later step
MODE = "mdm"


def query_slots(n_cells: int) -> int:
    """How many of a window's cells are the query's."""
    return max(1, int(n_cells * (1 - PROMPT_RATIO - CONTEXT_RATIO)))


def as_cells(counts: Any, genes: Sequence[str]) -> ad.AnnData:
    """Counts alone: without raw, which arc-stack would prefer, and obs, by which it would drop other organisms."""
    index = pd.Index([f"c{i}" for i in range(counts.shape[0])])
    return ad.AnnData(
        sp.csr_matrix(counts, dtype=np.float32),
        obs=pd.DataFrame(index=index),
        var=pd.DataFrame(index=pd.Index(list(genes), dtype=object)),
    )


def generate(
    model: Any,
    genes: Sequence[str],
    prompt: ad.AnnData,
    query: ad.AnnData,
    *,
    steps: int,
    batch_size: int = 32,
    seed: int = 0,
) -> sp.csr_matrix:
    """Counts of the query's cells in the context of the prompt's, (n_query_cells, n_query_genes).

    Queries are padded to whole windows and trimmed after: arc-stack fills the last window from the first cells, and
    fails where these are fewer than half of its query slots.

    Args:
        model: of arc-stack, fine-tuned.
        genes: the model's, in its order.
        prompt: cells as :func:`as_cells` makes them.
        query: the same.
        steps: diffusion steps T; a single cell takes one.
        batch_size: windows per forward pass.
        seed: of sampling and of the order of the prompt's cells.
    """
    slots = query_slots(model.n_cells)
    rows = np.resize(np.arange(query.n_obs), -(-query.n_obs // slots) * slots)
    padded = as_cells(query.X[rows], query.var_names)
    with tempfile.TemporaryDirectory(prefix="gca-stack-") as folder, _quiet():
        found = model.get_incontext_generation(
            prompt,
            padded,
            str(write_pickled(genes, Path(folder))),
            # copies of one cell tie in every step, and arc-stack then has none left to accept
            num_steps=1 if query.n_obs == 1 else steps,
            prompt_ratio=PROMPT_RATIO,
            context_ratio=CONTEXT_RATIO,
            mode=MODE,
            batch_size=batch_size,
            show_progress=False,
            num_workers=0,
            random_seed=seed,
        )
    return sp.csr_matrix(found[0])[: query.n_obs]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without arc-stack's prints, and the warnings about cells that stand in several windows."""
    logging.getLogger("stack").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def with_halving(attempt: Callable[[int], sp.csr_matrix], batch_size: int) -> tuple[sp.csr_matrix, int]:
    """What ``attempt`` gives at the largest of ``batch_size``, its half, ... that fits, and that size.

    Raises:
        MemoryExhaustedError: not even one window fits.
    """
    torch = require_stack("torch")
    while True:
        try:
            return attempt(batch_size), batch_size
        except torch.cuda.OutOfMemoryError:
            if batch_size == 1:
                raise MemoryExhaustedError(
                    "one window alone doesn't fit into the GPU's memory; use a larger GPU or a smaller model"
                ) from None
        batch_size //= 2
        log.warning("stack: out of GPU memory; going on with %d windows at a time", batch_size)
        torch.cuda.empty_cache()
