"""New cells in a trained latent, their labels, and the pictures and scores of a finished run."""

import json
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner

from gca_core.cli.main import app
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.inference.models import InferenceRequest
from gca_core.inference.shift import ShiftPredictor
from gca_core.io import as_path
from gca_core.latent.config import make_config
from gca_core.latent.data.synthetic import synthetic_cells
from gca_core.latent.evaluation.figures import draw_run
from gca_core.latent.evaluation.rescore import evaluate_run
from gca_core.latent.model.adapter import TorchVAE
from gca_core.latent.train import run_training
from gca_core.latent.transfer.config import make_transfer_config
from gca_core.latent.transfer.labels import agreement, neighbour_votes, transfer_labels
from gca_core.latent.transfer.mapping import embed

pytestmark = pytest.mark.slow

SMALL = {"latent_dim": 4, "hidden_dims": (24,), "epochs": 25, "batch_size": 32, "lr": 5e-3, "n_folds": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on synthetic cells, and others of the same kind."""
    path: Path = tmp_path_factory.mktemp("runs")
    synthetic_cells(seed=0).write_h5ad(path / "cells.h5ad")
    synthetic_cells(60, seed=0).write_h5ad(path / "new.h5ad")
    places = {"input_uri": str(path / "cells.h5ad"), "output_uri": str(path / "run")}
    run_training(make_config({**places, **SMALL, "labels_key": "cell_type", "batch_key": "batch"}))
    return path


def transfer(folder: Path, output: Path, **options: Any) -> dict[str, Any]:
    places = {"input_uri": str(folder / "new.h5ad"), "run_uri": str(folder / "run"), "output_uri": str(output)}
    return transfer_labels(make_transfer_config({**places, **options}))


def test_embedding_the_training_cells_gives_their_latent_means_in_any_gene_order(folder: Path, tmp_path: Path) -> None:
    cells = ad.read_h5ad(folder / "cells.h5ad")
    order = np.random.default_rng(0).permutation(cells.n_vars)
    cells[:, order].write_h5ad(tmp_path / "shuffled.h5ad")
    report = embed(str(tmp_path / "shuffled.h5ad"), str(folder / "run" / "model"), str(tmp_path / "out.h5ad"))
    found, known = ad.read_h5ad(tmp_path / "out.h5ad"), ad.read_h5ad(folder / "run" / "latent.h5ad")
    np.testing.assert_allclose(found.X, known.X, atol=1e-4)
    assert list(found.obs_names) == list(known.obs_names)
    assert (report.n_cells, report.n_missing_genes, report.n_unknown_genes) == (120, 0, 0)


def test_missing_and_unknown_genes_are_counted(folder: Path, tmp_path: Path) -> None:
    cells = ad.read_h5ad(folder / "cells.h5ad")[:, 10:].copy()
    cells.var_names = [*cells.var_names[:-2], "other_1", "other_2"]
    cells.write_h5ad(tmp_path / "fewer.h5ad")
    report = embed(str(tmp_path / "fewer.h5ad"), str(folder / "run" / "model"), str(tmp_path / "out.h5ad"))
    genes = TorchVAE.load(str(folder / "run" / "model")).registry.genes
    missing = [gene for gene in genes if gene not in set(cells.var_names)]
    assert report.missing_genes == missing[:20]
    assert (report.n_missing_genes, report.n_genes) == (len(missing), len(genes))
    assert report.n_unknown_genes == 50 - (len(genes) - len(missing))


@pytest.mark.parametrize(
    ("genes", "options", "message"),
    [
        (slice(40, None), {}, "of the model's 60 genes"),
        (slice(None), {"batch_key": "donor"}, "no column 'donor' for batch_key"),
        (slice(None), {"counts_layer": "spliced"}, "spliced"),
    ],
)
def test_cells_that_do_not_fit_are_refused_and_nothing_is_written(folder, tmp_path, genes, options, message):
    ad.read_h5ad(folder / "cells.h5ad")[:, genes].write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "out" / "latent.h5ad"
    with pytest.raises(DataValidationError, match=message):
        embed(str(tmp_path / "cells.h5ad"), str(folder / "run" / "model"), str(out), **options)
    assert not out.parent.exists()


def test_a_gene_in_two_columns_is_refused(folder: Path, tmp_path: Path) -> None:
    cells = ad.read_h5ad(folder / "cells.h5ad")
    cells.var_names = ["gene_1", *cells.var_names[1:]]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with (
        pytest.warns(UserWarning, match="not unique"),
        pytest.raises(DataValidationError, match=r"several columns \(gene_1\)"),
    ):
        embed(str(tmp_path / "cells.h5ad"), str(folder / "run" / "model"), str(tmp_path / "out.h5ad"))


def test_new_cells_get_the_labels_of_their_neighbours(folder: Path, tmp_path: Path) -> None:
    result = transfer(folder, tmp_path, labels_key="cell_type", max_distance_quantile=None)
    assert result.metrics["accuracy_of_answers"] >= 0.8
    assert sum(result.labels.values()) == result.n_labelled == result.n_cells - result.n_abstained
    assert json.loads((tmp_path / "transfer.json").read_text(encoding="utf-8")) == result.model_dump()
    table = pd.read_csv(tmp_path / "labels.csv", index_col="cell")
    cells = ad.read_h5ad(tmp_path / "latent.h5ad")
    assert list(table.index) == list(cells.obs_names)
    assert table["label"].notna().sum() == result.n_labelled
    assert table["label"].value_counts().to_dict() == result.labels
    assert cells.obs["transferred_label"].notna().sum() == result.n_labelled
    assert all(as_path(uri).exists() for uri in result.uris.values())


@pytest.mark.parametrize("use", ["embed", "transfer", "predict"])
def test_reserved_columns_of_the_cells_are_written_under_other_names(folder: Path, tmp_path: Path, use: str) -> None:
    cells, path, out = synthetic_cells(60, seed=0), str(tmp_path / "cells.h5ad"), tmp_path / "latent.h5ad"
    cells.obs = cells.obs.assign(index_="a", pair="p")
    cells.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["obs"].attrs["column-order"] = np.array([*file["obs"].attrs["column-order"], "_index"], dtype=object)
    if use == "embed":
        embed(path, str(folder / "run" / "model"), str(out))
    elif use == "transfer":
        transfer(folder, tmp_path, input_uri=path)
    else:
        places = {f"{side}_uri": path for side in ("prompt", "query", "control")}
        ShiftPredictor().predict(InferenceRequest(candidate_id="c", output_uri=str(out), **places))
    obs = ad.read_h5ad(out).obs
    assert set(obs["index_"]) == {"a"}
    assert list(obs["index__"]) == list(cells.obs_names)


def test_nobody_answers_when_all_votes_are_needed_of_cells_between_types(folder: Path, tmp_path: Path) -> None:
    cells = ad.read_h5ad(folder / "new.h5ad")
    # sums over cells of all three types belong to none
    mixed = cells[:20].copy()
    mixed.X = cells.X[:20] + cells.X[1:21] + cells.X[2:22]
    mixed.write_h5ad(tmp_path / "mixed.h5ad")
    plain = transfer(folder, tmp_path / "plain", min_probability=1.0)
    strict = transfer(folder, tmp_path / "mixed", input_uri=str(tmp_path / "mixed.h5ad"), min_probability=1.0)
    assert strict.n_abstained / strict.n_cells > plain.n_abstained / plain.n_cells


def test_a_run_without_labels_cannot_label_others(folder: Path, tmp_path: Path) -> None:
    cells = ad.read_h5ad(folder / "run" / "latent.h5ad")
    run = tmp_path / "run"
    run.mkdir()
    del cells.obs["latent_label"]
    cells.write_h5ad(run / "latent.h5ad")
    with pytest.raises(DataValidationError, match="without a label column"):
        transfer(folder, tmp_path / "out", run_uri=str(run))
    with pytest.raises(DataValidationError, match="needed"):
        transfer(folder, tmp_path / "out", n_neighbors=500)
    assert not (tmp_path / "out").exists()


def test_options_of_a_transfer_are_checked() -> None:
    with pytest.raises(ConfigurationError, match=r"min_probability.*run_uri|run_uri.*min_probability"):
        make_transfer_config({"input_uri": "a", "output_uri": "b", "min_probability": 2})


points = hnp.arrays(np.float64, st.tuples(st.integers(6, 30), st.just(3)), elements=st.floats(-10, 10, width=32))


@given(points, st.integers(1, 5), st.floats(0, 1), st.none() | st.floats(0.01, 1), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_votes_are_shares_and_answers_keep_both_limits(reference, n_neighbors, needed, quantile, random):
    labels = np.array([random.choice(["a", "b"]) for _ in reference], dtype=object)
    votes = neighbour_votes(
        reference,
        labels,
        reference + 0.5,
        n_neighbors=n_neighbors,
        min_probability=needed,
        max_distance_quantile=quantile,
    )
    assert np.isin(np.round(votes.probability * n_neighbors, 6), np.arange(1, n_neighbors + 1)).all()
    answered = np.array([label is not None for label in votes.labels])
    far = votes.distance > (np.inf if votes.max_distance is None else votes.max_distance)
    np.testing.assert_array_equal(answered, ~far & (votes.probability >= needed))
    assert set(votes.proposed) <= set(labels)


def test_a_cell_far_from_all_others_gets_no_label() -> None:
    reference = np.random.default_rng(0).normal(size=(50, 2))
    labels = np.array(["a"] * 50, dtype=object)
    near, far = neighbour_votes(reference, labels, np.array([[0.0, 0.0], [40.0, 0.0]])).labels
    assert (near, far) == ("a", None)
    assert neighbour_votes(reference, labels, np.array([[40.0, 0.0]]), max_distance_quantile=None).labels[0] == "a"


def test_no_answer_counts_as_a_wrong_one() -> None:
    answers = np.array(["a", None, "b", "a"], dtype=object)
    truth = np.array(["a", "a", "b", None], dtype=object)
    found = agreement(answers, truth)
    assert found["accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["coverage"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["accuracy_of_answers"] == 1
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-6)
    assert agreement(answers, np.array([None] * 4, dtype=object)) == {}


def test_a_run_is_scored_anew_with_the_same_figures(folder: Path, tmp_path: Path) -> None:
    result = evaluate_run(str(folder / "run"), output_uri=str(tmp_path))
    metrics = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    shared = [name for name in result.metrics if name.startswith("latent_") and name in metrics]
    assert "latent_knn_macro_f1" in shared
    assert {name: result.metrics[name] for name in shared} == pytest.approx({name: metrics[name] for name in shared})
    assert not (folder / "run" / "evaluation.json").exists()
    batches = evaluate_run(str(folder / "run"), labels_key="batch", output_uri=str(tmp_path))
    assert batches.metrics["latent_knn_macro_f1"] < result.metrics["latent_knn_macro_f1"]


def test_a_run_is_drawn_anew_from_its_files(folder: Path) -> None:
    figures = folder / "run" / "figures"
    before = (figures / "umap.png").read_bytes(), (figures / "training.png").read_bytes()
    uris = draw_run(str(folder / "run"), keep_coordinates=True)
    assert set(uris) == {"umap", "tsne", "training", "coordinates"}
    assert ((figures / "umap.png").read_bytes(), (figures / "training.png").read_bytes()) == before
    assert (figures / "tsne.png").read_bytes().startswith(b"\x89PNG")
    coordinates = pd.read_csv(figures / "coordinates.csv", index_col="cell")
    assert list(coordinates) == ["umap_1", "umap_2", "tsne_1", "tsne_2"]
    assert np.isfinite(coordinates.to_numpy()).all()
    draw_run(str(folder / "run"), pictures=("umap",), color="batch")
    assert (figures / "umap.png").read_bytes() != before[0]


def test_pictures_of_something_else_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataValidationError, match=r"metrics\.json"):
        draw_run(str(tmp_path))
    with pytest.raises(DataValidationError, match="no column 'donor' to colour by"):
        draw_run(str(folder / "run"), color="donor")
    with pytest.raises(ConfigurationError, match="'pca'; use umap, tsne, training"):
        draw_run(str(folder / "run"), pictures=("pca",))
    (tmp_path / "metrics.json").write_text('{"training": 3}', encoding="utf-8")
    with pytest.raises(DataValidationError, match="not that of a latent run"):
        draw_run(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["eval", "RUN", "--output_dir", "OUT"], "logistic regression"),
        (["embed", "RUN", "NEW", "--output-dir", "OUT"], "n_missing_genes: 0"),
        (["map", "RUN", "NEW", "--output-dir", "OUT", "--label-column", "cell_type"], "accuracy of answers"),
    ],
)
def test_the_commands_of_a_finished_run(folder: Path, tmp_path: Path, arguments: list[str], expected: str) -> None:
    places = {"RUN": str(folder / "run"), "NEW": str(folder / "new.h5ad"), "OUT": str(tmp_path / "out")}
    done = CliRunner().invoke(app, ["vae", *(places.get(argument, argument) for argument in arguments)])
    assert done.exit_code == 0, done.output
    assert expected in done.output
    assert list((tmp_path / "out").iterdir())


def test_synthetic_cells_are_decided_by_the_seed() -> None:
    first, again, other = synthetic_cells(seed=1), synthetic_cells(seed=1), synthetic_cells(seed=2)
    assert (first.X != again.X).nnz == 0
    assert (first.X != other.X).nnz > 0
    assert min(first.X.sum(axis=1)) > 0
    assert set(first.obs["cell_type"]) == {"a", "b", "c"}
