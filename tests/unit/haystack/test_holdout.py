import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from gca_core.errors import DataValidationError
from gca_core.haystack.demo.holdout import split_withheld

TYPE, OTHER = "CL:0002057", "CL:0000236"


@pytest.fixture
def cells() -> ad.AnnData:
    """Twenty cells each of two types and two conditions, and five stimulated cells without a label."""
    rng = np.random.default_rng(0)
    types = [TYPE] * 40 + [OTHER] * 40 + [None] * 5
    condition = (["ctrl"] * 20 + ["stim"] * 20) * 2 + ["stim"] * 5
    rates = np.full((85, 60), 2.0)
    rates[np.array(condition) == "stim", :5] = 12.0
    obs = pd.DataFrame(
        {"cell_type_ontology_id": pd.Categorical(types), "condition": pd.Categorical(condition)},
        index=[f"c{i}" for i in range(85)],
    )
    return ad.AnnData(
        sp.csr_matrix(rng.poisson(rates).astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=[f"g{i}" for i in range(60)]),
    )


def test_the_answer_is_withheld_and_with_it_every_doubtful_cell(cells: ad.AnnData) -> None:
    kept, truth = split_withheld(cells, TYPE, perturbed_value="stim")
    assert truth.n_obs == 20
    assert kept.n_obs == 60
    assert not ((kept.obs["cell_type_ontology_id"] == TYPE) & (kept.obs["condition"] == "stim")).any()
    assert kept.obs["cell_type_ontology_id"].notna().all()
    assert not set(kept.obs_names) & set(truth.obs_names)


@pytest.mark.parametrize("options", [{"condition": "state"}, {"id_column": "type"}])
def test_a_missing_column_is_named(cells: ad.AnnData, options: dict[str, str]) -> None:
    with pytest.raises(DataValidationError, match="it has cell_type_ontology_id, condition"):
        split_withheld(cells, TYPE, perturbed_value="stim", **options)


def test_nothing_to_withhold_is_refused(cells: ad.AnnData) -> None:
    with pytest.raises(DataValidationError, match="0 perturbed"):
        split_withheld(cells, "CL:0000623", perturbed_value="stim")
