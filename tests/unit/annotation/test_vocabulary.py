"""Labels in a vocabulary of the user's own: how tables are read and refused, and which name an answer gets."""

import csv
import logging
from io import StringIO

import anndata as ad
import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gca_core.annotation import annotate_anndata, annotate_from_markers, annotate_rank_genes, read_vocabulary
from gca_core.annotation.labels.corrections import Correction, Corrections
from gca_core.annotation.labels.vocabulary import BUNDLED, Vocabulary, in_vocabulary
from gca_core.annotation.markers.load import load_marker_database
from gca_core.annotation.models import UNKNOWN, DatasetReport
from gca_core.annotation.report.page import render_csv, render_html
from gca_core.annotation.report.palette import label_colours, shown_label
from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

ONTOLOGY = load_ontology()
LYMPHOCYTE, T_CELL, CD4, NAIVE_CD4 = "CL:0000542", "CL:0000084", "CL:0000624", "CL:0000895"
GENES = {"b": "MS4A1, CD79A, CD79B, CD19, BANK1", "mono": "CD14, LYZ, S100A8, S100A9, FCN1, VCAN", "none": ""}


def vocabulary(**names: str) -> Vocabulary:
    return Vocabulary.of([(label.replace("_", " "), term) for label, term in names.items()], ONTOLOGY, name="mine")


def write(tmp_path, text: str, name: str = "mine.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_term_goes_by_its_own_name_or_by_the_nearest_above_it():
    found = vocabulary(Lymphoid=LYMPHOCYTE, T=T_CELL)
    assert [found.name_of(term) for term in (T_CELL, CD4, "CL:0000236", LYMPHOCYTE)] == [
        "T",
        "T",
        "Lymphoid",
        "Lymphoid",
    ]


@pytest.mark.parametrize("term", ["CL:0000576", "CL:9999999", None])
def test_a_term_with_nothing_listed_above_it_has_no_name(term):
    assert vocabulary(Lymphoid=LYMPHOCYTE).name_of(term) is None


def test_of_terms_that_are_equally_near_the_most_specific_one_names_then_the_smaller_id():
    # d lies one step below a, b and c, of which c has an ancestor more
    terms = {
        "CL:0000000": ("cell", [], {}),
        "CL:0000001": ("a", [], {"CL:0000000": 1}),
        "CL:0000002": ("b", [], {"CL:0000000": 1}),
        "CL:0000003": ("c", [], {"CL:0000001": 1, "CL:0000000": 2}),
        "CL:0000004": ("d", [], {"CL:0000001": 1, "CL:0000002": 1, "CL:0000003": 1, "CL:0000000": 2}),
    }
    ontology = CellOntology("v", terms)
    listed = [("second", "CL:0000002"), ("first", "CL:0000001"), ("deep", "CL:0000003"), ("root", "CL:0000000")]
    assert Vocabulary.of(listed, ontology, name="v").name_of("CL:0000004") == "deep"
    assert Vocabulary.of([p for p in listed if p[0] != "deep"], ontology, name="v").name_of("CL:0000004") == "first"


def test_of_several_labels_of_a_term_the_ontologys_own_wins_and_else_the_first():
    pairs = [("T lymphocytes", T_CELL), ("t Cell", T_CELL), ("helper", CD4), ("CD4 T", CD4)]
    found = Vocabulary.of(pairs, ONTOLOGY, name="mine")
    assert dict(found.names) == {T_CELL: "t Cell", CD4: "helper"}


def test_the_hash_is_of_the_names_and_not_of_how_they_are_written(tmp_path):
    one = read_vocabulary(write(tmp_path, "label,ontology_id\nT,CL:0000084\nB,CL:0000236\n"))
    other = read_vocabulary(
        write(tmp_path, "note\tontology_id\tlabel\nx\tCL_0000236\tB\n\t\t\ny\tcl:0000084\tT\n", "o.tsv")
    )
    assert one.content_hash == other.content_hash
    assert (
        one.content_hash != read_vocabulary(write(tmp_path, "label,ontology_id\nT,CL:0000084\n", "s.csv")).content_hash
    )
    assert (one.info.n_names, one.info.names) == (2, {"CL:0000084": "T", "CL:0000236": "B"})


def test_labels_without_an_id_are_looked_up(tmp_path):
    assert read_vocabulary(write(tmp_path, "Label\nNK cells\n\nTreg\n")).info.names == {
        "CL:0000623": "NK cells",
        "CL:0000815": "Treg",
    }
    partly = write(tmp_path, "label,ontology_id\nlymphoid,CL:0000542\nNK cells,\n", "partly.csv")
    assert set(read_vocabulary(partly).names) == {LYMPHOCYTE, "CL:0000623"}


def obsolete_term() -> tuple[str, str]:
    """A term that is no more in use, and its replacement."""
    replaced = ONTOLOGY._replaced
    return next((old, new) for old, new in sorted(replaced.items()) if old not in ONTOLOGY and new in ONTOLOGY)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected the columns label and ontology_id, or label alone; found none"),
        ("name,ontology_id\nT,CL:0000084\n", "found 'name', 'ontology_id'"),
        ("label,label\nT,T\n", "found 'label', 'label'"),
        ("label,ontology_id\n", "has no rows"),
        ("label,ontology_id\nT,CL:0000084,x\n", "line 2 has 3 cells, but the header has 2 columns; put quotes"),
        ("label,ontology_id\n,CL:0000084\n", "line 2 has no label"),
        ('label,ontology_id\n"T,CL:0000084\n', "line 2 can't be read"),
        ("label,ontology_id\nT,NA\n", "'T' has the id 'NA', no term in use"),
        ("label,ontology_id\nT,CL:9999999\n", "'T' has the id 'CL:9999999', no term in use"),
        (f"label,ontology_id\nT,{obsolete_term()[0]}\n", f"an obsolete term; use {obsolete_term()[1]}"),
        (f"label,ontology_id\n{UNKNOWN},CL:0000000\n", "is what clusters without a label are called"),
        ("label\nNK cell\nxyzzy type\n", "'xyzzy type' is no name of the Cell Ontology"),
        ("label,ontology_id\n" + "".join(f"x{i},CL:9\n" for i in range(9)), "; and 4 more. expected a label"),
    ],
)
def test_tables_that_are_no_vocabulary_are_refused_with_the_row(tmp_path, text, words):
    with pytest.raises(DataValidationError) as refused:
        read_vocabulary(write(tmp_path, text))
    assert words in str(refused.value)
    assert "mine.csv" in str(refused.value)


