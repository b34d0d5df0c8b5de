"""Programmes that any cell can run take no place in a ranking."""

import numpy as np
import pytest

from gca_core.annotation.markers.gene_programs import division_genes, gene_program_genes
from gca_core.annotation.models import ClusterMarkers, RankedGene
from gca_core.annotation.scoring.confidence import measure
from gca_core.annotation.scoring.evidence import informative_genes, rank_weights
from gca_core.annotation.scoring.marker_model import build_model
from gca_core.knowledge.bundled.ontology import load_ontology

INTERFERON = ("ISG15", "IFIT1", "IFIT3", "MX1", "ISG20", "OAS1", "IFIT2", "LY6E", "RSAD2", "IFI44L", "USP18")
GROWTH = ("NPM1", "NME1", "RANBP1", "NCL", "SRM")
STRESS = ("HSPA1A", "DNAJB1", "HSPH1", "HSPA5")
RESPIRATION = ("NDUFA4", "UQCRH", "COX5A", "ATP5PO")
B_CELL = ("CD79A", "MS4A1", "BANK1", "CD79B", "CD19")


def _cluster(*genes: str) -> ClusterMarkers:
    return ClusterMarkers(cluster="c", genes=tuple(RankedGene(gene=gene) for gene in genes))


@pytest.mark.parametrize("programme", [INTERFERON, GROWTH, STRESS, RESPIRATION])
def test_a_programme_leaves_weights_and_confidence_as_they_are(database, programme):
    model = build_model(database, None, load_ontology())
    resting, stimulated = _cluster(*B_CELL), _cluster(*programme, *B_CELL)
    weights = rank_weights([resting, stimulated], model)
    assert np.array_equal(weights[0], weights[1])
    index = next(i for i, t in enumerate(model.types) if t.ontology_id == "CL:0000236")
    assert measure(resting, index, model, weights[0]) == measure(stimulated, index, model, weights[1])


def test_genes_of_a_programme_that_mark_a_type_keep_their_place(database):
    model = build_model(database, None, load_ontology())
    assert "CCL5" in gene_program_genes()
    assert [g.gene for g in informative_genes(_cluster("ISG15", "CCL5", "NOVEL1"), model)] == ["CCL5", "NOVEL1"]


def test_other_genes_that_are_not_listed_do_take_a_rank(database):
    model = build_model(database, None, load_ontology())
    weights = rank_weights([_cluster("CD79A"), _cluster("NOVEL1", "NOVEL2", "CD79A")], model)
    assert weights[1].max() < weights[0].max()


def test_genes_of_division_weigh_less_than_others_as_rare():
    assert {"MKI67", "TOP2A"} <= division_genes()
    assert not {"CD3D", "MS4A1", "INS"} & division_genes()
