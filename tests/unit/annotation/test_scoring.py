"""What the matrices of a marker database say of its types."""

import numpy as np
import pytest

from gca_core.annotation.markers.load import load_marker_database
from gca_core.annotation.scoring.marker_model import build_model
from gca_core.errors import ConfigurationError
from gca_core.knowledge.bundled.ontology import load_ontology

MONOCYTE, MYELOID_LEUKOCYTE, B_CELL = "CL:0000576", "CL:0000766", "CL:0000236"


def test_a_type_above_another_is_of_its_lineage_and_a_foreign_one_is_not():
    model = build_model(load_marker_database(), None, load_ontology())
    row = {t.ontology_id: i for i, t in enumerate(model.types)}
    assert model.same_lineage[row[MONOCYTE], row[MYELOID_LEUKOCYTE]]
    assert not model.same_lineage[row[MONOCYTE], row[B_CELL]]
    assert np.array_equal(np.diag(model.same_lineage), np.ones(len(model.types), dtype=bool))


def test_a_tissue_is_refused_by_a_table_that_names_none_and_says_so(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("cell_type,gene_symbol,role\nB cell,CD79A,positive\nB cell,MS4A1,positive\n")
    database = load_marker_database(table)
    with pytest.raises(ConfigurationError, match="it knows no tissues"):
        build_model(database, None, load_ontology(), tissue="blood")
