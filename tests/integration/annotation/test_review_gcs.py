from gca_core.annotation.labels.corrections import CORRECTIONS_FILE, load_corrections
from gca_core.annotation.review.apply import apply_review
from gca_core.io import read_json, write_json
from tests.unit.annotation.test_review import cluster, report

RESULTS = "gs://lab/run/s1"


def test_corrections_go_to_a_bucket_and_leave_nothing_else_there(bucket, tmp_path):
    write_json(f"{RESULTS}/report.json", report(cluster("1"), cluster("2")))
    for name, who in (("1", "ada"), ("2", "bob")):
        table = tmp_path / f"{who}.csv"
        table.write_text(f"run,cluster,corrected_label\n.,{name},B cell\n")
        apply_review(table, RESULTS, who=who)
    kept = {c.cluster: c.who for c in load_corrections(f"{RESULTS}/{CORRECTIONS_FILE}").corrections}
    shown = {a["cluster"]: a["override"]["who"] for a in read_json(f"{RESULTS}/report.json")["annotations"]}
    assert shown == kept == {"1": "ada", "2": "bob"}
    expected = ("clusters.csv", "corrections.json", "report.html", "report.json")
    assert sorted(bucket.objects) == [f"run/s1/{name}" for name in expected]
