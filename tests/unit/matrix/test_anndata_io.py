import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import h5py
import numpy as np
import pytest

from gca_core.matrix.files import anndata_io

NAMES = ("read_elem", "sparse_dataset", "write_elem")


@pytest.fixture
def anew() -> Iterator[None]:
    """The module is read once more after the test, with the anndata that is installed."""
    yield
    importlib.reload(anndata_io)


def stand_in(module: str) -> ModuleType:
    found = ModuleType(module)
    for name in NAMES:
        setattr(found, name, f"{module}.{name}")
    return found


@pytest.mark.parametrize("place", ["anndata.io", "anndata.experimental"])
def test_elements_are_read_and_written_by_the_place_that_the_version_has(anew, monkeypatch, place):
    for module in ("anndata.io", "anndata.experimental"):
        # None makes the import fail, as in a version without the place
        monkeypatch.setitem(sys.modules, module, stand_in(module) if module == place else None)
    importlib.reload(anndata_io)
    assert [getattr(anndata_io, name) for name in NAMES] == [f"{place}.{name}" for name in NAMES]


def test_the_newer_place_goes_first(anew, monkeypatch):
    for module in ("anndata.io", "anndata.experimental"):
        monkeypatch.setitem(sys.modules, module, stand_in(module))
    importlib.reload(anndata_io)
    assert anndata_io.read_elem == "anndata.io.read_elem"


def test_an_element_is_written_and_read_with_the_anndata_installed(tmp_path):
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        anndata_io.write_elem(file, "a", np.arange(3))
        assert anndata_io.read_elem(file["a"]).tolist() == [0, 1, 2]
