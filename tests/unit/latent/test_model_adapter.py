import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from gca_core.errors import DataValidationError
from gca_core.io import sha256_file
from gca_core.latent.data.adapter import DataAdapter, Registry
from gca_core.latent.model.adapter import ModelAdapter, TorchVAE, require_same_genes
from gca_core.latent.model.fitting import EpochRecord, reproducible
from gca_core.progress import Progress, listening
from tests.helpers.latent_counts import Configure, Save, counts_with_groups


def fitted(data: DataAdapter) -> TorchVAE:
    model = TorchVAE(data.config)
    model.fit(data)
    return model


def latent_of(model: ModelAdapter, data: DataAdapter) -> np.ndarray:
    return model.predict(data.iter_batches(), registry=data.registry)


@pytest.fixture
def data(save: Save, configure: Configure) -> DataAdapter:
    return DataAdapter(configure(save(counts_with_groups()), labels_key="group"))


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_the_latent_space_separates_known_groups(save: Save, configure: Configure, likelihood: str) -> None:
    data = DataAdapter(configure(save(counts_with_groups()), labels_key="group", likelihood=likelihood, epochs=40))
    latent = latent_of(fitted(data), data)
    assert latent.shape == (150, 4)
    assert cross_val_score(LogisticRegression(), latent, data.labels.astype(str), cv=5).mean() > 0.95


def test_training_lowers_the_held_out_loss_and_raises_the_weight_of_the_kl_term(data: DataAdapter) -> None:
    data = DataAdapter(data.config.model_copy(update={"epochs": 25}))
    history = TorchVAE(data.config).fit(data)
    first, best = history.epochs[0], history.epochs[history.best_epoch - 1]
    assert best.val_negative_elbo < first.val_negative_elbo - 1
    weights = [record.kl_weight for record in history.epochs]
    assert weights == sorted(weights)
    assert weights[0] == pytest.approx(1 / 12)
    assert weights[-1] == 1


def test_a_slow_warm_up_leaves_more_information_in_the_latent_space(save: Save, configure: Configure) -> None:
    uri = save(counts_with_groups())
    slow, none = (DataAdapter(configure(uri, kl_warmup_epochs=warmup)) for warmup in (100_000, 0))
    assert (
        TorchVAE(slow.config).fit(slow).epochs[-1].train_kl > 1.2 * TorchVAE(none.config).fit(none).epochs[-1].train_kl
    )


def test_labels_have_no_part_in_training(save: Save, configure: Configure) -> None:
    cells = counts_with_groups()
    one = DataAdapter(configure(save(cells), labels_key="group", epochs=3))
    cells.obs["group"] = np.random.default_rng(1).permutation(cells.obs["group"].to_numpy())
    other = DataAdapter(configure(save(cells), labels_key="group", epochs=3))
    assert not np.array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(latent_of(fitted(one), one), latent_of(fitted(other), other))


def test_a_batch_covariate_takes_the_batch_out_of_the_latent_space(save: Save, configure: Configure) -> None:
    uri = save(counts_with_groups(300, batch_effect=1.5))
    batch = DataAdapter(configure(uri, batch_key="batch")).batch_codes
    told: dict[str | None, float] = {}
    for key in (None, "batch"):
        data = DataAdapter(configure(uri, batch_key=key, epochs=40))
        told[key] = cross_val_score(LogisticRegression(), latent_of(fitted(data), data), batch, cv=5).mean()
    assert told[None] > 0.95
    assert told["batch"] < 0.8


def test_one_seed_gives_one_result_and_another_seed_another(save: Save, configure: Configure) -> None:
    uri = save(counts_with_groups())
    zero, again, one = (DataAdapter(configure(uri, seed=seed, epochs=3)) for seed in (0, 0, 1))
    first = latent_of(fitted(zero), zero)
    torch.manual_seed(999)
    np.testing.assert_array_equal(first, latent_of(fitted(again), again))
    assert not np.allclose(first, latent_of(fitted(one), one), atol=1e-3)


def test_training_leaves_torch_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="inside"), reproducible(1, threads + 1):
        torch.rand(10)
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("inside")
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    torch.testing.assert_close(torch.rand(3), expected)


def test_training_stops_early_and_keeps_the_best_weights(save: Save, configure: Configure) -> None:
    data = DataAdapter(
        configure(save(counts_with_groups()), epochs=400, lr=0.02, kl_warmup_epochs=2, early_stopping_patience=4)
    )
    seen: list[EpochRecord] = []
    heard: list[Progress] = []
    model = TorchVAE(data.config)
    with listening(heard.append):
        history = model.fit(data, on_epoch=seen.append)
    assert history.stopped_early
    assert heard == [Progress("train", record.epoch, 400) for record in seen]
    assert tuple(seen) == history.epochs
    assert len(history.epochs) == history.best_epoch + 4
    after_warmup = [record for record in history.epochs if record.kl_weight == 1]
    assert min(after_warmup, key=lambda record: record.val_negative_elbo).epoch == history.best_epoch
    shorter = DataAdapter(
        data.config.model_copy(update={"epochs": history.best_epoch}),
    )
    np.testing.assert_array_equal(latent_of(model, data), latent_of(fitted(shorter), shorter))


def test_a_loss_that_is_not_finite_ends_the_training(data: DataAdapter) -> None:
    model = TorchVAE(data.config, likelihood=lambda _, parameters: parameters.log_mean.sum(dim=1) * float("nan"))
    with pytest.raises(DataValidationError, match="not finite in epoch 1"):
        model.fit(data)


