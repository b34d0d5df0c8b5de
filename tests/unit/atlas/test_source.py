"""Values that are unpacked beside HDF5."""

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from gca_core.atlas.ingest import source

SIZE = 1000


@pytest.fixture
def file(tmp_path: Path) -> Iterator[h5py.File]:
    with h5py.File(tmp_path / "values.h5", "w") as opened:
        yield opened


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8, np.int64, ">i4"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_packed_values_are_those_that_hdf5_reads(file: h5py.File, kind: str, shuffle: bool) -> None:
    values = np.random.default_rng(0).integers(0, 100, SIZE).astype(kind)
    packed = file.create_dataset("x", data=values, chunks=(64,), compression="gzip", shuffle=shuffle)
    for part in (slice(0, SIZE), slice(0, 1), slice(63, 65), slice(64, 128), slice(990, SIZE), slice(5, 5)):
        found = source._unpacked(packed, part)
        assert found.dtype == packed.dtype
        np.testing.assert_array_equal(found, values[part])
        np.testing.assert_array_equal(source._values(packed, part), values[part])


def partly_missing(file: h5py.File) -> h5py.Dataset:
    values = file.create_dataset("x", (SIZE,), np.int32, chunks=(64,), compression="gzip", fillvalue=7)
    values[:100] = np.arange(100)
    return values


def partly_unpacked(file: h5py.File) -> h5py.Dataset:
    values = partly_missing(file)
    values.id.write_direct_chunk((64,), np.arange(64, dtype=np.int32).tobytes(), filter_mask=1)
    return values


@pytest.mark.parametrize(
    "make",
    [
        partly_missing,
        partly_unpacked,
        lambda file: file.create_dataset("x", data=np.arange(SIZE)),
        lambda file: file.create_dataset("x", data=np.arange(SIZE), chunks=(64,), compression="lzf"),
        lambda file: file.create_dataset("x", data=np.arange(SIZE), chunks=(64,), compression="gzip", fletcher32=True),
    ],
    ids=["partly missing", "partly unpacked", "in one piece", "lzf", "checked"],
)
def test_values_stored_otherwise_are_left_to_hdf5(file: h5py.File, make: Callable[[h5py.File], h5py.Dataset]) -> None:
    values = make(file)
    for part in (slice(0, SIZE), slice(10, 130)):
        np.testing.assert_array_equal(source._values(values, part), values[part])


def test_chunks_larger_than_a_block_are_left_to_hdf5(file: h5py.File, monkeypatch: pytest.MonkeyPatch) -> None:
    values = file.create_dataset("x", data=np.arange(SIZE), chunks=(100,), compression="gzip")
    monkeypatch.setattr(source, "BLOCK_VALUES", 99)
    monkeypatch.setattr(source, "_unpacked", None)
    np.testing.assert_array_equal(source._values(values, slice(0, SIZE)), np.arange(SIZE))
