import numpy as np
import pytest
import torch

from gca_core.latent.config import LatentConfig
from gca_core.latent.data.adapter import DataAdapter
from gca_core.latent.model.fitting import device_of
from tests.helpers.latent_counts import Configure, Save, counts_with_groups


def test_the_number_of_loaders_changes_no_batch(save: Save, configure: Configure) -> None:
    uri = save(counts_with_groups())
    one, four = (DataAdapter(configure(uri, loader_workers=workers, batch_key="batch")) for workers in (1, 4))
    for first, second in zip(one.iter_train_batches(3), four.iter_train_batches(3), strict=True):
        np.testing.assert_array_equal(first.counts.toarray(), second.counts.toarray())
        np.testing.assert_array_equal(first.batch_codes, second.batch_codes)


def test_a_gpu_lends_the_share_that_the_configuration_names(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    places = {"input_uri": "in", "output_uri": "out", "gpu_memory_fraction": 0.6}
    assert device_of(LatentConfig(**places, device="auto")).type == "cuda"
    assert device_of(LatentConfig(**places, device="cpu")).type == "cpu"
    assert shares == [0.6]