def test_a_missing_file_a_folder_and_another_encoding_are_refused(tmp_path):
    with pytest.raises(DataValidationError, match=r"'brood' does not exist; .*bundled are: broad"):
        read_vocabulary("brood")
    with pytest.raises(DataValidationError, match="is a folder"):
        read_vocabulary(tmp_path)
    (tmp_path / "latin.csv").write_bytes("label\nZelle ü\n".encode("latin-1"))
    with pytest.raises(DataValidationError, match="is not UTF-8 text"):
        read_vocabulary(tmp_path / "latin.csv")


def test_a_remote_vocabulary_is_read_by_its_uri():
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/names/mine.tsv", b"label\tontology_id\nT\tCL:0000084\n")
    found = read_vocabulary("memory://names/mine.tsv")
    assert (found.name, dict(found.names)) == ("memory://names/mine.tsv", {T_CELL: "T"})


IDS = st.one_of(
    st.sampled_from(["CL:0000084", "CL:0000236", "CL:0000542", "CL:0000000", "CL_0000624", "CL:9999999", "NA", ""]),
    st.text(max_size=8),
)
LABELS = st.one_of(st.sampled_from(["T", "T cell", "B cells", UNKNOWN, "no such thing"]), st.text(max_size=12))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(LABELS, IDS), max_size=6), delimiter=st.sampled_from([",", "\t", ";"]))
def test_any_table_is_refused_or_gives_names_of_the_table_alone(tmp_path_factory, rows, delimiter):
    buffer = StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([("label", "ontology_id"), *rows])
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(buffer.getvalue().encode("utf-8", errors="replace"))
    try:
        found = read_vocabulary(path)
    except DataValidationError:
        return
    assert set(found.names.values()) <= {label.strip() for label, _ in rows}
    assert found.names
    assert all(term in ONTOLOGY for term in found.names)


