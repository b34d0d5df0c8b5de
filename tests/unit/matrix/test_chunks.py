import logging

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from gca_core.matrix import chunks, kinds
from gca_core.matrix.chunks import ChunkedMatrix
from gca_core.matrix.files.anndata_io import sparse_dataset
from gca_core.matrix.kinds import MatrixKind, classify_matrix
from gca_core.matrix.normalise import log_normalise
from gca_core.matrix.ranking import rank_genes
from gca_core.matrix.stats import group_sums

FORMATS = ("csr", "csc", "dense")


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(0.8, size=(90, 14)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(counts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    for name, X in zip(FORMATS, (sp.csr_matrix(counts), sp.csc_matrix(counts), counts), strict=True):
        ad.AnnData(X).write_h5ad(folder / f"{name}.h5ad")
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_SIZE", 14 * 7)
    monkeypatch.setattr(chunks, "BLOCK_IN_FILE", 100)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_read_in_parts_like_memory(folder, counts, name):
    with h5py.File(folder / f"{name}.h5ad") as file:
        stored = sparse_dataset(file["X"]) if name != "dense" else file["X"]
        matrix = ChunkedMatrix(stored, columns=np.array([3, 1, 8]), transform=log_normalise)
        expected = log_normalise(counts)[:, [3, 1, 8]].toarray()
        assert matrix.shape == (90, 3)
        assert not matrix.in_memory
        assert len(list(matrix.chunks())) == 13
        assert np.allclose(np.vstack([chunk.toarray() for chunk in matrix.chunks()]), expected)
        assert np.allclose(matrix.to_csr().toarray(), expected)
        assert np.allclose(matrix.rows(np.array([2, 40, 41])).toarray(), expected[[2, 40, 41]])
        blocks = dict(matrix.column_blocks())
        assert len(blocks) > 1
        assert np.allclose(np.hstack([blocks[start].toarray() for start in sorted(blocks)]), expected)


@pytest.mark.parametrize("method", ["wilcoxon", "t-test", "t-test_overestim_var"])
def test_a_ranking_from_a_file_is_that_from_memory(folder, counts, method):
    groups = pd.Series(np.repeat(["a", "b", "c"], 30))
    genes = [f"G{j}" for j in range(14)]
    with h5py.File(folder / "csr.h5ad") as file:
        stored = ChunkedMatrix(sparse_dataset(file["X"]), transform=log_normalise)
        found = rank_genes(stored, genes, groups, method=method)
    expected = rank_genes(ChunkedMatrix(counts, transform=log_normalise), genes, groups, method=method)
    pd.testing.assert_frame_equal(found, expected)


def test_sums_over_parts_are_sums_over_the_whole(counts):
    codes = np.random.default_rng(1).integers(-1, 3, size=90)
    parts = group_sums(ChunkedMatrix(counts).chunks(), codes, 3)
    for g in range(3):
        inside, others = counts[codes == g].astype(float), counts[codes != g].astype(float)
        for statistics, cells in ((parts.inside(), inside), (parts.outside(), others)):
            assert np.allclose(statistics.mean[g], cells.mean(axis=0))
            assert np.allclose(statistics.variance[g], cells.var(axis=0, ddof=1))
            assert np.allclose(statistics.fraction[g], (cells > 0).mean(axis=0))
            assert statistics.n_cells[g] == len(cells)


def test_a_file_stored_by_columns_is_read_whole_and_it_is_said(folder, caplog):
    with h5py.File(folder / "csc.h5ad") as file, caplog.at_level(logging.WARNING):
        list(ChunkedMatrix(sparse_dataset(file["X"])).chunks())
    assert "stored by columns" in caplog.text


def test_the_kind_of_a_large_file_is_told_from_parts_of_it(folder, monkeypatch):
    monkeypatch.setattr(kinds, "MAX_VALUES", 200)
    monkeypatch.setattr(kinds, "MIN_ROWS", 20)
    for name in FORMATS:
        with h5py.File(folder / f"{name}.h5ad") as file:
            stored = sparse_dataset(file["X"]) if name != "dense" else file["X"]
            assert classify_matrix(stored) is MatrixKind.COUNTS
