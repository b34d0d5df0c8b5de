import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gca_core.errors import DataValidationError
from gca_core.latent.data.adapter import DataAdapter
from gca_core.latent.data.splits import stratified_split
from tests.helpers.latent_counts import Configure, Save, counts_with_groups, scaled_with_raw


def test_counts_in_x_are_taken_as_they_are(adata: ad.AnnData, save: Save, configure: Configure) -> None:
    data = DataAdapter(configure(save(adata), labels_key="group", batch_key="batch"))
    assert (data.counts != adata.X).nnz == 0
    assert data.registry.genes == tuple(adata.var_names)
    assert data.registry.batches == ("p", "q")
    assert data.registry.labels == ("a", "b", "c")
    info = data.dataset_info()
    assert (info["n_cells"], info["n_genes"], info["counts_from"], info["recovered"]) == (150, 60, "X", False)
    assert info["n_train"] + info["n_validation"] == 150


def test_a_layer_or_raw_can_hold_the_counts(adata: ad.AnnData, save: Save, configure: Configure) -> None:
    changed = scaled_with_raw(adata)
    changed.layers["umi"] = adata.X
    assert (DataAdapter(configure(save(changed), counts_layer="umi")).counts != adata.X).nnz == 0
    changed.raw = adata
    found = DataAdapter(configure(save(changed), counts_layer="raw"))
    assert (found.counts != adata.X).nnz == 0
    assert found.registry.counts_from == "raw"


@pytest.mark.parametrize("layer", [None, "raw"])
def test_counts_are_recovered_from_log_normalised_values(adata, save, configure, layer):
    data = DataAdapter(configure(save(scaled_with_raw(adata)), counts_layer=layer, recover_counts=True))
    assert (data.counts != adata.X).nnz == 0
    assert (data.registry.counts_from, data.registry.recovered) == ("raw", True)


def test_scaled_data_are_refused_with_the_option_that_would_do(adata, save, configure):
    scaled = scaled_with_raw(adata)
    with pytest.raises(DataValidationError, match=r"X is scaled.*counts_layer to 'raw' and recover_counts"):
        DataAdapter(configure(save(scaled)))
    with pytest.raises(DataValidationError, match=r"X.*scaled.*counts_layer to 'raw' and recover_counts"):
        DataAdapter(configure(save(scaled), counts_layer="X", recover_counts=True))
    with pytest.raises(DataValidationError, match=r"raw is log-normalised.*recover_counts"):
        DataAdapter(configure(save(scaled), counts_layer="raw"))
    scaled.layers["umi"] = adata.X
    with pytest.raises(DataValidationError, match="counts_layer to 'umi' and leave recover_counts off"):
        DataAdapter(configure(save(scaled)))
    scaled.raw = None
    del scaled.layers["umi"]
    with pytest.raises(DataValidationError, match="take a file that holds counts"):
        DataAdapter(configure(save(scaled)))


def test_values_that_are_no_multiples_of_counts_are_refused(adata, save, configure):
    corrected = scaled_with_raw(adata).raw.to_adata()
    corrected.X.data *= np.random.default_rng(0).uniform(0.9, 1.1, corrected.X.nnz).astype(np.float32)
    with pytest.raises(DataValidationError, match="can't be recovered"):
        DataAdapter(configure(save(corrected), recover_counts=True))


def test_counts_need_no_recovery_and_that_is_said(adata: ad.AnnData, save: Save, configure: Configure) -> None:
    with pytest.raises(DataValidationError, match="counts_layer to 'X' and leave recover_counts off"):
        DataAdapter(configure(save(adata), recover_counts=True))


def test_nan_is_refused(adata: ad.AnnData, save: Save, configure: Configure) -> None:
    adata.X.data[7] = np.nan
    with pytest.raises(DataValidationError, match="NaN"):
        DataAdapter(configure(save(adata)))


def test_a_missing_file_is_named(configure: Configure) -> None:
    with pytest.raises(DataValidationError, match=r"'nowhere\.h5ad' does not exist"):
        DataAdapter(configure("nowhere.h5ad"))


def test_a_file_of_another_kind_is_refused(tmp_path, configure: Configure) -> None:
    path = tmp_path / "text.h5ad"
    path.write_text("no cells here", encoding="utf-8")
    with pytest.raises(DataValidationError, match="can't be read as h5ad"):
        DataAdapter(configure(str(path)))


