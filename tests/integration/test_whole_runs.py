"""Whole runs that compute neighbours and a UMAP: in one file, since every process compiles those anew."""

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import anndata as ad
import numpy as np
import pytest
from typer.testing import CliRunner

from gca_core.annotation import annotate_anndata
from gca_core.annotation.markers.load import load_marker_database
from gca_core.cli.vae.commands import app
from gca_core.io import read_json
from gca_core.latent import TorchVAE, load_config, make_config
from gca_core.latent.data.adapter import DataAdapter
from gca_core.latent.train import LatentResult, run_training
from tests.helpers.blood import MIXTURE, simulate
from tests.helpers.latent_counts import counts_with_groups, scaled_with_raw

pytestmark = pytest.mark.slow
SMALL = {"latent_dim": 4, "hidden_dims": (24,), "epochs": 8, "batch_size": 32, "lr": 5e-3}
HOSTILE = "<script>alert(1)</script>"


def path_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells without counts, as many published files are, and plain counts."""
    cells = scaled_with_raw(counts_with_groups())
    cells.obs["group"] = cells.obs["group"].cat.rename_categories({"a": HOSTILE})
    path: Path = tmp_path_factory.mktemp("latent")
    cells.write_h5ad(path / "cells.h5ad")
    counts_with_groups().write_h5ad(path / "counts.h5ad")
    return path


@pytest.fixture(scope="module")
def results(folder: Path) -> list[LatentResult]:
    names = ("first", "second")
    places = {"input_uri": str(folder / "cells.h5ad"), "labels_key": "group", "recover_counts": True}
    return [run_training(make_config({**places, **SMALL, "output_uri": str(folder / name)})) for name in names]


def test_a_run_returns_small_json_and_writes_what_it_names(results: list[LatentResult]) -> None:
    result = results[0]
    assert len(result.model_dump_json()) < 4000
    names = {"metrics", "checkpoint", "latent", "umap", "training", "config", "report", "run"}
    assert set(result.uris) == names
    assert all(path_of(uri).exists() for uri in result.uris.values())
    assert json.loads(path_of(result.uris["run"]).read_text(encoding="utf-8")) == result.model_dump()
    metrics = json.loads(path_of(result.uris["metrics"]).read_text(encoding="utf-8"))
    assert metrics["metrics"] == result.metrics
    assert metrics["data"]["recovered"] is True
    expected = {
        "latent_knn",
        "latent_logistic_regression",
        "pca_knn",
        "pca_logistic_regression",
        "genes_logistic_regression",
    }
    assert {name.removesuffix("_macro_f1") for name in result.metrics if name.endswith("_macro_f1")} == expected


def test_two_runs_give_the_same_bytes(results: list[LatentResult]) -> None:
    first, second = (result.uris for result in results)
    for name in ("metrics", "latent", "umap", "training", "report"):
        assert path_of(first[name]).read_bytes() == path_of(second[name]).read_bytes(), name
    assert sorted(p.name for p in path_of(first["checkpoint"]).iterdir()) == sorted(
        p.name for p in path_of(second["checkpoint"]).iterdir()
    )


def test_the_latent_file_and_the_checkpoint_agree(results: list[LatentResult], folder: Path) -> None:
    latent = ad.read_h5ad(path_of(results[0].uris["latent"]))
    cells = ad.read_h5ad(folder / "cells.h5ad")
    assert list(latent.obs_names) == list(cells.obs_names)
    assert latent.obsm["X_umap"].shape == (150, 2)
    assert set(latent.obs["latent_split"]) == {"train", "validation"}
    used = load_config(path_of(results[0].uris["config"]))
    data = DataAdapter(used)
    model = TorchVAE.load(results[0].uris["checkpoint"])
    np.testing.assert_allclose(model.predict(data.iter_batches(), registry=data.registry), latent.X, atol=1e-6)


def test_the_used_configuration_is_complete(results: list[LatentResult], folder: Path) -> None:
    used = load_config(path_of(results[0].uris["config"]))
    places = {"input_uri": str(folder / "cells.h5ad"), "output_uri": str(folder / "first")}
    assert used == make_config({**SMALL, **places, "labels_key": "group", "recover_counts": True})


def test_labels_are_escaped_in_the_report(results: list[LatentResult]) -> None:
    report = path_of(results[0].uris["report"]).read_text(encoding="utf-8")
    assert HOSTILE not in report
    assert "&lt;script&gt;alert(1)" in report
    assert 'src="http' not in report


def test_pictures_are_png(results: list[LatentResult]) -> None:
    for name in ("umap", "training"):
        assert path_of(results[0].uris[name]).read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_the_metrics_and_where_the_results_are(folder: Path) -> None:
    out = folder / "from-the-command"
    arguments = ["pipeline", str(folder / "cells.h5ad"), "--recover-counts", "--label-column", "group", "--epochs", "2"]
    done = CliRunner().invoke(app, [*arguments, "--latent-dim", "3", "--output-dir", str(out), "--seed", "4"])
    assert done.exit_code == 0, done.output
    assert "macro-F1" in done.output
    assert (out / "metrics.json").as_uri() in done.output
    used = load_config(out / "config.used.yaml")
    assert (used.epochs, used.latent_dim, used.seed, used.labels_key) == (2, 3, 4, "group")


def test_without_labels_a_run_trains_and_says_nothing_of_scores(folder: Path) -> None:
    places = {"input_uri": str(folder / "counts.h5ad"), "output_uri": str(folder / "without-labels")}
    result = run_training(make_config({**SMALL, **places, "batch_key": "batch", "epochs": 2}))
    assert set(result.metrics) == {"val_negative_elbo", "val_nll", "val_kl"}
    metrics = json.loads(path_of(result.uris["metrics"]).read_text(encoding="utf-8"))
    assert metrics["evaluation"] is None
    assert metrics["data"]["n_batches"] == 2


def test_results_can_go_to_an_object_store(folder: Path) -> None:
    out = "memory://latent/run"
    places = {"input_uri": str(folder / "counts.h5ad"), "output_uri": out}
    result = run_training(make_config({**SMALL, **places, "epochs": 2}))
    assert all(uri.startswith(out) for uri in result.uris.values())
    assert read_json(result.uris["metrics"])["metrics"] == result.metrics
    assert TorchVAE.load(result.uris["checkpoint"]).registry.genes[0] == "gene0"


def test_clusters_are_computed_where_none_are_named_and_the_seed_decides() -> None:
    # types that no marker table makes so alike that their cells are one cluster
    apart = {name: term for name, term in MIXTURE.items() if name != "cd16"}
    blood = simulate(load_marker_database(), apart)
    report = annotate_anndata(blood, None, tissue="blood")
    assert report.clusters_computed
    assert set(apart.values()) == {annotation.ontology_id for annotation in report.annotations}
    again = blood.copy()
    annotate_anndata(again, None, tissue="blood")
    assert (again.obs["gptca_cluster"] == blood.obs["gptca_cluster"]).all()
