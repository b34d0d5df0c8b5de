import csv
import json
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.annotation.labels.corrections import CORRECTIONS_FILE, load_corrections
from gca_core.annotation.markers.load import load_marker_database
from gca_core.annotation.models import (
    UNKNOWN,
    Alternative,
    Annotation,
    DatasetReport,
    Evidence,
    FlagReason,
    GeneEvidence,
    Status,
)
from gca_core.annotation.review.apply import apply_review
from gca_core.annotation.review.markers import review_markers, write_review_markers
from gca_core.annotation.review.page import write_review
from gca_core.annotation.review.queue import collect_review
from gca_core.annotation.review.table import COLUMNS, decide, parse_review, render_review_csv
from gca_core.errors import DataValidationError
from gca_core.io import write_json
from gca_core.locks import HIDDEN
from tests.helpers.annotations import make_annotation, make_report

NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)


def cluster(name: str, *, flagged: bool = True) -> Annotation:
    return make_annotation(
        name,
        "T cell",
        flagged=flagged,
        n_cells=None,
        ontology_id="CL:0000084",
        flag_reasons=(FlagReason.AMBIGUOUS_EVIDENCE,) if flagged else (),
        alternatives=(Alternative(label="NK", ontology_id="CL:0000623", score=1.0, reason="close"),),
        markers=tuple(f"{name}G{i}" for i in range(30)),
        evidence=Evidence(supporting=(GeneEvidence(gene="CD3D", weight=1.0, marks="T cell"),)),
    )


@pytest.fixture
def cohort(tmp_path) -> Path:
    for name, clusters in {"a": ["1", "2"], "deep/b c": ["1", "=1+1"]}.items():
        (tmp_path / name).mkdir(parents=True)
        flagged = [cluster(c) for c in clusters]
        write_json(tmp_path / name / "report.json", make_report(*flagged, cluster("9", flagged=False)))
        (tmp_path / name / "report.html").write_text("page")
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def fill(folder: Path, answers: dict[tuple[str, str], tuple[str, str]], name: str = "review.csv", **changes) -> Path:
    """Write answers into the table as a reviewer does, and return where."""
    rows = rows_of(folder / "review.csv")
    for row in rows:
        row["corrected_label"], row["note"] = answers.get((row["run"], row["cluster"]), ("", ""))
        row.update(changes)
    target = folder / name
    with target.open("w", newline="") as sink:
        writer = csv.DictWriter(sink, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return target


def read_report(folder: Path) -> DatasetReport:
    return DatasetReport.model_validate_json((folder / "report.json").read_text())


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file() and HIDDEN not in path.parts)
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def test_the_flagged_clusters_of_a_cohort_are_listed_with_their_evidence(cohort):
    uris = write_review(collect_review(cohort))
    rows = rows_of(cohort / "review.csv")
    assert [(r["run"], r["cluster"]) for r in rows] == [
        ("a", "1"),
        ("a", "2"),
        ("deep/b c", "1"),
        ("deep/b c", "'=1+1"),
    ]
    assert rows[0]["flags"] == "two cell types fit"
    assert (rows[0]["evidence_for"], rows[0]["alternatives"]) == ("CD3D", "NK")
    assert (rows[0]["corrected_label"], rows[0]["note"]) == ("", "")
    assert len({row["key"] for row in rows}) == 4
    assert uris["html"].endswith("/review.html")


def test_the_page_links_to_each_report_from_where_it_lies(cohort):
    write_review(collect_review(cohort))
    page = (cohort / "review.html").read_text()
    assert 'href="a/report.html"' in page
    assert 'href="deep/b%20c/report.html"' in page
    write_review(collect_review(cohort), cohort.parent / "elsewhere")
    assert "href=" not in (cohort.parent / "elsewhere" / "review.html").read_text()


def test_one_run_is_named_by_its_folder_its_report_or_any_of_its_results(cohort):
    for place in (cohort / "a", cohort / "a" / "report.json", cohort / "a" / "report.html"):
        queue = collect_review(place)
        assert [run.name for run in queue.runs] == ["."]
        assert len(queue.entries) == 2
    both = collect_review([cohort / "a" / "report.json", cohort / "deep" / "b c" / "report.json"])
    assert [run.name for run in both.runs] == ["a", "deep/b c"]