TERMS = sorted(ONTOLOGY.descendants("CL:0000738"))


@settings(max_examples=80, deadline=None)
@given(listed=st.sets(st.sampled_from(TERMS), min_size=1, max_size=12), term=st.sampled_from([*TERMS, "CL:9999999"]))
def test_an_answer_is_none_or_a_listed_name_at_or_above_the_term(listed, term):
    found = Vocabulary.of([(f"n {i}", i) for i in listed], ONTOLOGY, name="mine").name_of(term)
    above = {term, *ONTOLOGY.ancestors(term)} & listed if term in ONTOLOGY else set()
    if found is None:
        assert not above
        return
    named = found.removeprefix("n ")
    assert named in above
    assert not any(named in ONTOLOGY.ancestors(other) for other in above)
    steps = {term: 0} | dict(ONTOLOGY.ancestors(term))
    lowest = [i for i in above if not any(i in ONTOLOGY.ancestors(other) for other in above)]
    assert steps[named] == min(steps[i] for i in lowest)


@pytest.mark.parametrize("species", ["human", "mouse"])
def test_the_bundled_broad_vocabulary_names_every_type_of_the_bundled_database(species):
    found = read_vocabulary("broad")
    assert BUNDLED == ("broad",)
    assert found.info.n_names < len(found.names)
    assert not [t.label for t in load_marker_database(species=species).types if found.name_of(t.ontology_id) is None]
    expected = {CD4: "T cell", "CL:0000129": "microglia", "CL:0000169": "endocrine cell", "CL:0002057": "monocyte"}
    assert {term: found.name_of(term) for term in expected} == expected


def test_a_general_name_gives_way_to_any_name_below_it():
    names = vocabulary(leukocyte="CL:0000738", B="CL:0000236")
    assert names.name_of("CL:0000845") == "B"
    assert names.name_of("CL:0000084") == "leukocyte"


def test_a_label_may_stand_for_several_terms(tmp_path):
    found = read_vocabulary(write(tmp_path, "label,ontology_id\nlymphoid,CL:0000084\nlymphoid,CL:0000236\n"))
    assert [found.name_of(term) for term in (CD4, "CL:0000787", "CL:0000576")] == ["lymphoid", "lymphoid", None]
    assert found.info.n_names == 1


def test_clusters_are_named_and_unknown_ones_stay_unknown(caplog):
    with caplog.at_level(logging.WARNING, logger="gca_core.annotation.labels.vocabulary"):
        report = annotate_from_markers(GENES, tissue="blood", vocabulary=vocabulary(B_lineage="CL:0000945"))
    assert [a.vocabulary_label for a in report.annotations] == ["B lineage", None, UNKNOWN]
    assert [a.primary_label for a in report.annotations] == ["B cell", "monocyte", UNKNOWN]
    assert report.vocabulary == vocabulary(B_lineage="CL:0000945").info
    (warning,) = [r.getMessage() for r in caplog.records if "vocabulary" in r.getMessage()]
    assert "no name at or above monocyte;" in warning
    assert "add a row" in warning


def test_labels_evidence_and_confidence_are_the_same_with_and_without_a_vocabulary():
    plain, named = (annotate_from_markers(GENES, vocabulary=v).annotations for v in (None, "broad"))
    assert [a.model_copy(update={"vocabulary_label": None}) for a in named] == list(plain)
    assert all(a.vocabulary_label is None for a in plain)


def test_a_vocabulary_that_cannot_be_read_is_refused_before_any_work(blood, monkeypatch, tmp_path):
    import gca_core.annotation.pipeline

    monkeypatch.setattr(gca_core.annotation.pipeline, "rank_and_weigh", None)
    wrong, before = write(tmp_path, "label,ontology_id\nT,NA\n"), list(blood.obs)
    with pytest.raises(DataValidationError, match="'T' has the id 'NA'"):
        annotate_anndata(blood, "truth", vocabulary=wrong)
    assert list(blood.obs) == before


