"""The expression store, with blocks so small that every group spans some."""

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from gca_core.atlas.expression import ExpressionStore
from gca_core.atlas.ingest import source, store
from gca_core.atlas.ingest.checkpoint import IngestCheckpoint
from gca_core.atlas.ingest.names import NameResolver
from gca_core.atlas.ingest.plan import IngestPlan, make_plan
from gca_core.atlas.models import IngestConfig
from gca_core.atlas.reader import share_out
from gca_core.errors import CellRetrievalError, DataValidationError
from gca_core.matrix.cells import open_cells
from gca_core.matrix.normalise import log_normalise
from gca_core.progress import Progress, listening


def make_cells(n_cells: int = 101, n_genes: int = 17) -> ad.AnnData:
    rng = np.random.default_rng(1)
    obs = pd.DataFrame(
        {
            "condition": rng.choice(["ctrl", "stim"], n_cells),
            "cell_type": rng.choice(np.array(["T", "B", None], dtype=object), n_cells, p=[0.7, 0.2, 0.1]),
        },
        index=[f"c{i}" for i in range(n_cells)],
    )
    counts = sp.csr_matrix(rng.poisson(0.8, (n_cells, n_genes)).astype(np.float32))
    # a zero that is stored, and a cell without counts
    counts.data[3] = 0.0
    counts.data[counts.indptr[7] : counts.indptr[8]] = 0.0
    return ad.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


