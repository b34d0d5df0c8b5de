"""One epoch over a large backed file in a process of its own, whose peak memory is then this epoch's.

Run by bench_latent.py as ``python latent_streaming.py FILE LIMIT_GB``; prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from memory import peak_gib

GENES = 5000
BLOCK = 10_000


def write_cells(path: Path, n_cells: int, seed: int = 0) -> None:
    """Simulated counts of eight types, 4 % nonzero, written by blocks so that this takes little memory too."""
    rng = np.random.default_rng(seed)
    programs = rng.lognormal(-4.0, 1.2, (8, GENES)) * rng.lognormal(0, 0.5, (8, GENES))
    kinds = rng.integers(0, 8, BLOCK)
    base = sp.csr_matrix(
        np.vstack([rng.poisson(programs[kinds[i : i + 1000]]) for i in range(0, BLOCK, 1000)]).astype(np.float32)
    )
    with h5py.File(path, "w") as file:
        obs = pd.DataFrame(index=np.arange(n_cells).astype(str))
        ad.io.write_elem(file, "obs", obs)
        ad.io.write_elem(file, "var", pd.DataFrame(index=[f"gene{i}" for i in range(GENES)]))
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n_cells, GENES)})
        total = base.nnz * (n_cells // BLOCK)
        data = group.create_dataset("data", (total,), np.float32, chunks=(2**18,))
        indices = group.create_dataset("indices", (total,), np.int32, chunks=(2**18,))
        indptr = np.zeros(n_cells + 1, dtype=np.int64)
        for i in range(n_cells // BLOCK):
            block = base[rng.permutation(BLOCK)]
            data[i * base.nnz : (i + 1) * base.nnz] = block.data
            indices[i * base.nnz : (i + 1) * base.nnz] = block.indices
            indptr[i * BLOCK + 1 : (i + 1) * BLOCK + 1] = i * base.nnz + block.indptr[1:]
        group.create_dataset("indptr", data=indptr)
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def measure(path: Path, limit_gb: float) -> dict[str, Any]:
    """Read and train one epoch in another process."""
    done = subprocess.run(
        [sys.executable, __file__, str(path), str(limit_gb)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Read, train one epoch, embed all cells; print seconds and the peak."""
    from gca_core.latent.config import make_config
    from gca_core.latent.data.adapter import DataAdapter
    from gca_core.latent.model.adapter import TorchVAE

    path, limit = Path(sys.argv[1]), float(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        options = {"input_uri": str(path), "output_uri": folder, "epochs": 1, "validation_fraction": 0.05}
        config = make_config({**options, "max_ram_usage_gb": limit})
        start = time.perf_counter()
        data = DataAdapter(config)
        read = time.perf_counter()
        model = TorchVAE(config)
        ends: list[float] = []
        starts: list[float] = []
        original = data.iter_train_batches

        def noted(epoch: int = 0) -> Any:
            starts.append(time.perf_counter())
            return original(epoch)

        data.iter_train_batches = noted  # type: ignore[method-assign]
        model.fit(data, on_epoch=lambda _: ends.append(time.perf_counter()))
        latent = model.predict(data.iter_batches(), registry=data.registry)
        info = data.dataset_info()
        result = {
            "n_cells": info["n_cells"],
            "in_memory": info["in_memory"],
            "read_s": read - start,
            "epoch_s": ends[-1] - starts[-1],
            "finite": bool(np.isfinite(latent).all()),
            "peak_gib": peak_gib(),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
