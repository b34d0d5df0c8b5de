import numpy as np
import pytest

from gca_core.annotation import annotate_cells
from gca_core.errors import ConfigurationError, DataValidationError
from tests.helpers.blood import MIXTURE


@pytest.fixture(scope="module")
def found(simulated):
    return annotate_cells(simulated, tissue="blood", cell_types=list(MIXTURE.values()))


def test_cells_get_their_own_type_or_none(simulated, found):
    truth = simulated.obs["truth"].map(MIXTURE).astype(object)
    labelled = found["ontology_id"].notna()
    assert labelled.mean() > 0.8
    assert (found["ontology_id"] == truth)[labelled].mean() > 0.98
    assert list(found.index) == list(simulated.obs_names)


def test_cells_in_doubt_have_no_label_but_a_proposal(found):
    doubtful = found["label"].isna()
    assert (doubtful == found["ontology_id"].isna()).all()
    assert found["proposed_label"].notna().all()
    assert found["margin"].between(0, 1).all()
    assert (found.loc[~doubtful, "margin"] >= 0.5).all()


def test_a_wider_margin_labels_fewer_cells(simulated, found):
    strict = annotate_cells(simulated, tissue="blood", cell_types=list(MIXTURE.values()), min_margin=0.99)
    assert strict["label"].notna().sum() < found["label"].notna().sum()
    assert (strict["margin"] == found["margin"]).all()


def test_subtypes_count_for_the_type_that_is_asked_for(simulated):
    found = annotate_cells(simulated, cell_types=["monocytes", "B cells", "NK cells", "megakaryocyte"])
    monocytes = simulated.obs["truth"].isin(["cd14", "cd16"]).to_numpy()
    assert set(found["label"][monocytes].dropna()) == {"monocyte"}


def test_every_type_of_the_database_is_considered_by_default(simulated):
    found = annotate_cells(simulated, tissue="blood")
    b = (simulated.obs["truth"] == "b").to_numpy()
    assert "B cell" in set(found["proposed_label"][b])


def test_mixtures_of_two_types_are_less_sure(simulated):
    cells = simulated.copy()
    b, nk = (np.flatnonzero(cells.obs["truth"] == t)[:20] for t in ("b", "nk"))
    cells.X[b] = cells.X[b] + cells.X[nk]
    found = annotate_cells(cells, tissue="blood", cell_types=list(MIXTURE.values()))
    others = np.flatnonzero(cells.obs["truth"] == "b")[20:]
    assert found["margin"].iloc[b].mean() < found["margin"].iloc[others].mean()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cell_types": ["unicorn"]}, "'unicorn' is no cell type"),
        ({"cell_types": ["CL:0000025"]}, "no markers for"),
        ({"cell_types": []}, "no cell types at all"),
        ({"min_margin": 1.5}, "min_margin"),
        ({"tissue": "moon"}, "'moon'"),
    ],
)
def test_options_that_make_no_sense_are_refused(simulated, options, match):
    with pytest.raises(ConfigurationError, match=match):
        annotate_cells(simulated, **options)


def test_too_few_cells_are_refused(simulated):
    with pytest.raises(DataValidationError, match="5 cells"):
        annotate_cells(simulated[:5])
