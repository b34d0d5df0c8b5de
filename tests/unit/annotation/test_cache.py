"""The cache of answers: safe to share, safe to lose."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.annotation.llm.answer_cache import AnswerCache, cache_folder
from gca_core.annotation.llm.models import ClusterAnswer
from gca_core.errors import ConfigurationError
from gca_core.io import content_hash

ANSWER = ClusterAnswer(label="B cell", ontology_id="CL:0000236", confidence="High", rationale="CD79A, MS4A1")
KEY = content_hash("one")
N_WRITERS, N_ROUNDS = 3, 40


def put(cache: AnswerCache, text: str = "one", answer: ClusterAnswer = ANSWER, model: str = "openai:m") -> None:
    cache.put(content_hash(text), answer, model=model, prompt_version="v1")


def test_an_answer_comes_back_as_it_was(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "not there yet")
    assert cache.get(KEY) is None
    put(cache)
    assert cache.get(KEY) == ANSWER
    assert cache.get(content_hash("two")) is None


@given(
    label=st.text(min_size=1, max_size=30).filter(lambda t: any(c.isalnum() for c in t)),
    rationale=st.text(max_size=80),
)
def test_any_words_of_a_model_survive_the_file(
    label: str, rationale: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    answer = ClusterAnswer(label=label, rationale=rationale)
    cache = AnswerCache(tmp_path_factory.mktemp("cache"))
    put(cache, answer=answer)
    assert cache.get(KEY) == answer


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', "\x00" * 300])
def test_a_file_that_is_no_answer_counts_as_absent_and_is_replaced(content: str, tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    put(cache)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(content)
    assert cache.get(KEY) is None
    assert (cache.info().answers, cache.info().unreadable) == (0, 1)
    put(cache)
    assert cache.get(KEY) == ANSWER


def test_an_answer_under_another_key_or_format_counts_as_absent(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    put(cache)
    (path,) = tmp_path.rglob("*.json")
    entry = json.loads(path.read_text())
    for change in ({"key": content_hash("other")}, {"format": 99}):
        path.write_text(json.dumps(entry | change))
        assert cache.get(KEY) is None


def _write_many(folder: str, writer: int) -> None:
    cache = AnswerCache(folder)
    for i in range(N_ROUNDS):
        answer = ClusterAnswer(label=f"type {i}", rationale=f"{writer} " * 50)
        cache.put(content_hash(i), answer, model="openai:m", prompt_version="v1")
        found = cache.get(content_hash(i))
        # whoever wrote last, the file is whole
        assert found is not None
        assert found.label == f"type {i}"


def test_processes_that_write_the_same_answers_never_leave_half_a_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(tmp_path), i)) for i in range(N_WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    assert [writer.exitcode for writer in writers] == [0] * N_WRITERS
    found = AnswerCache(tmp_path).info()
    assert (found.answers, found.unreadable) == (N_ROUNDS, 0)
    assert not list(tmp_path.rglob(".gca-*"))


def test_clearing_deletes_answers_and_nothing_else(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    put(cache, "one", model="openai:m")
    put(cache, "two", model="anthropic:n")
    mine = tmp_path / "notes.json"
    mine.write_text("{}")
    bucket = next(tmp_path.rglob("*.json")).parent
    (bucket / "README").write_text("")
    assert cache.info().models == {"anthropic:n": 1, "openai:m": 1}
    assert cache.clear(model="openai:m") == 1
    assert cache.info().models == {"anthropic:n": 1}
    assert cache.clear() == 1
    assert cache.clear() == 0
    assert mine.exists()
    assert (bucket / "README").exists()


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = AnswerCache(blocked)
    put(cache)
    assert "could not be cached" in caplog.text
    assert cache.get(KEY) is None
    assert cache.info().answers == 0


def test_the_folder_is_the_one_given_or_set_or_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("GCA_CACHE_DIR", raising=False)
    assert cache_folder().name == "answers"
    monkeypatch.setenv("GCA_CACHE_DIR", str(tmp_path / "set"))
    assert cache_folder() == tmp_path / "set" / "answers"
    assert cache_folder(tmp_path / "given") == tmp_path / "given" / "answers"
    with pytest.raises(ConfigurationError, match="expected a local folder"):
        cache_folder("memory://cache")