def test_every_cluster_is_listed_on_demand_and_results_in_the_making_are_not(cohort):
    (cohort / ".gca-x").mkdir()
    (cohort / ".gca-x" / "report.json").write_text("{")
    assert len(collect_review(cohort, everything=True).entries) == 6


def test_what_holds_no_reports_or_broken_ones_is_refused(cohort, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataValidationError, match=r"no report\.json"):
        collect_review(tmp_path / "empty")
    with pytest.raises(DataValidationError, match="does not exist"):
        collect_review(tmp_path / "nowhere")
    (cohort / "a" / "report.json").write_text("{}")
    with pytest.raises(DataValidationError, match="no annotation report of this version"):
        collect_review(cohort)


def test_corrections_go_into_the_report_its_table_and_page_and_are_recorded(cohort):
    write_review(collect_review(cohort))
    table = fill(cohort, {("a", "1"): ("NK cells", "by eye"), ("deep/b c", "'=1+1"): ("unknown or novel", "")})
    outcome = apply_review(table, cohort, who="ada", when=NOON)
    assert (outcome.applied, outcome.unchanged, outcome.flagged) == ({"a": 1, "deep/b c": 1}, 0, 2)
    first = read_report(cohort / "a").annotations[0]
    assert (first.primary_label, first.ontology_id, first.status) == (
        "natural killer cell",
        "CL:0000623",
        Status.SUPPORTED,
    )
    assert (first.override.who, first.override.when) == ("ada", "2030-01-31T12:00:00+00:00")
    assert (first.override.note, first.override.replaced) == ("by eye", "T cell")
    assert read_report(cohort / "deep" / "b c").annotations[1].primary_label == UNKNOWN
    assert rows_of(cohort / "a" / "clusters.csv")[0]["reviewed_by"] == "ada"
    assert "by eye" in (cohort / "a" / "report.html").read_text()
    assert [c.label for c in load_corrections(cohort / "a" / CORRECTIONS_FILE).corrections] == ["natural killer cell"]
    joint = load_corrections(cohort / CORRECTIONS_FILE)
    assert [(c.run, c.cluster) for c in joint.corrections] == [("a", "1"), ("deep/b c", "=1+1")]
    assert len(collect_review(cohort).entries) == 2


def test_applying_the_same_table_again_changes_no_file(cohort):
    write_review(collect_review(cohort))
    table = fill(cohort, {("a", "1"): ("NK cell", "by eye")})
    apply_review(table, cohort, who="ada", when=NOON)
    before = snapshot(cohort / "a") | snapshot(cohort / "deep")
    outcome = apply_review(table, cohort, who="bob")
    assert (outcome.applied, outcome.unchanged) == ({}, 1)
    assert snapshot(cohort / "a") | snapshot(cohort / "deep") == before


def test_a_changed_mind_replaces_the_decision_and_names_what_the_annotator_said(cohort):
    write_review(collect_review(cohort))
    apply_review(fill(cohort, {("a", "1"): ("NK cell", "")}), cohort, who="ada", when=NOON)
    later = datetime(2030, 2, 1, tzinfo=UTC)
    apply_review(_edited(cohort, "B cell"), cohort, who="bob", when=later)
    override = read_report(cohort / "a").annotations[0].override
    assert (override.label, override.who, override.replaced) == ("B cell", "bob", "T cell")
    assert len(load_corrections(cohort / "a" / CORRECTIONS_FILE).corrections) == 1


def _edited(cohort: Path, label: str) -> Path:
    table = cohort / "review.csv"
    table.write_text(table.read_text().replace("NK cell", label))
    return table


def test_a_label_is_confirmed_by_repeating_it(cohort):
    write_review(collect_review(cohort))
    apply_review(fill(cohort, {("a", "1"): ("T cell", "")}), cohort, who="ada")
    confirmed = read_report(cohort / "a").annotations[0]
    assert (confirmed.primary_label, confirmed.status) == ("T cell", Status.SUPPORTED)
    assert "confirmed" in confirmed.rationale