def write(folder: Path, cells: ad.AnnData) -> IngestPlan:
    path = folder / "in.h5ad"
    cells.write_h5ad(path)
    config = IngestConfig(
        input_uri=str(path),
        dataset="d",
        perturbation_column="condition",
        control_value="ctrl",
        cell_type_column="cell_type",
    )
    with open_cells(str(path)) as file:
        opened = source.CountSource(file, None)
        words = NameResolver({"T": "CL:0000084", "B": "CL:0000236"}.get)
        plan = make_plan(opened.table(["condition", "cell_type"]), config, words)
        store.write_cells(folder, opened, plan, IngestCheckpoint(folder, opened.n_cells, 3))
    store.write_groups(folder, plan)
    return plan


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_cells_are_sorted_by_group_whatever_the_block(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(source, "BLOCK_ROWS", rows)
    monkeypatch.setattr(store, "BLOCK_ROWS", rows)
    cells = make_cells()
    heard = []
    with listening(heard.append):
        plan = write(tmp_path, cells)
    assert heard[-1] == Progress("store", 101, 101)
    stored = ad.read_h5ad(tmp_path / "cells.h5ad")
    ids = [group.group_id for group in plan.groups for _ in range(group.n_cells)]
    assert stored.obs["group_id"].tolist() == ids
    original = cells[stored.obs["cell_name"].tolist()]
    assert (stored.X != original.X).nnz == 0
    assert stored.X.has_canonical_format
    assert not (stored.X.data == 0).any()
    np.testing.assert_array_equal(stored.obs["n_counts"], np.asarray(original.X.sum(axis=1)).ravel())
    np.testing.assert_array_equal(stored.obs["n_genes"], np.asarray((original.X > 0).sum(axis=1)).ravel())


@pytest.mark.parametrize(("rows", "groups"), [(1, 256), (7, 256), (1000, 1), (1000, 256)])
def test_statistics_are_those_of_all_cells_of_a_group(tmp_path, monkeypatch, rows, groups):
    monkeypatch.setattr(store, "BLOCK_ROWS", rows)
    monkeypatch.setattr(store, "_BLOCK_GROUPS", groups)
    cells = make_cells()
    plan = write(tmp_path, cells)
    stored = ad.read_h5ad(tmp_path / "groups.h5ad")
    assert list(stored.obs_names) == [group.group_id for group in plan.groups]
    for row in range(stored.n_obs):
        logged = log_normalise(cells.X[plan.codes == row], dtype=np.float64).toarray()
        np.testing.assert_allclose(stored.X[row], logged.mean(axis=0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(stored.layers["variance"][row], logged.var(axis=0, ddof=1), rtol=1e-5, atol=1e-6)
    means = ExpressionStore(tmp_path.as_uri()).means([stored.obs_names[1], stored.obs_names[0]])
    np.testing.assert_array_equal(means, stored.X[[1, 0]])


@pytest.mark.parametrize("largest", [2**24, 2**31])
def test_statistics_of_counts_that_single_precision_does_not_hold(tmp_path: Path, largest: int) -> None:
    cells = make_cells()
    counts = np.random.default_rng(2).integers(largest // 2, largest, cells.shape).astype(np.float64)
    cells.X = sp.csr_matrix(counts)
    plan = write(tmp_path, cells)
    stored = ad.read_h5ad(tmp_path / "groups.h5ad")
    factors = (1e4 / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    logged = np.log((factors * counts).astype(np.float32) + np.float32(1)).astype(np.float64)
    for row, group in enumerate(plan.groups):
        expected = np.zeros(cells.n_vars)
        for cell in logged[plan.codes == row]:
            expected += cell
        np.testing.assert_array_equal(stored.X[row], (expected / group.n_cells).astype(np.float32))


def test_what_fails_late_leaves_the_progress_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK_ROWS", 7)
    seen = []
    monkeypatch.setattr(IngestCheckpoint, "advance", lambda _self, row: seen.append(row))
    cells = make_cells(700)
    counts = cells.X.toarray()
    counts[600, 3] = 0.5
    cells.X = sp.csr_matrix(counts)
    with pytest.raises(DataValidationError):
        write(tmp_path, cells)
    assert seen == list(range(7, 600, 7))


@pytest.mark.parametrize("rows", [[0], [3, 4, 5, 90], [0, 50, 51], list(range(40))])
def test_rows_are_read_as_asked(tmp_path: Path, rows: list[int]) -> None:
    write(tmp_path, make_cells())
    stored = ad.read_h5ad(tmp_path / "cells.h5ad")
    counts, names = ExpressionStore(tmp_path.as_uri()).rows(np.array(rows))
    assert (counts != stored.X[rows]).nnz == 0
    assert names == stored.obs["cell_name"].iloc[rows].tolist()


def test_genes_named_twice_are_refused(tmp_path: Path) -> None:
    cells = make_cells()
    cells.var_names = ["same", "same", *cells.var_names[2:]]
    with pytest.raises(DataValidationError, match="genes twice"):
        write(tmp_path, cells)


def test_a_file_that_is_no_h5ad_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.h5ad"
    path.write_text("not hdf5")
    with pytest.raises(DataValidationError, match="can't be read as h5ad"), open_cells(str(path)):
        pass


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(0, 400))
def test_a_budget_is_shared_out_evenly(sizes: list[int], extra: int) -> None:
    budget = len(sizes) + extra
    shares = share_out(sizes, budget)
    assert sum(shares) == min(budget, sum(sizes))
    assert all(1 <= share <= size for share, size in zip(shares, sizes, strict=True))
    # a group gets less than another only when it has no more, or by one cell
    for share, size in zip(shares, sizes, strict=True):
        assert share == size or share >= max(shares) - 1


def test_without_a_budget_all_cells_are_taken() -> None:
    assert share_out([3, 1], None) == [3, 1]
    with pytest.raises(CellRetrievalError, match="the budget is 1 cells for 2 groups"):
        share_out([3, 1], 1)


def test_what_a_file_marks_as_absent_is_no_matrix(tmp_path: Path) -> None:
    cells = make_cells()
    cells.layers["counts"] = cells.X.copy()
    path = tmp_path / "absent.h5ad"
    cells.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for name in ("X", "raw"):
            file.pop(name, None)
            file.create_dataset(name, data=h5py.Empty("f")).attrs.update(
                {"encoding-type": "null", "encoding-version": "0.1.0"}
            )
    with open_cells(str(path)) as opened:
        assert sum(block.shape[0] for _, block in source.CountSource(opened, "counts").blocks()) == cells.n_obs
        with pytest.raises(DataValidationError, match=r"there is no X.*counts were found in layers/counts"):
            source.CountSource(opened, None)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.h5ad"
    make_cells().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X/indptr"]
    with pytest.raises(DataValidationError, match="can't be read as h5ad"), open_cells(str(path)) as opened:
        source.CountSource(opened, None)
