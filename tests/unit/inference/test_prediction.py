import anndata as ad
import numpy as np
import pandas as pd
import pytest

from gca_core.inference.prediction import LOG, differential_change


@pytest.mark.parametrize(
    ("donors", "decided_by"), [(list("abc"), "donors"), (["a", "b", None], "wilcoxon"), (None, "wilcoxon")]
)
def test_a_predicted_change_is_tested_by_donor_where_there_are_three(donors, decided_by):
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(index=[f"c{i}" for i in range(60)])
    if donors:
        obs["donor"] = pd.Categorical(donors * 20)
    control, predicted = (ad.AnnData(np.zeros((60, 3)), obs=obs, layers={LOG: rng.gamma(2, 1, (60, 3))}) for _ in "ab")
    predicted.layers[LOG][:, 0] += 3
    found = differential_change(predicted, control, min_lfc=0.5, max_padj=0.05)
    assert (found.decided_by, found.is_de[0]) == (decided_by, True)
    assert "not replicates" in found.note
