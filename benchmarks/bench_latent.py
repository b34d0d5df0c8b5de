"""The latent space beside PCA, genes and scvi-tools: accuracy, held-out likelihood, mixing, time and memory.

Run with ``python benchmarks/bench_latent.py [SECTION ...]``; sections are pbmc, kang, speed and streaming, all by
default. GCA_BENCH_DATA names the folder with the cells of Kang et al. 2018; scvi-tools and scib-metrics are in the
extra ``bench``. What isn't there is skipped and said. Hyperparameters are the defaults but for the epochs that each
table states; test cells have no part in training, gene selection, PCA or classifiers, and nothing was chosen by them.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import latent_peers as peers
import latent_streaming as streaming
import numpy as np
import scanpy as sc
from sklearn.metrics import accuracy_score, f1_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from gca_core.latent.config import LatentConfig, load_config, make_config
from gca_core.latent.data.adapter import DataAdapter
from gca_core.latent.evaluation.evaluate import (
    Classifier,
    Evaluation,
    Space,
    evaluate_latent,
    log_expression,
    principal_components,
)
from gca_core.latent.model.adapter import TorchVAE

SEEDS = (0, 1, 2)
PBMC_EPOCHS = 200
PBMC_TARGET = 0.86
KANG = "cells/kang2018_ifnb_9069x14053_counts.h5ad"
DONORS = ("101", "107", "1015")
KANG_EPOCHS = 40
KANG_PCA = 0.78
TIMED_EPOCHS = 6
ROUNDS = 3
STREAMED = (50_000, 500_000)
LIMIT_GB = 3.0
TIGHT_GB = 1.2
ROWS: tuple[tuple[Space, Classifier], ...] = (
    ("latent", "knn"),
    ("latent", "logistic_regression"),
    ("pca", "knn"),
    ("pca", "logistic_regression"),
    ("genes", "logistic_regression"),
)


def evaluated(data: DataAdapter, latent: Any) -> Evaluation:
    """Scores on the test cells, or on folds."""
    assert data.labels is not None
    test = data.test_cells if len(data.test_cells) else None
    return evaluate_latent(
        latent, data.counts, data.labels, seed=data.config.seed, test_cells=test, library=data.library
    )


def trained(config: LatentConfig, data: DataAdapter | None = None) -> tuple[DataAdapter, TorchVAE, Any, float]:
    """Data, model, latent space and seconds of training."""
    data, model = data or DataAdapter(config), TorchVAE(config)
    start = time.perf_counter()
    model.fit(data)
    seconds = time.perf_counter() - start
    return data, model, model.predict(data.iter_batches(), registry=data.registry), seconds


def print_table(title: str, columns: tuple[str, ...], rows: dict[str, list[float]]) -> None:
    """Rows with their mean, minimum and maximum."""
    print(f"{title:<34}" + "".join(f"{name:>10}" for name in (*columns, "mean", "min", "max")))
    for name, values in rows.items():
        figures = (*values, statistics.mean(values), min(values), max(values))
        print(f"{name:<34}" + "".join(f"{value:>10.3f}" for value in figures))


def verdict(name: str, found: float, target: float, *, at_most: bool = False) -> None:
    """A line that says whether a target is met."""
    met = found <= target if at_most else found >= target
    print(f"{name}: {found:.3f}, target {'<=' if at_most else '>='} {target:.3f}: {'met' if met else 'MISSED'}")


def add_scores(rows: dict[str, list[float]], evaluation: Evaluation, wanted: tuple[Space, ...], name: str) -> None:
    """Append macro-F1 to the rows of a table."""
    for space, classifier in ROWS:
        if space in wanted:
            shown = f"{name if space == 'latent' else 'PCA-10' if space == 'pca' else 'genes'} {classifier}"
            rows.setdefault(shown, []).append(evaluation.score(space, classifier).macro_f1)


def bench_pbmc(folder: Path) -> None:
    """Six coarse labels of pbmc68k_reduced, five folds."""
    path = folder / "pbmc.h5ad"
    sc.datasets.pbmc68k_reduced().write_h5ad(path)
    base = load_config("pbmc68k_reduced", input_uri=str(path), output_uri=str(folder), epochs=PBMC_EPOCHS)
    print(f"pbmc68k_reduced, 700 cells, six coarse labels, 5 folds; {peers.config_line(base)}")
    rows: dict[str, list[float]] = {}
    by_fold: dict[Classifier, list[float]] = {"knn": [], "logistic_regression": []}
    without = peers.missing("scvi")
    for seed in SEEDS:
        data, _, latent, seconds = trained(base.model_copy(update={"seed": seed}))
        evaluation = evaluated(data, latent)
        add_scores(rows, evaluation, ("latent", "pca", "genes"), "latent")
        for classifier, differences in by_fold.items():
            ours, pca = (evaluation.score(space, classifier).fold_macro_f1 for space in ("latent", "pca"))
            differences += np.subtract(ours, pca).tolist()
        rows.setdefault("latent: training seconds", []).append(seconds)
        if without:
            continue
        start = time.perf_counter()
        model = peers.train_scvi(data)
        seconds = time.perf_counter() - start
        add_scores(rows, evaluated(data, peers.scvi_latent(model, data)), ("latent",), "scVI")
        rows.setdefault("scVI: training seconds", []).append(seconds)
    print_table("macro-F1", tuple(f"seed {seed}" for seed in SEEDS), rows)
    for classifier, differences in by_fold.items():
        found = statistics.mean(rows[f"latent {classifier}"])
        verdict(f"latent {classifier}, mean of seeds", found, PBMC_TARGET)
        verdict("  the aim, PCA-10", found, statistics.mean(rows[f"PCA-10 {classifier}"]))
        error = statistics.stdev(differences) / len(differences) ** 0.5
        print(f"  latent less PCA-10, by fold: {statistics.mean(differences):+.3f}, standard error {error:.3f}")


def kang_file() -> Path | None:
    """The cells of Kang et al. 2018; says so when they aren't there."""
    folder = os.environ.get("GCA_BENCH_DATA")
    path = Path(folder) / KANG if folder else None
    if path is None or not path.exists():
        print(f"skipped: GCA_BENCH_DATA names no folder with {KANG}")
        return None
    return path


