import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event

import fsspec
import pytest

from gca_core.annotation.labels.corrections import CORRECTIONS_FILE, load_corrections
from gca_core.annotation.review import apply as review_apply
from gca_core.annotation.review.apply import apply_review
from gca_core.annotation.review.lock import ANNOTATION, ANNOTATION_SECONDS, LOCK, OBJECT_SECONDS, reviewing
from gca_core.errors import DataValidationError
from gca_core.io import as_path, read_json, write_json
from tests.unit.annotation.test_review import cluster, report


@pytest.fixture
def store(monkeypatch) -> Iterator[str]:
    """The URI of a folder in an object store, at which those who wait look often."""
    monkeypatch.setattr("gca_core.annotation.review.lock.OBJECT_POLL_SECONDS", 0.05)
    name = f"results-{uuid.uuid4().hex}"
    yield f"memory://{name}/s1"
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{name}"):
        memory.rm(f"/{name}", recursive=True)


def lock_of(folder: str):
    return as_path(folder) / LOCK


def lock_left_behind(folder: str, *, hours: float) -> bytes:
    until = datetime.now(UTC) + timedelta(hours=hours)
    content = json.dumps({"holder": "ada, process 1 on vm", "until": until.isoformat(), "token": "1"}).encode()
    lock_of(folder).fs.pipe_file(lock_of(folder).path, content)
    return content


def test_two_reviewers_keep_each_others_decisions_in_an_object_store(store, tmp_path, monkeypatch):
    write_json(f"{store}/report.json", report(cluster("1"), cluster("2")))
    write, both_ready = review_apply.apply_to_run, Barrier(2)

    def slowly(run, corrections):
        time.sleep(0.3)
        return write(run, corrections)

    def decide_on(name: str, who: str) -> None:
        table = tmp_path / f"{who}.csv"
        table.write_text(f"run,cluster,corrected_label\n.,{name},B cell\n")
        both_ready.wait(timeout=30)
        apply_review(table, store, who=who)

    monkeypatch.setattr(review_apply, "apply_to_run", slowly)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(decide_on, "1", "ada"), pool.submit(decide_on, "2", "bob")]:
            done.result(timeout=60)
    kept = {c.cluster: c.who for c in load_corrections(f"{store}/{CORRECTIONS_FILE}").corrections}
    assert kept == {"1": "ada", "2": "bob"}
    shown = {a["cluster"]: a["override"]["who"] for a in read_json(f"{store}/report.json")["annotations"]}
    assert shown == kept
    assert not lock_of(store).exists()


def test_who_waits_in_vain_for_an_object_is_told_for_whom_and_what_to_delete(store):
    inside, done = Event(), Event()

    def hold() -> None:
        with reviewing(store, "ada"):
            inside.set()
            done.wait(timeout=30)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        assert inside.wait(timeout=30)
        refused = rf"written by ada, process .* since .* nothing was changed.* delete {store}/{LOCK}"
        with pytest.raises(DataValidationError, match=refused), reviewing(store, "bob", timeout=0.1):
            raise AssertionError("two were in at once")
        done.set()
        holding.result(timeout=30)
    assert not lock_of(store).exists()


def test_an_object_goes_when_what_it_kept_others_from_fails(store):
    with pytest.raises(RuntimeError), reviewing(store, "ada"):
        assert lock_of(store).exists()
        raise RuntimeError("no space left")
    assert not lock_of(store).exists()


def test_an_object_of_a_process_that_was_killed_counts_for_a_time_only(store, caplog):
    left = lock_left_behind(store, hours=0.5)
    with pytest.raises(DataValidationError, match="written by ada, process 1"), reviewing(store, "bob", timeout=0.1):
        pass
    assert lock_of(store).read_bytes() == left
    lock_left_behind(store, hours=-0.01)
    with reviewing(store, "bob", timeout=0.1):
        assert read_json(str(lock_of(store)))["holder"].startswith("bob, process")
    assert "of ada, process 1 on vm is over, and is removed" in caplog.text
    assert not lock_of(store).exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"holder": "x", "until": "soon"}', b"\xff"])
def test_an_object_that_says_nothing_is_somebody_elses(store, content):
    lock_of(store).fs.pipe_file(lock_of(store).path, content)
    with pytest.raises(DataValidationError, match=r"somebody else.*delete"), reviewing(store, "bob", timeout=0.1):
        pass
    assert lock_of(store).read_bytes() == content


def test_a_lock_that_another_took_over_is_left_to_it(store, caplog):
    with reviewing(store, "ada"):
        left = lock_left_behind(store, hours=1)
    assert lock_of(store).read_bytes() == left
    assert "was over before this was done" in caplog.text


def test_a_lock_whose_making_was_answered_late_is_ones_own(store, monkeypatch):
    kind = type(lock_of(store).fs)
    make, calls = kind.pipe_file, []

    def twice(self, path, value, mode="overwrite", **kwargs):
        calls.append(path)
        make(self, path, value, mode=mode, **kwargs)
        # a client tries again when an answer gets lost
        make(self, path, value, mode=mode, **kwargs)

    monkeypatch.setattr(kind, "pipe_file", twice)
    with reviewing(store, "ada", timeout=0.1):
        assert lock_of(store).exists()
    assert len(calls) == 1
    assert not lock_of(store).exists()


def test_a_store_that_cannot_make_an_object_only_where_there_is_none_is_used_with_a_warning(store, monkeypatch, caplog):
    def old(self, path, value):
        raise AssertionError("never reached")

    monkeypatch.setattr(type(lock_of(store).fs), "pipe_file", old)
    entered = []
    with reviewing(store, "ada"):
        entered.append(True)
    assert entered
    assert f"no lock can be taken in {store}" in caplog.text


def test_an_annotation_outwaits_the_lock_of_a_process_that_was_killed(store):
    assert OBJECT_SECONDS < ANNOTATION_SECONDS
    left = lock_left_behind(store, hours=0.4 / 3600)
    with reviewing(store, ANNOTATION, timeout=20):
        assert lock_of(store).read_bytes() != left
    assert not lock_of(store).exists()
