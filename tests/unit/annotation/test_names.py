"""Short names: one per type, unambiguous, and on every answer."""

import pytest

from gca_core.annotation.labels.names import common_name, common_names
from gca_core.annotation.labels.offline import annotate_clusters
from gca_core.annotation.models import ClusterMarkers, RankedGene
from gca_core.annotation.scoring.evidence import weigh_lists
from gca_core.annotation.scoring.marker_model import build_model
from gca_core.knowledge.bundled.ontology import load_ontology

# the ontology gives this name to the type of both species, which is not above the human one
SAME_BY_ANOTHER_TERM = {"CL:0002397"}


def test_every_short_name_belongs_to_a_type_of_the_database_and_to_one_only(database):
    names = common_names()
    assert set(names) <= {t.ontology_id for t in database.types}
    assert len({name.casefold() for name in names.values()}) == len(names)
    assert all(name == name.strip() and len(name) <= 40 for name in names.values())


def test_a_short_name_never_means_a_term_of_another_line():
    ontology = load_ontology()
    for term, name in common_names().items():
        meant = ontology.resolve(name)
        on_line = meant is None or ontology.is_a(meant, term) or ontology.is_a(term, meant)
        assert on_line or term in SAME_BY_ANOTHER_TERM, (term, name, meant)


@pytest.mark.parametrize(
    ("term", "name"),
    [("CL:0000624", "CD4 T cell"), ("CL:0000236", "B cell"), (None, None), ("CL:9999999", None)],
)
def test_terms_without_an_entry_go_by_their_label(term, name):
    assert common_name(term) == name


def test_answers_carry_the_short_name_and_unknown_ones_none(database):
    model = build_model(database, None, load_ontology())
    genes = ("KLRF1", "GNLY", "KLRD1", "NCAM1", "NKG7", "PRF1", "KLRC1", "GZMB")
    clusters = [
        ClusterMarkers(cluster="a", genes=tuple(RankedGene(gene=g) for g in genes)),
        ClusterMarkers(cluster="b", genes=(RankedGene(gene="GENE1"),)),
    ]
    killer, unknown = annotate_clusters(clusters, weigh_lists(clusters, model), model, load_ontology())
    assert (killer.primary_label, killer.common_name) == ("natural killer cell", "NK cell")
    assert (unknown.ontology_id, unknown.common_name) == (None, None)