def columns(adata: ad.AnnData) -> dict[str, set[str]]:
    found = adata.obs.groupby("truth", observed=True)["gptca_vocabulary_label"]
    return {str(cluster): set(values.astype(object).fillna("-")) for cluster, values in found}


def test_cells_get_the_names_and_lose_them_with_the_next_annotation_without(blood):
    annotate_anndata(blood, "truth", vocabulary=vocabulary(Lymphoid=LYMPHOCYTE, Mono="CL:0000576"))
    assert columns(blood) == {"b": {"Lymphoid"}, "nk": {"Lymphoid"}, "cd14": {"Mono"}, "cd16": {"Mono"}, "mega": {"-"}}
    assert "mega" not in blood.obs["gptca_vocabulary_label"].cat.categories
    report = annotate_anndata(blood, "truth")
    assert "gptca_vocabulary_label" not in blood.obs
    assert report.vocabulary is None


def test_unknown_cells_are_unknown_in_the_vocabulary_too(blood):
    annotate_anndata(blood, "truth", min_overlap=1000, vocabulary="broad")
    assert set(blood.obs["gptca_vocabulary_label"]) == {UNKNOWN}


def test_a_ranking_that_is_there_is_named_too(blood):
    import scanpy as sc

    sc.pp.log1p(blood)
    sc.tl.rank_genes_groups(blood, "truth", method="t-test", n_genes=30)
    report = annotate_rank_genes(blood, vocabulary="broad")
    named = {a.cluster: a.vocabulary_label for a in report.annotations}
    assert named == {"b": "B cell", "nk": "NK cell", "cd14": "monocyte", "cd16": "monocyte", "mega": "megakaryocyte"}


def test_a_corrected_label_is_named_by_what_was_decided(blood):
    found = annotate_anndata(blood, "truth").annotations
    markers = {a.cluster: a.markers[:20] for a in found}
    decided = [("b", "natural killer cell", "CL:0000623"), ("nk", "our own type", None), ("mega", UNKNOWN, None)]
    corrections = Corrections(
        corrections=tuple(
            Correction(
                cluster=cluster,
                genes=markers[cluster],
                label=label,
                ontology_id=term,
                who="ada",
                when="2026-01-01T00:00:00+00:00",
                replaced="x",
            )
            for cluster, label, term in decided
        )
    )
    annotate_anndata(blood, "truth", corrections=corrections, vocabulary="broad")
    named = columns(blood)
    assert [named[cluster] for cluster, _, _ in decided] == [{"NK cell"}, {"-"}, {UNKNOWN}]


def shown() -> DatasetReport:
    genes = GENES | {"t": "CD3D, CD3E, CD3G, TRAC, CD2, CD5", "cd8": "CD8A, CD8B, CD3D, CD3E, TRAC, GZMK, CD2"}
    return annotate_from_markers(genes, tissue="blood", vocabulary=vocabulary(Lymphoid_things=LYMPHOCYTE))


def test_tables_show_the_name_of_the_vocabulary_beside_the_full_labels():
    report = shown()
    assert [shown_label(a) for a in report.annotations] == [
        *("Lymphoid things", "monocyte", UNKNOWN, "Lymphoid things", "Lymphoid things"),
    ]
    assert set(label_colours(report.annotations)) >= {"Lymphoid things", "monocyte"}
    page = render_html(report, {}, title="t")
    full = list(dict.fromkeys(a.primary_label for a in report.annotations if a.vocabulary_label == "Lymphoid things"))
    assert len(full) > 1
    assert "; ".join(full) in page
    assert all(f"<small>{label}</small>" in page for label in full)
    assert f"mine: 1 names, sha256 <code>{report.vocabulary.sha256}</code>" in page
    rows = list(csv.DictReader(StringIO(render_csv(report))))
    assert [row["vocabulary_label"] for row in rows] == [a.vocabulary_label or "" for a in report.annotations]


def test_a_report_names_again_what_it_named():
    report = shown()
    again = Vocabulary.from_info(DatasetReport.model_validate_json(report.model_dump_json()).vocabulary, ONTOLOGY)
    assert in_vocabulary(report.annotations, again) == list(report.annotations)
    assert again.info == report.vocabulary
