import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from gca_core.annotation.cohort import CohortFile, find_files, finished_folders, plan_cohort, write_cohort
from gca_core.annotation.labels.corrections import Correction, Corrections, load_corrections
from gca_core.annotation.labels.vocabulary import in_vocabulary, read_vocabulary
from gca_core.annotation.models import (
    UNKNOWN,
    Annotation,
    DatasetReport,
)
from gca_core.annotation.review.summary import COMPOSITION_COLUMNS, CSV_COLUMNS
from gca_core.errors import DataValidationError
from gca_core.io import as_path, join_uri, read_text, write_json, write_text
from tests.helpers.annotations import make_annotation, make_report


def annotation(cluster: str, label: str, n_cells: int, *, flagged: bool = False, term: str | None = None) -> Annotation:
    return make_annotation(cluster, label, flagged=flagged, n_cells=n_cells, ontology_id=term)


def lay(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
            (path / ".zgroup").touch()
        else:
            path.touch()


def names(uris: list[str], folder: Path) -> list[str]:
    return [uri.removeprefix(folder.as_uri() + "/") for uri in uris]


def table(uri: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(read_text(uri))))


def test_files_are_found_at_any_depth_in_order_and_hidden_ones_are_not(tmp_path: Path) -> None:
    lay(tmp_path, "b.h5ad", "a/x.loom", "a/z.zarr/", "notes.txt", ".tmp/c.h5ad", ".d.h5ad", "folder.h5ad/inner.h5ad")
    assert names(find_files(tmp_path), tmp_path) == ["a/x.loom", "a/z.zarr", "b.h5ad", "folder.h5ad/inner.h5ad"]
    assert find_files(f"{tmp_path}/") == find_files(tmp_path.as_uri())


def test_a_prefix_may_be_a_file_or_the_beginning_of_names(tmp_path: Path) -> None:
    lay(tmp_path, "run-1.h5ad", "run-2/a.h5ad", "other.h5ad", "run.zarr/")
    assert names(find_files(tmp_path / "run-"), tmp_path) == ["run-1.h5ad", "run-2/a.h5ad"]
    assert names(find_files(tmp_path / "other.h5ad"), tmp_path) == ["other.h5ad"]
    assert names(find_files(tmp_path / "run.zarr"), tmp_path) == ["run.zarr"]


def test_what_an_earlier_run_annotated_is_left_out_but_no_data_that_is_merely_called_so(tmp_path: Path) -> None:
    lay(tmp_path, "a.h5ad", "a/annotated.h5ad", "a/report.json", "b/annotated.h5ad")
    assert names(find_files(tmp_path), tmp_path) == ["a.h5ad", "b/annotated.h5ad"]


def test_a_link_to_a_folder_above_does_not_lead_round_in_circles(tmp_path: Path) -> None:
    lay(tmp_path, "a/x.h5ad")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert names(find_files(tmp_path), tmp_path) == ["a/x.h5ad"]


@pytest.mark.parametrize("prefix", ["", "nowhere", "nowhere/run-"])
def test_an_empty_prefix_is_refused(tmp_path: Path, prefix: str) -> None:
    lay(tmp_path, "notes.txt")
    with pytest.raises(DataValidationError, match=r"there is no \.h5ad, \.loom, \.zarr file under"):
        find_files(tmp_path / prefix)


def test_objects_in_a_store_are_found_and_planned_like_files() -> None:
    root = "memory://cohort-test/raw"
    for name in ("one.h5ad", "deep/two.h5ad", "deep/notes.txt", "three.zarr/.zgroup"):
        write_text(f"{root}/{name}", "x")
    assert find_files(root) == [f"{root}/deep/two.h5ad", f"{root}/one.h5ad", f"{root}/three.zarr"]
    planned = plan_cohort(f"{root}/", "memory://cohort-test/out")
    assert [file.name.split("-two")[0] for file in planned] == ["deep", "one", "three"]
    assert planned[1].output_uri == "memory://cohort-test/out/one"


