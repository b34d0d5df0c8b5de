import subprocess
import sys
import time
from pathlib import Path

import pytest

from gca_core.annotation.labels.corrections import CORRECTIONS_FILE, load_corrections
from gca_core.annotation.review.lock import LOCK, reviewing
from gca_core.errors import DataValidationError
from gca_core.io import read_json, write_json
from tests.unit.annotation.test_review import cluster, report

RESULTS = "gs://lab/run/s1"
# each process judges what it finds, then takes its time before it writes
SLOW = """
import sys, time
from pathlib import Path
import fsspec
from gca_core.annotation.review import apply as review_apply

write, (url, table, where, who, go) = review_apply.apply_to_run, sys.argv[1:]
fsspec.config.conf["gs"] = {"token": "anon", "endpoint_url": url}

def slowly(run, corrections):
    time.sleep(1.0)
    return write(run, corrections)

review_apply.apply_to_run = slowly
Path(go + who).touch()
while not Path(go).exists():
    time.sleep(0.01)
review_apply.apply_review(table, where, who=who)
"""


def test_two_processes_that_apply_to_a_bucket_at_the_same_time_keep_each_others_decisions(bucket, tmp_path):
    write_json(f"{RESULTS}/report.json", report(cluster("1"), cluster("2")))
    go, started = tmp_path / "go", []
    for name, who in (("1", "ada"), ("2", "bob")):
        table = tmp_path / f"{who}.csv"
        table.write_text(f"run,cluster,corrected_label\n.,{name},B cell\n")
        command = [sys.executable, "-c", SLOW, bucket.url, str(table), RESULTS, who, str(go)]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    deadline = time.monotonic() + 60
    while not all(Path(f"{go}{who}").exists() for who in ("ada", "bob")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    go.touch()
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    kept = {c.cluster: c.who for c in load_corrections(f"{RESULTS}/{CORRECTIONS_FILE}").corrections}
    assert kept == {"1": "ada", "2": "bob"}
    shown = {a["cluster"]: a["override"]["who"] for a in read_json(f"{RESULTS}/report.json")["annotations"]}
    assert shown == kept
    assert f"run/s1/{LOCK}" not in bucket.objects


def test_who_waits_in_vain_for_a_bucket_is_told_for_whom(bucket):
    name = f"run/s1/{LOCK}"
    bucket.put(name, b'{"holder": "ada, process 1 on vm", "until": "2999-01-01T00:00:00+00:00"}', {})
    refused = rf"written by ada, process 1 on vm, for more than .* delete {RESULTS}/{LOCK}"
    with pytest.raises(DataValidationError, match=refused), reviewing(RESULTS, "bob", timeout=0.1):
        pass
    bucket.put(name, b'{"holder": "ada, process 1 on vm", "until": "2000-01-01T00:00:00+00:00"}', {})
    with reviewing(RESULTS, "bob", timeout=0.1):
        assert b"bob, process" in bucket.objects[name][0]
    assert name not in bucket.objects
