"""What a fitted model is asked for, and what is left when a training ends badly."""

import errno
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.io import read_json
from gca_core.latent.data.adapter import DataAdapter
from gca_core.latent.model import checkpoint, fitting
from gca_core.latent.model.adapter import TorchVAE
from gca_core.latent.model.fitting import EpochRecord, device_of
from gca_core.latent.train import run_training
from tests.helpers.latent_counts import Configure, Save, counts_with_groups

pytestmark = pytest.mark.slow


def fitted(data: DataAdapter, **arguments: Any) -> TorchVAE:
    model = TorchVAE(data.config)
    model.fit(data, **arguments)
    return model


def latent_of(model: TorchVAE, data: DataAdapter) -> np.ndarray:
    return model.predict(data.iter_batches(), registry=data.registry)


@pytest.fixture
def data(save: Save, configure: Configure) -> DataAdapter:
    return DataAdapter(configure(save(counts_with_groups(batch_effect=1.5)), batch_key="batch", labels_key="group"))


@pytest.mark.parametrize("options", [{"likelihood": "gaussian"}, {"dispersion": "gene-batch"}])
def test_other_likelihoods_and_dispersions_learn_the_groups(save, configure, options, tmp_path):
    uri = save(counts_with_groups(batch_effect=1.0))
    data = DataAdapter(configure(uri, batch_key="batch", labels_key="group", epochs=40, **options))
    model = fitted(data)
    latent = latent_of(model, data)
    assert cross_val_score(LogisticRegression(), latent, data.labels.astype(str), cv=5).mean() > 0.9
    model.save(str(tmp_path / "model"))
    np.testing.assert_array_equal(latent_of(TorchVAE.load(str(tmp_path / "model")), data), latent)


@pytest.mark.slow
def test_dispersion_by_batch_follows_the_batch_that_is_noisier(save: Save, configure: Configure) -> None:
    cells = counts_with_groups(400)
    noisy = (cells.obs["batch"] == "q").to_numpy()
    dense, rng = cells.X.toarray(), np.random.default_rng(0)
    dense[noisy] = rng.poisson(dense[noisy] * rng.gamma(0.7, 1 / 0.7, dense[noisy].shape))
    dense[:, -1] = 1
    cells.X = dense
    data = DataAdapter(configure(save(cells), batch_key="batch", dispersion="gene-batch", epochs=60, lr=0.02))
    by_batch = fitted(data)._parts()[0].log_theta.detach().numpy()
    assert by_batch.shape == (2, 60)
    assert by_batch[0, :-1].mean() > by_batch[1, :-1].mean() + 0.3