def kang_config(path: Path, donor: str | None, folder: Path, **options: Any) -> LatentConfig:
    """Condition as the batch, one donor kept out; a new donor's batch is then one that the model knows."""
    places = {"input_uri": str(path), "output_uri": str(folder), "batch_key": "condition", "labels_key": "cell_type"}
    held_out = {"split_key": "donor", "test_batches": (donor,)} if donor else {}
    return make_config({**places, **held_out, "epochs": KANG_EPOCHS, "early_stopping_patience": None, **options})


def bench_kang(folder: Path) -> None:
    """A donor kept out, in turn: labels, likelihood and mixing."""
    path = kang_file()
    if path is None:
        return
    without = peers.missing("scvi")
    f1: dict[str, list[float]] = {}
    nll: dict[str, list[float]] = {}
    mixed: list[tuple[str, dict[str, Any]]] = []
    config = kang_config(path, DONORS[0], folder)
    print(f"Kang 2018, 9,069 cells, donor kept out, 8 types, 2,000 genes; {peers.config_line(config)}")
    for donor in DONORS:
        config = kang_config(path, donor, folder)
        data, model, latent, _ = trained(config)
        spaces = {"latent": latent, "PCA-10": _pca(data)}
        add_scores(f1, evaluated(data, latent), ("latent", "pca", "genes"), "latent")
        nll.setdefault("ours, donor kept out", []).append(
            model.held_out_loss(data.iter_test_batches(), registry=data.registry).nll
        )
        nll.setdefault("ours, validation cells", []).append(
            model.held_out_loss(data.iter_val_batches(), registry=data.registry).nll
        )
        _head_rows(f1, kang_config(path, donor, folder, label_head=True), data)
        if not without:
            spaces["scVI"] = _scvi_rows(f1, nll, data)
        if donor == DONORS[0]:
            mixed = [(name, {"space": space, "data": data}) for name, space in spaces.items()]
    print_table("macro-F1 on the donor kept out", DONORS, f1)
    ours = statistics.mean(f1["latent logistic_regression"])
    verdict("latent logistic_regression", ours, KANG_PCA)
    verdict("  and against PCA-10's", ours, statistics.mean(f1["PCA-10 logistic_regression"]))
    if "scVI logistic_regression" in f1:
        verdict("  and against scVI's", ours, statistics.mean(f1["scVI logistic_regression"]))
        head = statistics.mean(f1["label head (one training)"])
        verdict("label head against scANVI", head, statistics.mean(f1["scANVI (after scVI)"]))
    print_table("\nnegative log-likelihood per cell", DONORS, nll)
    if "scVI, donor kept out" in nll:
        for cells in ("donor kept out", "validation cells"):
            ratio = statistics.mean(nll[f"ours, {cells}"]) / statistics.mean(nll[f"scVI, {cells}"])
            verdict(f"ours / scVI, {cells}", ratio, 1.01, at_most=True)
    _print_mixing(mixed)


