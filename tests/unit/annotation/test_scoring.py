"""What the matrices of a marker database say of its types."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gca_core.annotation import annotate_from_markers
from gca_core.annotation.labels.offline import annotate_clusters
from gca_core.annotation.markers.load import load_marker_database
from gca_core.annotation.models import UNKNOWN, ClusterMarkers, Confidence, FlagReason, RankedGene, Status
from gca_core.annotation.scoring.evidence import weigh_lists
from gca_core.annotation.scoring.marker_model import _model, build_model
from gca_core.errors import ConfigurationError
from gca_core.knowledge.bundled.ontology import load_ontology


@pytest.fixture(scope="module")
def model():
    return build_model(load_marker_database(), None, load_ontology())


def test_agreement_of_types_is_that_of_the_ontology(model):
    ontology, rng = load_ontology(), np.random.default_rng(0)
    for i, j in rng.integers(0, len(model.types), (300, 2)):
        a, b = model.types[i].ontology_id, model.types[j].ontology_id
        steps = ontology.distance(a, b)
        apart = 0.0 if steps is None or steps > 4 else 0.35 if steps <= 2 else 0.15
        on_one_line = ontology.is_a(a, b) or ontology.is_a(b, a)
        assert model.agreement[i, j] == pytest.approx(1.0 if a == b else 0.5 if on_one_line else apart)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.02, 0.9))
def test_no_subtype_is_named_without_one_of_its_defining_genes(seed, share):
    database, ontology, rng = load_marker_database(), load_ontology(), np.random.default_rng(seed)
    panel = [gene for gene in sorted(database.genes) if rng.random() < share]
    model = _model.__wrapped__(database, frozenset(panel), ontology, None)
    chosen = model.types[rng.integers(len(model.types))].positive
    evidence = np.array([[float(gene in chosen) for gene in model.genes]])
    cluster = ClusterMarkers(cluster="c", n_cells=50, genes=tuple(RankedGene(gene=gene) for gene in chosen))
    found = annotate_clusters([cluster], model.weigh(evidence, evidence > 0), model, ontology)[0]
    index = next((i for i, t in enumerate(model.types) if t.ontology_id == found.ontology_id), None)
    if index is not None and model.parents[index] is not None:
        assert model.needed[index] & {gene for gene, there in zip(model.genes, evidence[0] > 0, strict=True) if there}


def test_a_subtype_gives_way_to_its_parent_and_the_caveat_names_what_is_not_measured():
    database, ontology = load_marker_database(), load_ontology()
    subtype = database.get("CL:0002399")
    defining = [gene for gene, score in subtype.positive.items() if score == 1]
    model = build_model(database, sorted(database.genes - set(defining)), ontology)
    evidence = np.array([[float(gene in subtype.positive) for gene in model.genes]])
    cluster = ClusterMarkers(cluster="c", n_cells=50, genes=tuple(RankedGene(gene=g) for g in subtype.positive))
    found = annotate_clusters([cluster], model.weigh(evidence, evidence > 0), model, ontology)[0]
    assert found.ontology_id != subtype.ontology_id
    assert any(f"{', '.join(defining)} are not measured" in caveat for caveat in found.caveats)
    assert found.confidence is not Confidence.HIGH


@pytest.mark.parametrize(
    ("n_cells", "confidence"), [(9, Confidence.MEDIUM), (10, Confidence.HIGH), (None, Confidence.HIGH)]
)
def test_a_cluster_of_few_cells_is_never_high_and_is_flagged(model, n_cells, confidence):
    genes = tuple(RankedGene(gene=g) for g in ("CD79A", "MS4A1", "CD19", "CD79B", "BANK1", "CD22"))
    cluster = ClusterMarkers(cluster="b", n_cells=n_cells, genes=genes)
    found = annotate_clusters([cluster], weigh_lists([cluster], model), model, load_ontology())[0]
    assert (found.primary_label, found.confidence) == ("B cell", confidence)
    assert (FlagReason.FEW_CELLS in found.flag_reasons) is (n_cells == 9)


@pytest.mark.parametrize("subtype", ["CL:0000895", "CL:0000905", "CL:0000907", "CL:0000900"])
def test_no_cd4_or_cd8_t_cell_is_named_where_the_coreceptors_are_not_measured(subtype):
    database, ontology = load_marker_database(), load_ontology()
    model = build_model(database, sorted(database.genes - {"CD4", "CD40LG", "CD8A", "CD8B"}), ontology)
    markers = database.get(subtype).positive
    evidence = np.array([[float(gene in {*markers, "CD3D", "CD3E"}) for gene in model.genes]])
    cluster = ClusterMarkers(cluster="c", n_cells=50, genes=tuple(RankedGene(gene=gene) for gene in markers))
    found = annotate_clusters([cluster], model.weigh(evidence, evidence > 0), model, ontology)[0]
    assert not {"CL:0000624", "CL:0000625"} & {found.ontology_id, *ontology.ancestors(found.ontology_id)}


def test_siblings_lower_the_confidence_and_low_is_flagged_and_unknown_shows_what_it_was_nearest_to():
    lists = {
        "one": ["CD3D", "CD3E", "TRAC", "CD8A", "CD8B"],
        "two": ["CD3D", "CD3E", "TRAC", "CD8A", "CD4"],
        "thin": ["CD79A"],
    }
    rng, genes = np.random.default_rng(0), sorted(load_marker_database().genes)
    lists |= {f"dealt{i}": [str(g) for g in rng.choice(genes, 6)] for i in range(30)}
    found = {a.cluster: a for a in annotate_from_markers(lists).annotations}
    assert found["two"].confidence_score < found["one"].confidence_score
    low = [a for a in found.values() if a.confidence is Confidence.LOW]
    assert low and all(a.status is Status.FLAGGED for a in low)
    thin = found["thin"]
    assert (thin.primary_label, thin.proposed_label, thin.parent_label) == (UNKNOWN, "B cell", "lymphocyte")


def test_types_that_no_defining_gene_tells_apart_are_never_named_at_high_by_what_they_share():
    ontology, types = load_ontology(), load_marker_database().types
    own = {t.ontology_id: {g for g, score in t.positive.items() if score == 1} for t in types}
    alike = [
        (a, b)
        for i, a in enumerate(types)
        for b in types[:i]
        if own[a.ontology_id] <= b.positive.keys() and own[b.ontology_id] <= a.positive.keys()
        if not ontology.is_a(a.ontology_id, b.ontology_id) and not ontology.is_a(b.ontology_id, a.ontology_id)
    ]
    shared = {f"{a.label} or {b.label}": [g for g in a.positive if g in b.positive] for a, b in alike}
    found = annotate_from_markers(shared).annotations
    assert 0 < len(found) <= 18
    assert [a.cluster for a in found if a.confidence is Confidence.HIGH] == []


def test_a_tissue_is_refused_by_a_table_that_names_none_and_says_so(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("cell_type,gene_symbol,role\nB cell,CD79A,positive\nB cell,MS4A1,positive\n")
    database = load_marker_database(table)
    with pytest.raises(ConfigurationError, match="it knows no tissues"):
        build_model(database, None, load_ontology(), tissue="blood")
