from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scanpy as sc
import scipy.io
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.latent.data import sources
from gca_core.latent.data.adapter import DataAdapter
from gca_core.latent.data.count_store import MemoryStore, ScratchStore, memory_store
from gca_core.latent.model.adapter import TorchVAE
from gca_core.matrix.normalise import log_normalise
from tests.helpers.latent_counts import N_GENES, Configure, Save, counts_with_groups, scaled_with_raw

PLENTY = 1000.0


@pytest.fixture
def tiny_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fits: files are read in parts, and counts go to a scratch file."""
    monkeypatch.setattr(sources, "memory_left", lambda _: 1.0)
    monkeypatch.setattr("gca_core.latent.data.adapter.memory_left", lambda _: 1.0)
    monkeypatch.setattr(sources, "MAX_CHUNK_CELLS", 40)


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = tmp_path_factory.mktemp("whole") / "cells.h5ad"
    counts_with_groups().write_h5ad(path)
    return path.read_bytes()


def same(one: sp.csr_matrix, other: sp.csr_matrix) -> bool:
    return one.shape == other.shape and (one != other).nnz == 0


def test_10x_files_are_read(configure: Configure, tmp_path: Path) -> None:
    cells = counts_with_groups()
    counts, (n_cells, n_genes) = sp.csr_matrix(cells.X), cells.shape
    genes = [f"gene{i}".encode() for i in range(n_genes)]
    with h5py.File(tmp_path / "filtered.h5", "w") as file:
        group = file.create_group("matrix")
        group["shape"] = np.array([n_genes, n_cells])
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(counts, name).astype(np.int32)
        group["barcodes"] = [name.encode() for name in cells.obs_names]
        features = group.create_group("features")
        features["id"], features["name"] = genes, genes
        features["feature_type"], features["genome"] = [b"Gene Expression"] * n_genes, [b"GRCh38"] * n_genes
    folder = tmp_path / "mtx"
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", counts.T.astype(np.int32))
    (folder / "barcodes.tsv").write_text("\n".join(cells.obs_names) + "\n", encoding="utf-8")
    (folder / "genes.tsv").write_text("".join(f"gene{i}\tgene{i}\n" for i in range(n_genes)), encoding="utf-8")
    for uri in (tmp_path / "filtered.h5", folder):
        data = DataAdapter(configure(str(uri)))
        assert same(data.counts, counts)
        assert data.registry.genes == tuple(cells.var_names)


def test_a_folder_of_something_else_is_refused(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(DataValidationError, match="neither a zarr store nor"):
        DataAdapter(configure(str(tmp_path)))


@pytest.mark.parametrize("form", ["csr", "dense", "layer", "raw, recovered", "zarr"])
@pytest.mark.usefixtures("tiny_memory")
def test_a_file_read_in_parts_gives_the_same_counts(save, configure, tmp_path, form):
    cells = counts_with_groups()
    expected, options, stored = sp.csr_matrix(cells.X), {}, cells
    if form == "dense":
        stored.X = expected.toarray()
    elif form == "layer":
        stored = scaled_with_raw(cells)
        stored.layers["umi"] = expected
        options = {"counts_layer": "umi"}
    elif form.startswith("raw"):
        stored, options = scaled_with_raw(cells), {"recover_counts": True}
    if form == "zarr":
        stored.write_zarr(tmp_path / "cells.zarr")
    uri = str(tmp_path / "cells.zarr") if form == "zarr" else save(stored)
    data = DataAdapter(configure(uri, labels_key="group", batch_key="batch", **options))
    assert not data.in_memory
    assert same(data.counts, expected)
    np.testing.assert_allclose(data.library, np.asarray(expected.sum(axis=1)).ravel())


@pytest.mark.usefixtures("tiny_memory")
def test_streamed_epochs_visit_every_training_cell_once_and_train_a_model(save: Save, configure: Configure) -> None:
    cells = counts_with_groups(400)
    cells.X[:, 0] = np.arange(1, 401).reshape(-1, 1)
    data = DataAdapter(configure(save(cells), epochs=2))
    marker = data.registry.genes.index("gene0")
    for epoch in (1, 2):
        seen = np.concatenate([b.counts[:, [marker]].toarray().ravel() for b in data.iter_train_batches(epoch)])
        assert sorted(seen - 1) == data.train_cells.tolist()
        assert not np.array_equal(seen, np.sort(seen))
    model, again = TorchVAE(data.config), TorchVAE(data.config)
    model.fit(data)
    again.fit(DataAdapter(data.config))
    latent = model.predict(data.iter_batches(), registry=data.registry)
    np.testing.assert_array_equal(latent, again.predict(data.iter_batches(), registry=data.registry))


@pytest.mark.usefixtures("tiny_memory")
def test_counts_that_end_half_way_are_refused(save, configure, monkeypatch):
    monkeypatch.setattr(sources, "SAMPLE_CELLS", 60)
    cells = counts_with_groups()
    cells.X = sp.csr_matrix(np.vstack([cells.X[:100].toarray(), cells.X[100:].toarray() * 0.37]))
    with pytest.raises(DataValidationError, match=r"from cell 80 on, but raw counts are needed"):
        DataAdapter(configure(save(cells)))


@pytest.mark.usefixtures("tiny_memory")
def test_a_matrix_stored_by_genes_can_not_be_streamed(save: Save, configure: Configure) -> None:
    cells = counts_with_groups()
    cells.X = sp.csc_matrix(cells.X)
    with pytest.raises(DataValidationError, match="csc_matrix, which can't be read by cells"):
        DataAdapter(configure(save(cells)))


def test_what_fits_in_the_memory_allowed_is_kept_there(save: Save, configure: Configure) -> None:
    assert DataAdapter(configure(save(counts_with_groups()), max_ram_usage_gb=PLENTY)).in_memory
    with pytest.raises(ConfigurationError, match="before any cell is read; raise it"):
        DataAdapter(configure(save(counts_with_groups()), max_ram_usage_gb=0.001))


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 20))
@settings(max_examples=15, deadline=None)
def test_a_scratch_file_gives_the_rows_that_memory_gives(seed: int, n_cells: int, step: int) -> None:
    rng = np.random.default_rng(seed)
    counts = sp.csr_matrix(rng.poisson(0.3, (n_cells, 11)).astype(np.float32))
    chunks = [counts[i : i + step] for i in range(0, n_cells, step)]
    scratch = ScratchStore(iter(chunks), 11)
    memory = memory_store(iter(chunks), n_cells, 11, counts.nnz)
    assert isinstance(memory, MemoryStore)
    cells = rng.integers(0, n_cells, rng.integers(0, 2 * n_cells))
    unique = rng.permutation(n_cells)[: rng.integers(1, n_cells + 1)]
    for store in (scratch, memory):
        assert same(store.rows(unique), counts[unique])
        assert same(store.rows(cells), counts[cells])
        batches = list(store.shuffled(np.sort(unique), 7, np.random.default_rng(0)))
        assert sorted(np.concatenate(batches).tolist()) == sorted(unique.tolist())
    assert scratch.n_counts == memory.n_counts == counts.nnz


def test_variable_genes_are_chosen_on_training_cells_alone(save: Save, configure: Configure) -> None:
    cells = counts_with_groups(300)
    quiet = np.random.default_rng(1).poisson(0.5, (300, 200)).astype(np.float32)
    cells = ad.AnnData(
        X=sp.csr_matrix(np.hstack([cells.X.toarray(), quiet])),
        obs=cells.obs.assign(donor=np.where(np.arange(300) < 240, "old", "new")),
    )
    cells.var_names = [f"gene{i}" for i in range(cells.n_vars)]
    uri = save(cells)
    options = {"n_top_genes": 45, "test_batches": ("new",), "split_key": "donor"}
    data = DataAdapter(configure(uri, **options))
    assert len(data.registry.genes) == 45
    logged = ad.AnnData(X=log_normalise(cells[data.train_cells].X), var=cells.var)
    expected = sc.pp.highly_variable_genes(logged, n_top_genes=45, inplace=False)
    assert data.registry.genes == tuple(cells.var_names[expected["highly_variable"]])
    changed = cells.copy()
    changed.X = sp.csr_matrix(np.vstack([cells.X[:240].toarray(), cells.X[240:].toarray()[:, ::-1]]))
    assert DataAdapter(configure(save(changed), **options)).registry.genes == data.registry.genes
    assert len(DataAdapter(configure(uri, n_top_genes=None)).registry.genes) == N_GENES + 200


def test_genes_can_be_named_and_missing_ones_are(save: Save, configure: Configure) -> None:
    uri = save(counts_with_groups())
    data = DataAdapter(configure(uri), genes=["gene7", "gene3"])
    assert data.registry.genes == ("gene7", "gene3")
    assert same(data.counts, sp.csr_matrix(counts_with_groups().X)[:, [7, 3]])
    with pytest.raises(DataValidationError, match="lacks 1 of 2 genes asked for: 'novel'"):
        DataAdapter(configure(uri), genes=["gene7", "novel"])


def test_test_batches_are_kept_out_of_training_and_registry(save: Save, configure: Configure) -> None:
    cells = counts_with_groups()
    data = DataAdapter(configure(save(cells), batch_key="batch", labels_key="group", test_batches=("q",)))
    assert set(cells.obs["batch"].iloc[data.test_cells]) == {"q"}
    assert data.registry.batches == ("p",)
    assert set(data.batch_codes[data.test_cells]) == {-1}
    parts = [data.train_cells, data.val_cells, data.test_cells]
    assert sorted(np.concatenate(parts).tolist()) == list(range(150))
    assert sum(b.counts.shape[0] for b in data.iter_test_batches()) == len(data.test_cells)
    with pytest.raises(DataValidationError, match=r"test batch 'z'; found 'p', 'q'"):
        DataAdapter(configure(save(cells), batch_key="batch", test_batches=("z",)))
    with pytest.raises(DataValidationError, match="leave some for training"):
        DataAdapter(configure(save(cells), batch_key="batch", test_batches=("p", "q")))


def test_a_label_that_only_test_cells_have_is_named(save: Save, configure: Configure) -> None:
    cells = counts_with_groups()
    cells.obs["group"] = np.where(cells.obs["batch"] == "q", "new", cells.obs["group"].astype(str))
    data = DataAdapter(configure(save(cells), batch_key="batch", labels_key="group", test_batches=("q",)))
    assert data.registry.labels == ("a", "b", "c")
    assert data.dataset_info()["labels_not_in_training"] == ["new"]
    assert set(data.label_codes[data.test_cells]) == {-1}


def test_a_category_without_cells_is_no_label(save: Save, configure: Configure) -> None:
    cells = counts_with_groups()
    cells.obs["group"] = cells.obs["group"].cat.add_categories(["nobody"])
    data = DataAdapter(configure(save(cells), labels_key="group"))
    assert data.registry.labels == ("a", "b", "c")
    assert data.dataset_info()["n_labels"] == 3


@given(st.floats(0, 0.999), st.booleans())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_file_is_refused(whole_file, configure, tmp_path, share, in_parts):
    path = tmp_path / "cut.h5ad"
    path.write_bytes(whole_file[: int(len(whole_file) * share)])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataValidationError, match="can't be read as h5ad"):
        if in_parts:
            patch.setattr(sources, "memory_left", lambda _: 1.0)
        DataAdapter(configure(str(path)))