def _pca(data: DataAdapter) -> Any:
    fitted = np.sort(np.concatenate([data.train_cells, data.val_cells]))
    return principal_components(log_expression(data.counts, data.library), data.config.latent_dim, fitted)


def _asked(data: DataAdapter) -> tuple[np.ndarray, np.ndarray]:
    """Test cells with a label of the training cells, and the labels."""
    assert data.labels is not None
    cells = data.test_cells[data.label_codes[data.test_cells] >= 0]
    return cells, data.labels[cells].astype(str)


def _head_rows(f1: dict[str, list[float]], config: LatentConfig, data: DataAdapter) -> None:
    _, model, latent, _ = trained(config, data)
    cells, truth = _asked(data)
    probabilities = model.predict_labels(data.iter_cells(cells), registry=data.registry)
    answers = np.array(data.registry.labels)[probabilities.argmax(axis=1)]
    f1.setdefault("label head (one training)", []).append(float(f1_score(truth, answers, average="macro")))
    f1.setdefault("label head: accuracy", []).append(float(accuracy_score(truth, answers)))
    add_scores(f1, evaluated(data, latent), ("latent",), "latent of the label head,")


def _scvi_rows(f1: dict[str, list[float]], nll: dict[str, list[float]], data: DataAdapter) -> Any:
    model = peers.train_scvi(data)
    latent = peers.scvi_latent(model, data)
    add_scores(f1, evaluated(data, latent), ("latent",), "scVI")
    for name, held_out in (("donor kept out", data.test_cells), ("validation cells", data.val_cells)):
        nll.setdefault(f"scVI, {name}", []).append(peers.scvi_nll(model, data, held_out))
    cells, truth = _asked(data)
    answers, _ = peers.scanvi_labels(model, data, cells)
    f1.setdefault("scANVI (after scVI)", []).append(float(f1_score(truth, answers, average="macro")))
    f1.setdefault("scANVI: accuracy", []).append(float(accuracy_score(truth, answers)))
    return latent


def _print_mixing(mixed: list[tuple[str, dict[str, Any]]]) -> None:
    if not mixed or peers.missing("scib_metrics"):
        return
    print(f"\nmixing by scib-metrics, all cells, donor {DONORS[0]} kept out of training (0 bad, 1 good)")
    print(f"{'space':<12}{'across':<12}{'iLISI':>10}{'batch ASW':>10}{'cLISI':>10}")
    for name, found in mixed:
        data: DataAdapter = found["data"]
        assert data.labels is not None
        for key in ("donor", "condition"):
            batches = data.obs[key].astype(str).to_numpy()
            scores = peers.mixing(np.asarray(found["space"], dtype=np.float32), batches, data.labels.astype(str))
            print(f"{name:<12}{key:<12}" + "".join(f"{value:>10.3f}" for value in scores.values()))


