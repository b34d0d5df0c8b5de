"""Inference: time and memory of shift, and Kang 2018 with one cell type left out at a time.

The Kang table needs the full counts, in GCA_BENCH_DATA/cells; that of STACK a checkpoint too, as GCA_BENCH_CHECKPOINT,
a folder with model.ckpt and genes.json, and arc-stack in the environment.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from gca_core.errors import GcaError
from gca_core.inference.models import InferenceRequest
from gca_core.inference.prediction import change, read_prediction
from gca_core.inference.predictor import load_predictor
from gca_core.matrix.compare import de_overlap, log_fold_change, pearson
from gca_core.matrix.normalise import log_normalise

N_CELLS, N_GENES = 5000, 15000
DONORS = ("101", "107", "1015")
KANG = Path(os.environ.get("GCA_BENCH_DATA", "")) / "cells" / "kang2018_ifnb_9069x14053_counts.h5ad"


def made_cells(n: int, seed: int, raised: float = 1.0) -> ad.AnnData:
    """Counts with about 2,000 UMIs a cell, as in PBMC, a tenth of the genes raised by a factor."""
    share = np.random.default_rng(0).lognormal(0, 2.0, N_GENES)
    share[::10] *= raised
    rng = np.random.default_rng(seed)
    size = (500, N_GENES)
    parts = [sp.csr_matrix(rng.poisson(2000 * share / share.sum(), size).astype(np.float32)) for _ in range(n // 500)]
    obs = pd.DataFrame({"pair": pd.Categorical(["p"] * n)}, index=[f"c{i}" for i in range(n)])
    return ad.AnnData(
        sp.vstack(parts, format="csr"), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)])
    )


def request_of(folder: Path, **options: object) -> InferenceRequest:
    """The request on the files of a folder."""
    files = {f"{name}_uri": str(folder / f"{name}.h5ad") for name in ("prompt", "control", "query")}
    return InferenceRequest.model_validate(
        {"candidate_id": "b", **files, "output_uri": str(folder / "out.h5ad"), **options}
    )


def plain(request: InferenceRequest) -> None:
    """The same in a few lines of numpy: a shift of each value, rounded draws from a Poisson."""
    prompt, control, query = (ad.read_h5ad(getattr(request, f"{n}_uri")) for n in ("prompt", "control", "query"))
    shift = log_fold_change(prompt.X, control.X)
    values = np.expm1(np.maximum(log_normalise(query.X).toarray() + shift, 0))
    libraries = np.asarray(query.X.sum(axis=1)).reshape(-1, 1)
    drawn = np.random.default_rng(0).poisson(values / values.sum(axis=1, keepdims=True) * libraries)
    query.X = sp.csr_matrix(drawn.astype(np.float32))
    query.write_h5ad(request.output_uri)


def once(what: str, folder: str) -> None:
    """One prediction in a process of its own, so that its memory is its own."""
    request = request_of(Path(folder))
    predictor = load_predictor("shift")
    begun, busy = time.perf_counter(), time.process_time()
    plain(request) if what == "plain" else predictor.predict(request)
    busy = time.process_time() - busy
    took, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = change(*read_prediction(request.output_uri, request.query_uri))
    wanted = log_fold_change(*(ad.read_h5ad(getattr(request, f"{n}_uri")).X for n in ("prompt", "control")))
    print(f"| {what} | {took:.1f} | {busy:.1f} | {peak:.2f} | {np.sqrt(np.mean((found - wanted) ** 2)):.4f} |")


def speed(folder: Path) -> None:
    """Time, peak memory and error of one prediction."""
    print(f"shift on {N_CELLS:,} x {N_GENES:,} cells, files read and written\n")
    for seed, name in enumerate(("prompt", "control", "query")):
        cells = made_cells(N_CELLS if name == "query" else 1000, seed, 3.0 if name == "prompt" else 1.0)
        cells.write_h5ad(folder / f"{name}.h5ad")
    print("| method | s | CPU s | peak GiB | error of the mean change |\n|---|---|---|---|---|", flush=True)
    for what in ("shift", "plain"):
        subprocess.run([sys.executable, __file__, what, str(folder)], check=True)


def kang(folder: Path) -> None:
    """Each cell type's response from those of the others, each counting the same, in three donors."""
    if not KANG.is_file():
        print(f"\nskipped: {KANG} isn't there; name its folder's parent with GCA_BENCH_DATA")
        return
    cells = ad.read_h5ad(KANG)
    cells = cells[cells.obs["donor"].astype(str).isin(DONORS) & cells.obs["cell_type"].notna()].copy()
    cells.obs_names_make_unique()
    types, stim = cells.obs["cell_type"].astype(str), (cells.obs["condition"] == "stim").to_numpy()
    cells.obs["pair"] = types.astype("category")
    checkpoint = os.environ.get("GCA_BENCH_CHECKPOINT")
    stack = (
        {"checkpoint": f"{checkpoint}/model.ckpt", "gene_list_uri": f"{checkpoint}/genes.json"} if checkpoint else {}
    )
    print("\nKang 2018, one cell type left out: Pearson of the change and overlap of the 50 largest\n")
    print(
        "| cell type | cells | shift | shift overlap | stack | stack overlap |\n|---|---|---|---|---|---|", flush=True
    )
    for left_out in sorted(types.unique()):
        of_type = (types == left_out).to_numpy()
        others = cells[~of_type]
        kept = {
            "prompt": others[others.obs["condition"] == "stim"],
            "control": others[others.obs["condition"] == "ctrl"],
        }
        for name, part in {**kept, "query": cells[of_type & ~stim]}.items():
            part.copy().write_h5ad(folder / f"{name}.h5ad")
        truth = log_fold_change(cells[of_type & stim].X, cells[of_type & ~stim].X)
        row = [left_out, str(int((of_type & stim).sum()))]
        for backend, options in (("shift", {}), ("stack", stack)):
            row += scores(request_of(folder, backend=backend, **options), truth)
        print(f"| {' | '.join(row)} |", flush=True)


def scores(request: InferenceRequest, truth: np.ndarray) -> list[str]:
    """Pearson and overlap of a prediction's change."""
    if request.backend == "stack" and request.checkpoint is None:
        return ["not run", ""]
    try:
        load_predictor(request.backend).predict(request)
    except GcaError as error:
        return [str(error)[:60], ""]
    found = change(*read_prediction(request.output_uri, request.query_uri))
    return [f"{pearson(found, truth):.3f}", f"{de_overlap(found, truth):.2f}"]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        once(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as made:
            speed(Path(made))
            kang(Path(made))
