import anndata as ad
import numpy as np
import pandas as pd
import pytest

from gca_core.annotation.adata.expression import read_expression
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.matrix.normalise import log_normalise


def scaled(adata: ad.AnnData) -> np.ndarray:
    return np.asarray(adata.X - adata.X.mean(axis=0))


def test_counts_are_normalised_and_it_is_said(blood, database):
    found = read_expression(blood, database)
    assert found.source == "X (counts, normalised to 10,000 per cell and log1p taken)"
    assert np.allclose(found.matrix.toarray(), log_normalise(blood.X).toarray())


def test_log_normalised_values_are_taken_as_they_are(blood, database):
    blood.X = log_normalise(blood.X)
    found = read_expression(blood, database)
    assert found.source == "X (log-normalised)"
    assert (found.matrix != blood.X).nnz == 0


def test_scaled_data_with_raw_uses_raw(blood, database):
    blood.X = log_normalise(blood.X).toarray()
    blood.raw = blood.copy()
    blood.X = scaled(blood)
    assert read_expression(blood, database).source == "raw (log-normalised)"


def test_raw_with_more_genes_is_preferred(blood, database):
    blood.raw = blood.copy()
    fewer = blood[:, :500].copy()
    assert read_expression(fewer, database).source.startswith("raw (counts")


def test_scaled_data_alone_is_refused(blood, database):
    blood.X = scaled(blood)
    with pytest.raises(DataValidationError, match="X is scaled"):
        read_expression(blood, database)


def test_scaled_data_with_one_usable_layer_uses_it(blood, database):
    blood.layers["counts"] = blood.X.copy()
    blood.X = scaled(blood)
    assert read_expression(blood, database).source.startswith("layer 'counts'")


def test_two_usable_layers_have_to_be_chosen_from(blood, database):
    blood.layers["a"], blood.layers["b"] = blood.X.copy(), blood.X.copy()
    blood.X = scaled(blood)
    with pytest.raises(DataValidationError, match="name the layer"):
        read_expression(blood, database)
    assert read_expression(blood, database, layer="b").source.startswith("layer 'b'")


def test_an_ambiguous_matrix_is_refused(blood, database):
    blood.X = np.random.default_rng(0).uniform(0, 20, size=blood.shape)
    with pytest.raises(DataValidationError, match="X is ambiguous"):
        read_expression(blood, database)


def test_a_layer_that_is_missing_or_scaled_is_refused(blood, database):
    blood.layers["z"] = scaled(blood)
    with pytest.raises(DataValidationError, match="no layer 'q'"):
        read_expression(blood, database, layer="q")
    with pytest.raises(DataValidationError, match="'z' is scaled"):
        read_expression(blood, database, layer="z")


def test_ensembl_ids_use_the_symbol_column_or_are_refused(blood, database):
    symbols = list(blood.var_names)
    blood.var_names = [f"ENSG{i:011d}" for i in range(blood.n_vars)]
    with pytest.raises(DataValidationError, match="Ensembl ids"):
        read_expression(blood, database)
    blood.var["gene_symbols"] = symbols
    assert read_expression(blood, database).genes == tuple(symbols)


def test_mouse_symbols_need_the_species(blood, database):
    blood.var_names = [name.capitalize() for name in blood.var_names]
    with pytest.raises(DataValidationError, match="set the species to mouse"):
        read_expression(blood, database)
    assert "CD19" in read_expression(blood, database, species="mouse").genes


def test_an_unknown_species_is_refused(blood, database):
    with pytest.raises(ConfigurationError, match="'yeast'"):
        read_expression(blood, database, species="yeast")


def test_genes_that_the_database_does_not_know_are_refused(database):
    adata = ad.AnnData(X=np.ones((5, 30), dtype=np.float32), var=pd.DataFrame(index=[f"X{i}" for i in range(30)]))
    with pytest.raises(DataValidationError, match="only 0 of 30 genes"):
        read_expression(adata, database)


def test_no_cells_are_refused(blood, database):
    with pytest.raises(DataValidationError, match="0 cells"):
        read_expression(blood[:0], database)


def test_previous_symbols_are_renamed_and_repeats_keep_the_first(blood, database):
    names = ["IGJ" if name == "JCHAIN" else name for name in blood.var_names]
    names[-1] = "CD19"
    blood.var_names = names
    genes = read_expression(blood, database).genes
    assert "JCHAIN" in genes
    assert len(genes) == len(set(genes)) == blood.n_vars - 1