def test_labels_that_the_ontology_lacks_are_refused_with_close_ones_unless_allowed(cohort):
    write_review(collect_review(cohort))
    table = fill(cohort, {("a", "1"): ("natural kiler cell", "")})
    before = snapshot(cohort)
    with pytest.raises(DataValidationError, match=r"line 2.*close: natural killer cell"):
        apply_review(table, cohort, who="ada")
    assert snapshot(cohort) == before
    apply_review(table, cohort, who="ada", free_labels=True)
    free = read_report(cohort / "a").annotations[0]
    assert (free.primary_label, free.ontology_id) == ("natural kiler cell", None)


def test_one_faulty_row_keeps_all_from_being_applied_and_every_fault_is_named(cohort):
    write_review(collect_review(cohort))
    table = fill(cohort, {("a", "1"): ("NK cell", ""), ("a", "2"): ("qqqqq", ""), ("deep/b c", "1"): ("zzzzz", "")})
    before = snapshot(cohort)
    with pytest.raises(DataValidationError, match=r"nothing was changed.*'qqqqq'.*'zzzzz'"):
        apply_review(table, cohort, who="ada")
    assert snapshot(cohort) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "c"}, "no run 'c'"),
        ({"key": "", "cluster": "77"}, "has no cluster '77'"),
        ({"key": "0" * 16}, "annotated anew since"),
        ({"label": "B cell"}, "label changed since"),
        ({"key": "", "run": "a", "cluster": "1"}, "is in line 2 already"),
    ],
)
def test_a_table_that_does_not_fit_the_results_is_refused(cohort, change, message):
    write_review(collect_review(cohort))
    every = {(row["run"], row["cluster"]): ("NK cell", "") for row in rows_of(cohort / "review.csv")}
    table = fill(cohort, every, **change)
    with pytest.raises(DataValidationError, match=message):
        apply_review(table, cohort, who="ada")


def test_a_table_of_clusters_that_were_annotated_anew_is_refused(cohort):
    write_review(collect_review(cohort))
    table = fill(cohort, {("a", "1"): ("NK cell", "")})
    other = cluster("1").model_copy(update={"markers": ("X1", "X2")})
    write_json(cohort / "a" / "report.json", make_report(other, cluster("2")))
    with pytest.raises(DataValidationError, match="write the table anew"):
        apply_review(table, cohort, who="ada")


def test_clusters_that_are_not_flagged_can_be_corrected_by_a_row_of_ones_own(cohort):
    table = cohort / "mine.csv"
    table.write_text("run;cluster;corrected_label\na;9;CL:0000236\n")
    apply_review(table, cohort, who="ada")
    assert read_report(cohort / "a").annotations[2].primary_label == "B cell"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks 'run'"),
        ("run,cluster\n", "lacks 'corrected_label'"),
        ("run,cluster,corrected_label,colour\n", "unknown columns: 'colour'"),
        ("run,cluster,corrected_label,note,note\n", "repeated columns: 'note'"),
        ("run,cluster,corrected_label\na,1,B cell,x\n", "line 2: there are more cells"),
        ("run,cluster,corrected_label,note\na,1,,ask Anna\n", "line 2: there is a note and no corrected_label"),
        ('run,cluster,corrected_label\na,1,"B\n', "line"),
        ("run,cluster\0,corrected_label\n", "binary"),
    ],
)
def test_faulty_tables_are_refused_by_line(text, message):
    with pytest.raises(DataValidationError, match=message):
        parse_review(text)


def test_a_table_in_another_encoding_is_refused(cohort):
    table = cohort / "latin.csv"
    table.write_bytes("run,cluster,corrected_label\na,1,Zellen für\n".encode("latin-1"))
    with pytest.raises(DataValidationError, match="UTF-8"):
        apply_review(table, cohort, who="ada")


def test_corrections_need_a_reviewer(cohort):
    with pytest.raises(DataValidationError, match="reviewer"):
        decide([], collect_review(cohort), who=" ")


