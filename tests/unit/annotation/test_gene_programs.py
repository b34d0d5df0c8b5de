"""Programmes that any cell can run take no place in a ranking."""

import numpy as np
import pytest

from gca_core.annotation.markers.gene_programs import division_genes, gene_program_genes
from gca_core.annotation.models import ClusterMarkers, RankedGene
from gca_core.annotation.scoring.evidence import first_informative, informative_genes, weigh_lists
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
def test_a_programme_takes_no_place_among_the_genes_that_are_looked_at(database, programme):
    model = build_model(database, None, load_ontology())
    stimulated = first_informative(_cluster(*programme, *B_CELL), model, len(B_CELL))
    resting = _cluster(*B_CELL)
    found = weigh_lists([resting, stimulated], model).expected
    assert np.array_equal(found[0], found[1])


def test_genes_of_a_programme_that_mark_a_type_keep_their_place(database):
    model = build_model(database, None, load_ontology())
    assert "CCL5" in gene_program_genes()
    assert [g.gene for g in informative_genes(_cluster("ISG15", "CCL5", "NOVEL1"), model)] == ["CCL5", "NOVEL1"]


@pytest.mark.parametrize(
    ("genes", "alone"),
    [
        (("HLA-DRA", "CD74", "HLA-DPA1"), "HLA-DRA"),
        (("IGKC", "IGHM", "JCHAIN"), "JCHAIN"),
        (("MKI67", "TOP2A", "BIRC5"), "TOP2A"),
    ],
)
def test_genes_that_go_together_count_once(database, genes, alone):
    model = build_model(database, None, load_ontology())
    weights = model.weights[:, [model.genes.index(g) for g in genes]].max(axis=1)
    together, one = (weigh_lists([_cluster(*g)], model).scores[0] for g in (genes, (alone,)))
    assert (together <= weights + 1e-9).all()
    assert one.max() <= together.max() + 1e-9 <= weights.max() + 1e-9


def test_genes_of_division_are_those_that_mark_little_else():
    assert {"MKI67", "TOP2A"} <= division_genes()
    assert not {"CD3D", "MS4A1", "INS"} & division_genes()
