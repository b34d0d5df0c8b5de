from gca_core.annotation.labels.corrections import CORRECTIONS_FILE, load_corrections
from gca_core.annotation.review.apply import apply_review
from gca_core.io import read_json, write_json
from tests.helpers.annotations import make_annotation, make_report

RESULTS = "gs://lab/run/s1"


def test_corrections_go_to_a_bucket_and_leave_nothing_else_there(bucket, tmp_path):
    clusters = [make_annotation(name, "T cell", flagged=True, n_cells=None) for name in "12"]
    write_json(f"{RESULTS}/report.json", make_report(*clusters))
    for name, who in (("1", "ada"), ("2", "bob")):
        table = tmp_path / f"{who}.csv"
        table.write_text(f"run,cluster,corrected_label\n.,{name},B cell\n")
        apply_review(table, RESULTS, who=who)
    kept = {c.cluster: c.who for c in load_corrections(f"{RESULTS}/{CORRECTIONS_FILE}").corrections}
    shown = {a["cluster"]: a["override"]["who"] for a in read_json(f"{RESULTS}/report.json")["annotations"]}
    assert shown == kept == {"1": "ada", "2": "bob"}
    expected = ("clusters.csv", "corrections.json", "report.html", "report.json")
    assert sorted(bucket.objects) == [f"run/s1/{name}" for name in expected]