def bench_speed(folder: Path) -> None:
    """Seconds an epoch beside scVI's, in turns."""
    path = kang_file()
    if path is None or peers.missing("scvi"):
        return
    config = kang_config(path, None, folder, epochs=TIMED_EPOCHS)
    data = DataAdapter(config)
    info = data.dataset_info()
    print(
        f"seconds an epoch, Kang 2018: {info['n_train']} training cells, {info['n_genes']} genes, "
        f"{info['density']:.3f} nonzero, batch {config.batch_size}, {config.threads} thread; ours with the pass over "
        "the validation cells that scVI leaves out"
    )
    ours: list[float] = []
    scvi: list[float] = []
    for _ in range(ROUNDS):
        times: list[float] = []
        TorchVAE(config).fit(data, on_epoch=lambda _, times=times: times.append(time.perf_counter()))  # type: ignore[misc]
        ours.append(peers.median_step(times))
        times = []
        peers.train_scvi(data, epoch_times=times)
        scvi.append(peers.median_step(times))
    columns = tuple(f"round {i + 1}" for i in range(ROUNDS))
    print_table("", columns, {"ours": ours, "scVI": scvi})
    ratio = statistics.median(ours) / statistics.median(scvi)
    verdict("ratio of medians", ratio, 0.5, at_most=True)
    verdict("  the aim", ratio, 0.35, at_most=True)


def bench_streaming(folder: Path) -> None:
    """A backed file under a memory limit: peak, and cost per cell as the file grows."""
    print(f"one epoch over a backed h5ad, {streaming.GENES} genes, 2,000 chosen, batch 128, 1 thread")
    header = ("cells", "limit GiB", "peak GiB", "counts in", "read us", "epoch us")
    print("".join(f"{name:>12}" for name in header) + "   (microseconds per cell)")
    found: dict[tuple[int, float], dict[str, Any]] = {}
    for n_cells in STREAMED:
        path = folder / f"cells{n_cells}.h5ad"
        streaming.write_cells(path, n_cells)
        for limit in (LIMIT_GB, TIGHT_GB):
            result = found[n_cells, limit] = streaming.measure(path, limit)
            place = "memory" if result["in_memory"] else "file"
            per_cell = [f"{1e6 * result[name] / n_cells:>12.0f}" for name in ("read_s", "epoch_s")]
            print(f"{n_cells:>12}{limit:>12.1f}{result['peak_gib']:>12.2f}{place:>12}{''.join(per_cell)}")
        path.unlink()
    for limit in (LIMIT_GB, TIGHT_GB):
        small, large = (found[n, limit] for n in STREAMED)
        verdict(f"peak at {limit} GiB", large["peak_gib"], limit, at_most=True)
        growth = (large["epoch_s"] / STREAMED[1]) / (small["epoch_s"] / STREAMED[0])
        verdict(f"cost per cell, {STREAMED[1]} / {STREAMED[0]} cells, {limit} GiB", growth, 1.15, at_most=True)


SECTIONS: dict[str, Callable[[Path], None]] = {
    "pbmc": bench_pbmc,
    "kang": bench_kang,
    "speed": bench_speed,
    "streaming": bench_streaming,
}


def main() -> None:
    """Print the tables."""
    warnings.simplefilter("ignore")
    wanted = sys.argv[1:] or list(SECTIONS)
    unknown = set(wanted) - set(SECTIONS)
    if unknown:
        raise SystemExit(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    for name in wanted:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
            SECTIONS[name](Path(folder))
        print(f"({name}: {time.perf_counter() - start:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