def test_each_file_gets_a_folder_of_its_own_that_is_the_same_next_time(tmp_path: Path) -> None:
    awkward = ("a.h5ad", "A.loom", "a.h5ad.loom", "b/a.h5ad", "b-a.h5ad", "größe 1.h5ad", "..h.h5ad", "{{ x }}.h5ad")
    lay(tmp_path, *(name for name in awkward if not name.startswith(".")))
    first, again = (plan_cohort(tmp_path, tmp_path / "out") for _ in range(2))
    assert first == again
    found = [file.name for file in first]
    assert len({name.lower() for name in found}) == len(found) == 7
    for file in first:
        assert file.output_uri == join_uri(tmp_path / "out", file.name)
        assert "/" not in file.name
        assert file.corrections is None


def test_corrections_of_the_cohort_go_to_the_folder_of_the_file_they_are_about(tmp_path: Path) -> None:
    lay(tmp_path, "data/a.h5ad", "data/b.h5ad")

    def correction(run: str) -> Correction:
        given: dict[str, Any] = {"cluster": "1", "label": "B cell", "ontology_id": None, "who": "me", "replaced": "T"}
        return Correction(**given, when="2030-01-31T09:30:00+00:00", run=run)

    uri = write_json(tmp_path / "c.json", Corrections(corrections=(correction("a"), correction("gone"))))
    a, b = plan_cohort(tmp_path / "data", tmp_path / "out", corrections=uri)
    assert a.corrections == join_uri(a.output_uri, "given_corrections.json")
    assert load_corrections(a.corrections) == Corrections(corrections=(correction(""),))
    assert b.corrections is None


def cohort_of(folder: Path, **reports: DatasetReport | None) -> list[CohortFile]:
    files = []
    for name, found in reports.items():
        file = CohortFile(name=name, input_uri=f"gs://lab/{name}.h5ad", output_uri=join_uri(folder, name))
        if found is not None:
            write_json(join_uri(file.output_uri, "report.json"), found)
            write_text(join_uri(file.output_uri, "report.html"), "<p>page</p>")
        files.append(file)
    return files


def test_the_summary_joins_what_is_there_and_names_what_failed(tmp_path: Path) -> None:
    t, b = {"label": "T cell", "term": "CL:0000084"}, {"label": "B cell", "term": "CL:0000236"}
    files = cohort_of(
        tmp_path,
        one=make_report(
            annotation("0", **t, n_cells=60),
            annotation("1", **t, n_cells=20, flagged=True),
            annotation("2", UNKNOWN, 20, flagged=True),
        ),
        two=make_report(annotation("0", **b, n_cells=30), annotation("1", **t, n_cells=10)),
        # a report of an earlier run doesn't make a file succeed
        stale=make_report(annotation("0", **b, n_cells=1000, flagged=True)),
        broken=None,
    )
    done = finished_folders(files, [{"json": join_uri(tmp_path, name, "report.json")} for name in ("two", "one")])
    result = write_cohort(tmp_path, files, done)
    assert result.model_dump(exclude={"uris"}) == {
        "n_files": 4,
        "failed": ("stale", "broken"),
        "n_clusters": 5,
        "n_flagged": 2,
        "n_cells": 140,
        "n_unknown": 20,
        "n_labels": 2,
    }
    rows = table(result.uris["csv"])
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(row["file"], row["status"], row["cells"], row["unknown_cells"]) for row in rows] == [
        ("one", "annotated", "100", "20"),
        ("two", "annotated", "40", "0"),
        ("stale", "failed", "", ""),
        ("broken", "failed", "", ""),
    ]
    shares = table(result.uris["composition"])
    assert tuple(shares[0]) == COMPOSITION_COLUMNS
    assert [(s["label"], s["file"], s["clusters"], s["cells"], s["share"]) for s in shares] == [
        ("T cell", "one", "2", "80", "0.8"),
        ("T cell", "two", "1", "10", "0.25"),
        ("B cell", "two", "1", "30", "0.75"),
        (UNKNOWN, "one", "1", "20", "0.2"),
    ]
    page = read_text(result.uris["html"])
    assert "2 files without a result" in page
    assert 'href="one/report.html"' in page
    assert "80.0 %" in page
    assert {(row["run"], row["cluster"]) for row in table(result.uris["review_csv"])} == {("one", "1"), ("one", "2")}