@pytest.mark.parametrize("option", ["labels_key", "batch_key"])
def test_a_missing_column_lists_those_there_are(adata, save, configure, option):
    with pytest.raises(DataValidationError, match=f"no column 'celltype' for {option}; found 'group', 'batch'"):
        DataAdapter(configure(save(adata), **{option: "celltype"}))


@pytest.mark.parametrize("layer", ["umi", "raw"])
@pytest.mark.parametrize("recover", [True, False])
def test_a_missing_layer_is_refused(adata, save, configure, layer, recover):
    with pytest.raises(DataValidationError, match=f"there is no (layer '{layer}'|{layer})"):
        DataAdapter(configure(save(adata), counts_layer=layer, recover_counts=recover))


def test_too_few_cells_are_refused(save: Save, configure: Configure) -> None:
    with pytest.raises(DataValidationError, match="20 cells; a latent model needs at least 50"):
        DataAdapter(configure(save(counts_with_groups(20))))


def test_cells_without_counts_are_refused(adata: ad.AnnData, save: Save, configure: Configure) -> None:
    dense = adata.X.toarray()
    dense[[3, 9]] = 0
    adata.X = sp.csr_matrix(dense)
    with pytest.raises(DataValidationError, match="2 of 150 cells have no counts"):
        DataAdapter(configure(save(adata)))


def test_repeated_gene_names_are_refused(adata: ad.AnnData, save: Save, configure: Configure) -> None:
    adata.var_names = ["twin", "twin", *adata.var_names[2:]]
    with pytest.raises(DataValidationError, match="gene names repeat: 'twin'"):
        DataAdapter(configure(save(adata)))


def test_cells_without_a_batch_are_refused(adata: ad.AnnData, save: Save, configure: Configure) -> None:
    adata.obs["batch"] = adata.obs["batch"].where(np.arange(150) > 4)
    with pytest.raises(DataValidationError, match="5 cells have no batch"):
        DataAdapter(configure(save(adata), batch_key="batch"))


def test_a_label_map_merges_leaves_out_and_has_to_be_complete(adata, save, configure):
    uri = save(adata)
    data = DataAdapter(configure(uri, labels_key="group", label_map={"a": "ab", "b": "ab", "c": None}))
    assert data.labels is not None
    assert data.registry.labels == ("ab",)
    assert (data.labels == None).sum() == 50  # noqa: E711
    with pytest.raises(DataValidationError, match="label_map lacks 'c' of obs column 'group'"):
        DataAdapter(configure(uri, labels_key="group", label_map={"a": "x", "b": "y"}))


def test_an_epoch_sees_each_training_cell_once_and_no_cell_alone(adata, save, configure):
    dense = adata.X.toarray()
    dense[:, 0] = np.arange(1, 151)
    adata.X = sp.csr_matrix(dense)
    data = DataAdapter(configure(save(adata), batch_size=67))

    def identities(batches) -> list[int]:
        return [int(x) for batch in batches for x in batch.counts[:, 0].toarray().ravel()]

    first, again, second = (identities(data.iter_train_batches(epoch)) for epoch in (1, 1, 2))
    assert sorted(first) == sorted(data.train_cells + 1)
    assert first == again
    assert first != second
    assert sorted(second) == sorted(first)
    assert identities(data.iter_val_batches()) == list(data.val_cells + 1)
    assert identities(data.iter_batches()) == list(range(1, 151))
    assert min(batch.counts.shape[0] for batch in data.iter_train_batches(1)) > 1


@given(
    hnp.arrays(np.int64, st.integers(2, 200), elements=st.integers(0, 4)),
    st.floats(0.01, 0.5),
    st.integers(0, 2**31),
)
@settings(deadline=None)
def test_a_split_is_a_partition_with_every_stratum_in_training(strata: np.ndarray, fraction: float, seed: int) -> None:
    train, validation = stratified_split(strata, fraction, seed)
    assert sorted([*train, *validation]) == list(range(len(strata)))
    assert len(validation) >= 1
    for code, n in zip(*np.unique(strata, return_counts=True), strict=True):
        held_out = int((strata[validation] == code).sum())
        if n > 1:
            assert held_out < n
            assert abs(held_out - n * fraction) <= 1
    same = stratified_split(strata, fraction, seed)
    assert all(np.array_equal(x, y) for x, y in zip((train, validation), same, strict=True))
