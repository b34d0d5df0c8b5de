from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gca_core.latent.config import LatentConfig
from gca_core.latent.data_adapter import DataAdapter
from gca_core.latent.fitting import device_of
from gca_core.latent.loading import in_order
from tests.unit.latent.conftest import Configure, Save, counts_with_groups


@given(st.lists(st.integers(), max_size=30), st.integers(1, 5))
def test_results_come_in_the_order_of_the_parts(parts: list[int], workers: int) -> None:
    assert list(in_order(lambda part: -part, parts, workers)) == [-part for part in parts]


def test_several_workers_load_at_once_and_not_too_far_ahead() -> None:
    both, taken = threading.Barrier(2, timeout=20), []

    def parts() -> Any:
        for part in range(10):
            taken.append(part)
            yield part

    results = in_order(lambda part: (both.wait(), part)[1], parts(), 2)
    assert next(results) == 0
    assert len(taken) <= 3
    assert list(results) == list(range(1, 10))


def test_a_failure_reaches_the_caller_and_no_thread_stays() -> None:
    results = in_order(lambda part: 1 // part, [1, 0, 1, 1, 1], 3)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    unfinished = in_order(abs, range(100), 3)
    next(unfinished)
    unfinished.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gca-loader")]


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
    places = {"input_uri": "in", "output_dir": "out", "gpu_memory_fraction": 0.6}
    assert device_of(LatentConfig(**places, device="auto")).type == "cuda"
    assert device_of(LatentConfig(**places, device="cpu")).type == "cpu"
    assert shares == [0.6]