@pytest.mark.parametrize("shared", [True, False])
def test_the_composition_is_in_the_vocabulary_that_all_files_share(tmp_path: Path, shared: bool) -> None:
    broad = read_vocabulary("broad")
    reports = {
        "one": make_report(
            annotation("0", "B cell", 5, term="CL:0000236"), annotation("1", "CD4", 15, term="CL:0000624")
        ),
        "two": make_report(annotation("0", "CD8", 10, term="CL:0000625"), annotation("1", UNKNOWN, 30)),
    }
    named = {
        name: found.model_copy(
            update={"annotations": tuple(in_vocabulary(found.annotations, broad)), "vocabulary": broad.info}
        )
        for name, found in reports.items()
    }
    files = cohort_of(tmp_path, one=named["one"], two=named["two"] if shared else reports["two"])
    done = finished_folders(files, [{"json": join_uri(tmp_path, name, "report.json")} for name in reports])
    shares = table(write_cohort(tmp_path, files, done).uris["composition"])
    found = {(s["label"], s["file"], s["ontology_id"], s["cells"]) for s in shares}
    both = {("B cell", "one", "CL:0000236", "5"), (UNKNOWN, "two", "", "30")}
    apart = {("CD4", "one", "CL:0000624", "15"), ("CD8", "two", "CL:0000625", "10")}
    assert found == both | ({("T cell", "one", "", "15"), ("T cell", "two", "", "10")} if shared else apart)


def test_the_review_names_runs_as_the_folder_does_also_where_one_file_is_left(tmp_path: Path) -> None:
    from gca_core.annotation.review.queue import collect_review

    files = cohort_of(tmp_path, only=make_report(annotation("0", "T cell", 5, flagged=True)), broken=None)
    result = write_cohort(tmp_path, files, {files[0].output_uri})
    (row,) = table(result.uris["review_csv"])
    (entry,) = collect_review(tmp_path).entries
    assert (row["run"], row["key"]) == (entry.run.name, entry.key) == ("only", entry.key)


def test_a_cohort_that_failed_as_a_whole_still_says_so(tmp_path: Path) -> None:
    result = write_cohort(tmp_path, cohort_of(tmp_path, a=None, b=None), set())
    assert (result.failed, result.n_cells, table(result.uris["review_csv"])) == (("a", "b"), 0, [])
    assert "2 files without a result" in read_text(result.uris["html"])


def test_text_from_data_is_neither_a_formula_nor_markup(tmp_path: Path) -> None:
    label = '=HYPERLINK("http://x")<script>alert(1)</script>'
    files = cohort_of(tmp_path, a=make_report(annotation("0", label, 5)), b=None)
    files[1] = files[1].model_copy(update={"input_uri": "=cmd|<img src=x>"})
    result = write_cohort(tmp_path, files, {files[0].output_uri})
    assert table(result.uris["composition"])[0]["label"] == f"'{label}"
    assert table(result.uris["csv"])[1]["input"] == "'=cmd|<img src=x>"
    page = read_text(result.uris["html"])
    assert "<script>alert" not in page
    assert "<img src=x>" not in page


def test_a_report_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    files = cohort_of(tmp_path, a=None)
    write_text(join_uri(files[0].output_uri, "report.json"), json.dumps({"annotations": 3}))
    with pytest.raises(DataValidationError, match=r"a/report\.json"):
        write_cohort(tmp_path, files, {files[0].output_uri})
    assert not as_path(join_uri(tmp_path, "cohort.csv")).exists()