def test_the_label_head_labels_cells_of_a_batch_it_was_not_trained_on(save: Save, configure: Configure) -> None:
    cells = counts_with_groups(240)
    cells.obs["donor"] = np.where(np.arange(240) < 180, "old", "new")
    cells.obs["group"] = cells.obs["group"].astype(object)
    cells.obs.loc[cells.obs_names[:60], "group"] = None
    options = {"labels_key": "group", "label_head": True, "split_key": "donor", "test_batches": ("new",)}
    data = DataAdapter(configure(save(cells), epochs=40, **options))
    model = fitted(data)
    probabilities = model.predict_labels(data.iter_test_batches(), registry=data.registry)
    assert probabilities.shape == (60, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    answers = np.array(data.registry.labels)[probabilities.argmax(axis=1)]
    assert (answers == data.labels[data.test_cells]).mean() > 0.9


def test_the_label_head_never_sees_labels_of_held_out_cells(save: Save, configure: Configure) -> None:
    cells = counts_with_groups()
    options = {"labels_key": "group", "label_head": True, "epochs": 3, "test_fraction": 0.2}
    one = DataAdapter(configure(save(cells), **options))
    held_out = np.concatenate([one.val_cells, one.test_cells])
    labels = cells.obs["group"].astype(str).to_numpy()
    labels[held_out] = np.roll(labels[held_out], 1)
    cells.obs["group"] = labels
    other = DataAdapter(configure(save(cells), **options))
    assert not np.array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(latent_of(fitted(one), one), latent_of(fitted(other), other))


def test_a_label_head_needs_two_labels(save: Save, configure: Configure) -> None:
    cells = counts_with_groups()
    cells.obs["group"] = "same"
    with pytest.raises(DataValidationError, match="needs two labels among the training cells; found same"):
        fitted(DataAdapter(configure(save(cells), labels_key="group", label_head=True)))


def test_a_model_without_a_head_has_no_labels_to_give(data: DataAdapter) -> None:
    with pytest.raises(DataValidationError, match="label_head"):
        fitted(data).predict_labels(data.iter_batches(), registry=data.registry)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_with_a_held_out_batch_scores_its_cells_and_the_head(save, configure, monkeypatch, streamed):
    if streamed:
        monkeypatch.setattr("gca_core.latent.data.sources.memory_left", lambda _: 1.0)
        monkeypatch.setattr("gca_core.latent.data.adapter.memory_left", lambda _: 1.0)
    cells = counts_with_groups(200)
    config = configure(
        save(cells), batch_key="batch", labels_key="group", label_head=True, test_batches=("q",), epochs=10
    )
    result = run_training(config)
    n_test = int((cells.obs["batch"] == "q").sum())
    metrics = read_json(result.uris["metrics"])
    assert metrics["data"]["in_memory"] is not streamed
    assert metrics["evaluation"]["protocol"] == "held out"
    assert metrics["evaluation"]["n_cells"] == metrics["label_head"]["n_cells"] == n_test
    assert 0 <= result.metrics["label_head_macro_f1"] <= 1
    assert 0.5 < result.metrics["latent_logistic_regression_auroc"] <= 1


def test_the_held_out_loss_is_that_of_the_best_epoch(data: DataAdapter) -> None:
    model = TorchVAE(data.config)
    history = model.fit(data)
    best = history.epochs[history.best_epoch - 1]
    found = model.held_out_loss(data.iter_val_batches(), registry=data.registry)
    assert found.n_cells == len(data.val_cells)
    assert found.negative_elbo == pytest.approx(best.val_negative_elbo, rel=1e-5)
    with pytest.raises(DataValidationError, match="no cells"):
        model.held_out_loss(iter(()), registry=data.registry)


def test_a_matrix_is_embedded_like_batches(data: DataAdapter) -> None:
    model = fitted(data)
    expected = latent_of(model, data)
    np.testing.assert_allclose(model.predict(data.counts), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict(data.counts.toarray()), expected, atol=1e-5)
    with pytest.raises(DataValidationError, match="expected cells x 60 genes"):
        model.predict(data.counts[:, :5])
    with pytest.raises(DataValidationError, match="expected raw counts"):
        model.predict(-data.counts)


def test_cells_of_an_unknown_batch_are_embedded_and_scored(save: Save, configure: Configure) -> None:
    cells = counts_with_groups(200)
    data = DataAdapter(configure(save(cells), batch_key="batch", epochs=5))
    model = fitted(data)
    cells.obs["batch"] = "z"
    new = DataAdapter(configure(save(cells), batch_key="batch"))
    np.testing.assert_allclose(latent_of(model, new), latent_of(model, data), atol=1e-5)
    loss = model.held_out_loss(new.iter_batches(), registry=new.registry)
    own = model.held_out_loss(data.iter_batches(), registry=data.registry)
    assert loss.nll == pytest.approx(own.nll, rel=0.05)


def stop_at(epoch: int) -> Any:
    def note(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise KeyboardInterrupt

    return note


@pytest.fixture
def long_training(data: DataAdapter) -> DataAdapter:
    return DataAdapter(data.config.model_copy(update={"epochs": 25}))


@pytest.mark.parametrize("epoch", [2, 24])
def test_after_an_interrupt_the_best_weights_so_far_load(data, long_training, tmp_path, epoch):
    uri = str(tmp_path / "model")
    with pytest.raises(KeyboardInterrupt):
        fitted(long_training, on_epoch=stop_at(epoch), checkpoint_uri=uri)
    latent = latent_of(TorchVAE.load(uri), data)
    assert latent.shape == (150, 4)
    assert np.isfinite(latent).all()


def test_a_long_training_keeps_a_checkpoint_on_its_way(long_training: DataAdapter, tmp_path: Path) -> None:
    uri = tmp_path / "model"
    there: dict[int, bool] = {}
    fitted(long_training, on_epoch=lambda r: there.update({r.epoch: uri.exists()}), checkpoint_uri=str(uri))
    assert not there[9]
    assert there[20]


def test_a_full_disk_leaves_the_former_checkpoint(data, tmp_path, monkeypatch):
    uri = str(tmp_path / "model")
    model = fitted(data)
    model.save(uri)
    expected = latent_of(model, data)
    with torch.no_grad():
        model._parts()[0].log_theta.add_(1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(ConfigurationError, match=r"No space left on device.*is as it was"):
            model.save(uri)
        fitted(data, checkpoint_uri=uri)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write_json", full)
        with pytest.raises(ConfigurationError, match="No space left on device"):
            model.save(uri)
    np.testing.assert_array_equal(latent_of(TorchVAE.load(uri), data), expected)


def test_many_validation_cells_are_read_anew_each_epoch_with_the_same_result(data, monkeypatch):
    expected = TorchVAE(data.config).fit(data)
    monkeypatch.setattr(fitting, "HELD_VALIDATION_BATCHES", 0)
    assert TorchVAE(data.config).fit(data) == expected


def test_cuda_is_refused_where_there_is_none_and_auto_does_without(save, configure, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    uri = save(counts_with_groups())
    assert device_of(configure(uri, device="auto", autocast=True)).type == "cpu"
    with pytest.raises(ConfigurationError, match="set device to cpu or auto"):
        TorchVAE(configure(uri, device="cuda"))
    data = DataAdapter(configure(uri, device="auto", autocast=True, epochs=2))
    plain = DataAdapter(configure(uri, epochs=2))
    np.testing.assert_array_equal(latent_of(fitted(data), data), latent_of(fitted(plain), plain))


def test_a_run_evaluates_and_draws_no_more_cells_than_told(save, configure):
    config = configure(save(counts_with_groups()), labels_key="group", evaluation_cells=100, epochs=2)
    result = run_training(config)
    assert read_json(result.uris["metrics"])["evaluation"]["n_cells"] == 100
    latent = ad.read_h5ad(Path(config.output_uri) / "latent.h5ad")
    assert int(np.isfinite(latent.obsm["X_umap"]).all(axis=1).sum()) == 100
    assert np.isfinite(latent.X).all()