def test_a_new_table_keeps_decisions_that_were_not_applied(cohort):
    write_review(collect_review(cohort))
    fill(cohort, {("a", "1"): ("NK cell", "by eye")})
    write_review(collect_review(cohort))
    kept = rows_of(cohort / "review.csv")[0]
    assert (kept["corrected_label"], kept["note"]) == ("natural killer cell", "by eye")
    apply_review(cohort / "review.csv", cohort, who="ada")
    write_review(collect_review(cohort))
    assert [row["corrected_label"] for row in rows_of(cohort / "review.csv")] == ["", "", ""]


def left_in(folder: Path) -> list[tuple[str, str]]:
    return [(row["run"], row["cluster"]) for row in rows_of(folder / "review.csv")]


def test_the_queue_beside_results_loses_what_was_decided_by_another_table(cohort):
    write_review(collect_review(cohort))
    write_review(collect_review(cohort / "a"))
    mine = fill(cohort, {("a", "1"): ("NK cell", "")}, name="mine.csv")
    fill(cohort, {("a", "2"): ("B cell", "to apply later")})
    apply_review(mine, cohort, who="ada")
    left = [(row["run"], row["cluster"], row["corrected_label"]) for row in rows_of(cohort / "review.csv")]
    assert left == [("a", "2", "B cell"), ("deep/b c", "1", ""), ("deep/b c", "'=1+1", "")]
    assert "3 clusters to review" in (cohort / "review.html").read_text()
    # of the run's own folder, too
    assert [row["cluster"] for row in rows_of(cohort / "a" / "review.csv")] == ["2"]
    assert "1 cluster to review" in (cohort / "a" / "review.html").read_text()


def test_the_table_that_is_applied_stays_as_it_was_filled_in_and_the_page_follows(cohort):
    write_review(collect_review(cohort))
    table = fill(cohort, {("a", "1"): ("NK cell", "by eye")})
    before = table.read_bytes()
    (cohort / "link.csv").symlink_to(table)
    for way in (table, cohort / "link.csv"):
        apply_review(way, cohort, who="ada")
        assert table.read_bytes() == before
    assert "3 clusters to review" in (cohort / "review.html").read_text()
    # listing again is what shortens it
    write_review(collect_review(cohort))
    assert len(rows_of(table)) == 3


@pytest.mark.parametrize("spoilt", [b"what,ever\n1,2\n", b"\xff\xfe", b"", "typo"])
def test_a_queue_that_cannot_be_read_stays_and_the_corrections_are_applied(cohort, caplog, spoilt):
    write_review(collect_review(cohort))
    mine = fill(cohort, {("a", "1"): ("NK cell", "")}, name="mine.csv")
    if spoilt == "typo":
        spoilt = fill(cohort, {("a", "1"): ("", "a note alone")}).read_bytes()
    (cohort / "review.csv").write_bytes(spoilt)
    assert apply_review(mine, cohort, who="ada").applied == {"a": 1}
    assert (cohort / "review.csv").read_bytes() == spoilt
    assert "still lists what was decided" in caplog.text
    assert "3 clusters to review" in (cohort / "review.html").read_text()


def test_no_queue_is_written_where_none_was(cohort):
    write_review(collect_review(cohort), cohort / "elsewhere")
    table = fill(cohort / "elsewhere", {("a", "1"): ("NK cell", "")})
    apply_review(table, cohort, who="ada")
    assert not list(cohort.glob("review.*"))
    # a queue elsewhere belongs to who asked for it
    assert len(rows_of(table)) == 4


def test_a_table_whose_decisions_fit_no_more_is_not_overwritten(cohort):
    write_review(collect_review(cohort))
    table = fill(cohort, {("a", "1"): ("NK cell", "")}, key="0" * 16)
    before = table.read_text()
    with pytest.raises(DataValidationError, match="move it away"):
        write_review(collect_review(cohort))
    assert table.read_text() == before


def test_results_without_their_annotated_file_are_left_alone(cohort):
    write_json(cohort / "a" / "report.json", make_report(cluster("1"), n_cells=10))
    write_review(collect_review(cohort))
    table = fill(cohort, {("a", "1"): ("NK cell", ""), ("deep/b c", "1"): ("NK cell", "")})
    before = snapshot(cohort)
    with pytest.raises(DataValidationError, match=r"annotated\.h5ad is not beside"):
        apply_review(table, cohort, who="ada")
    assert snapshot(cohort) == before


