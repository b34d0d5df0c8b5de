import pandas as pd
import pytest

from gca_core.annotation.labels.agreement import measure_agreement
from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.ontology import load_ontology


def agreement(predicted, known, clusters=None):
    series = pd.Series(known, name="known", dtype="category")
    groups = None if clusters is None else pd.Series(clusters)
    return measure_agreement(pd.Series(predicted, dtype=object), series, load_ontology(), clusters=groups)


def test_terms_above_and_below_are_related_and_siblings_close():
    found = agreement(
        ["CL:0000084", "CL:0000084", "CL:0002396", "CL:0000236", None],
        ["T cells", "CD4 T cells", "CD14+ Monocytes", "NK cells", "B cells"],
    )
    assert (found.exact, found.related, found.close) == (0.2, 0.4, 0.6)
    assert [row.related for row in found.by_label] == [0.0, 0.0, 1.0, 0.0, 1.0]


def test_labels_that_mean_no_term_are_left_out_and_named():
    found = agreement(["CL:0000236"] * 3, ["B", "doublets?", None])
    assert found.n_cells == 1
    assert found.exact == 1.0
    assert (found.unresolved, found.n_left_out) == (("doublets?",), 2)


def test_clusters_count_once_by_their_commonest_label():
    found = agreement(["CL:0000236"] * 4 + ["CL:0000623"], ["B", "B", "B", "T", "T"], [0, 0, 0, 0, 1])
    assert found.n_clusters == 2
    assert found.clusters_exact == 0.5
    assert found.exact == 0.6


def test_labels_of_which_none_is_a_cell_type_are_refused():
    with pytest.raises(DataValidationError, match="no label of the column 'known'"):
        agreement(["CL:0000236"], ["cluster 7"])