def test_a_checkpoint_gives_the_same_latent_space(data: DataAdapter, tmp_path: Path) -> None:
    model = fitted(data)
    model.save(str(tmp_path / "model"))
    loaded = TorchVAE.load(str(tmp_path / "model"))
    assert loaded.registry == data.registry
    np.testing.assert_array_equal(latent_of(loaded, data), latent_of(model, data))


def test_saving_again_replaces_the_weights(data: DataAdapter, tmp_path: Path) -> None:
    model = fitted(data)
    uri = str(tmp_path / "model")
    model.save(uri)
    old = set(Path(uri).iterdir())
    with torch.no_grad():
        model._parts()[0].log_theta.add_(1)
    model.save(uri)
    assert len(list(Path(uri).iterdir())) == 2
    assert set(Path(uri).iterdir()) != old
    TorchVAE.load(uri)


def test_truncated_weights_are_refused(data: DataAdapter, tmp_path: Path) -> None:
    uri = str(tmp_path / "model")
    fitted(data).save(uri)
    weights = next((tmp_path / "model").glob("*.pt"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataValidationError, match="damaged or cut short"):
        TorchVAE.load(uri)
    weights.unlink()
    with pytest.raises(DataValidationError, match=r"weights .* does not exist"):
        TorchVAE.load(uri)


def test_a_truncated_registry_is_refused(data: DataAdapter, tmp_path: Path) -> None:
    uri = str(tmp_path / "model")
    fitted(data).save(uri)
    registry = tmp_path / "model" / "registry.json"
    content = registry.read_text(encoding="utf-8")
    registry.write_text(content[: len(content) // 2], encoding="utf-8")
    with pytest.raises(DataValidationError, match="not valid JSON"):
        TorchVAE.load(uri)
    registry.write_text("{}", encoding="utf-8")
    with pytest.raises(DataValidationError, match="no checkpoint of format"):
        TorchVAE.load(uri)
    registry.unlink()
    with pytest.raises(DataValidationError, match="does not exist"):
        TorchVAE.load(uri)


def test_weights_that_are_code_are_not_run(data: DataAdapter, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    uri = str(tmp_path / "model")
    fitted(data).save(uri)
    weights = next((tmp_path / "model").glob("*.pt"))
    weights.write_bytes(pickle.dumps(Payload()))
    set_registry(tmp_path, weights_sha256=sha256_file(weights))
    with pytest.raises(DataValidationError, match="can't be read"):
        TorchVAE.load(uri)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../weights.pt", "a/b.pt"])
def test_weights_outside_the_folder_are_refused(data: DataAdapter, tmp_path: Path, name: str) -> None:
    fitted(data).save(str(tmp_path / "model"))
    set_registry(tmp_path, weights=name)
    with pytest.raises(DataValidationError, match="no file name"):
        TorchVAE.load(str(tmp_path / "model"))


def test_weights_of_another_architecture_are_refused(data: DataAdapter, tmp_path: Path) -> None:
    fitted(data).save(str(tmp_path / "model"))
    architecture = {"latent_dim": 5, "hidden_dims": [24], "dropout": 0.1, "likelihood": "nb"}
    set_registry(tmp_path, architecture=architecture)
    with pytest.raises(DataValidationError, match="don't fit their registry"):
        TorchVAE.load(str(tmp_path / "model"))
    set_registry(tmp_path, architecture={"layers": 3})
    with pytest.raises(DataValidationError, match="architecture"):
        TorchVAE.load(str(tmp_path / "model"))


def set_registry(folder: Path, **changes: object) -> None:
    path = folder / "model" / "registry.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_another_gene_set_is_refused_by_name(data: DataAdapter) -> None:
    model, genes = fitted(data), data.registry.genes

    def renamed(names: tuple[str, ...]) -> Registry:
        return data.registry.model_copy(update={"genes": names})

    with pytest.raises(DataValidationError, match=r"1 missing \(gene0\) and 1 not known \(novel\)"):
        model.predict(data.iter_batches(), registry=renamed(("novel", *genes[1:])))
    with pytest.raises(DataValidationError, match="another order"):
        model.predict(data.iter_batches(), registry=renamed(genes[::-1]))


def test_batches_are_matched_by_name_and_unknown_ones_refused(save: Save, configure: Configure) -> None:
    cells = counts_with_groups(batch_effect=1.0)
    data = DataAdapter(configure(save(cells), batch_key="batch", epochs=3, encode_covariates=True))
    model = fitted(data)
    only_q = cells[cells.obs["batch"] == "q"].copy()
    part = DataAdapter(configure(save(only_q), batch_key="batch"))
    assert part.registry.batches == ("q",)
    np.testing.assert_allclose(latent_of(model, part), latent_of(model, data)[data.batch_codes == 1], atol=1e-5)
    only_q.obs["batch"] = "z"
    with pytest.raises(DataValidationError, match="fitted with the batches p, q; the data have z"):
        latent_of(model, DataAdapter(configure(save(only_q), batch_key="batch")))
    with pytest.raises(DataValidationError, match="the data have none"):
        latent_of(model, DataAdapter(configure(save(only_q))))


def test_many_differing_genes_are_abridged() -> None:
    with pytest.raises(DataValidationError, match=r"30 missing \(g0, g1, g10, g11, g12, \.\.\.\)"):
        require_same_genes([f"g{i}" for i in range(30)], [])


def test_a_model_without_weights_says_so(data: DataAdapter, tmp_path: Path) -> None:
    with pytest.raises(DataValidationError, match="call fit, or load"):
        TorchVAE(data.config).save(str(tmp_path / "model"))