def test_hostile_names_stay_text_on_the_page_and_in_the_table(tmp_path):
    name = '"><img src=x onerror=alert(1)>'
    hostile = cluster(name).model_copy(update={"primary_label": "=HYPERLINK(1)", "rationale": "<script>x</script>"})
    write_json(tmp_path / "report.json", make_report(hostile))
    write_review(collect_review(tmp_path))
    page = (tmp_path / "review.html").read_text()
    assert "<img" not in page
    assert "<script>x" not in page
    (row,) = rows_of(tmp_path / "review.csv")
    assert (row["cluster"], row["label"]) == (name, "'=HYPERLINK(1)")
    apply_review(fill(tmp_path, {(".", name): ("B cell", "<b>note</b>")}), tmp_path, who="<i>ada</i>")
    page = (tmp_path / "report.html").read_text()
    assert "<i>" not in page
    assert "<b>note" not in page


def test_corrected_clusters_become_a_marker_table_that_annotates(cohort):
    write_review(collect_review(cohort))
    apply_review(fill(cohort, {("a", "1"): ("NK cell", ""), ("a", "2"): (UNKNOWN, "")}), cohort, who="ada")
    n = write_review_markers(collect_review(cohort), cohort / "markers.csv")
    rows = rows_of(cohort / "markers.csv")
    assert n == len(rows) == 15
    assert {(r["source"], r["evidence"], r["reference"], r["role"]) for r in rows} == {
        ("review", "curated", "", "positive")
    }
    assert [r["gene_symbol"] for r in rows[:2]] == ["1G0", "1G1"]
    (cell_type,) = load_marker_database(cohort / "markers.csv").types
    assert (cell_type.ontology_id, cell_type.positive["1G0"]) == ("CL:0000623", 1.0)


def test_ribosomal_and_mitochondrial_genes_are_no_markers(cohort):
    write_review(collect_review(cohort))
    apply_review(fill(cohort, {("a", "1"): ("NK cell", "")}), cohort, who="ada")
    run = read_report(cohort / "a")
    changed = run.annotations[0].model_copy(update={"markers": ("RPL3", "MT-CO1", "Rps4", "RPRML", "NKG7")})
    write_json(cohort / "a" / "report.json", run.model_copy(update={"annotations": (changed,)}))
    assert [m.gene_symbol for m in review_markers(collect_review(cohort / "a"))] == ["RPRML", "NKG7"]


def test_without_corrected_clusters_there_are_no_markers_to_write(cohort):
    with pytest.raises(DataValidationError, match="apply corrections first"):
        write_review_markers(collect_review(cohort), cohort / "markers.csv")
    assert not (cohort / "markers.csv").exists()


@given(st.text(max_size=300))
def test_any_text_is_a_table_or_refused(text):
    try:
        parse_review(text)
    except DataValidationError as error:
        assert str(error)


_words = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(str.strip)


@given(_words, _words, _words)
def test_a_row_reads_back_as_it_was_written(run, name, note):
    from gca_core.annotation.review.queue import Entry, Run, cluster_key

    annotation = cluster(name)
    entry = Entry(Run(run, "/x", make_report(annotation), has_page=False), annotation)
    cells = next(csv.DictReader(StringIO(render_review_csv([entry]), newline="")))
    buffer = StringIO()
    writer = csv.DictWriter(buffer, COLUMNS)
    writer.writeheader()
    writer.writerow(cells | {"corrected_label": "B cell", "note": note})
    (row,) = parse_review(buffer.getvalue())
    assert row.key == cluster_key(run, annotation)
    assert row.corrected_label == "B cell"
    assert row.note == (note.strip() if note.strip()[:1] != "'" else row.note)


def test_the_report_as_json_keeps_who_decided(cohort):
    write_review(collect_review(cohort))
    apply_review(fill(cohort, {("a", "1"): ("NK cell", "")}), cohort, who="ada", when=NOON)
    stored = json.loads((cohort / "a" / "report.json").read_text())
    assert stored["annotations"][0]["override"]["who"] == "ada"
    assert stored["stats"]["overrides"] == 1
