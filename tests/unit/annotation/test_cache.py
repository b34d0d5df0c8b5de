"""The cache of models' answers."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gca_core.annotation.llm.answer_cache import AnswerCache
from gca_core.annotation.llm.models import ClusterAnswer
from gca_core.cache import FileCache
from gca_core.io import content_hash

ANSWER = ClusterAnswer(label="B cell", ontology_id="CL:0000236", confidence="High", rationale="CD79A, MS4A1")
KEY = content_hash("one")


@given(
    label=st.text(min_size=1, max_size=30).filter(lambda t: any(c.isalnum() for c in t)),
    rationale=st.text(max_size=80),
)
def test_any_words_of_a_model_survive_the_file(label, rationale, tmp_path_factory) -> None:
    answer = ClusterAnswer(label=label, rationale=rationale)
    cache = AnswerCache(tmp_path_factory.mktemp("cache"))
    cache.put(KEY, answer, model="openai:m", prompt_version="v1")
    assert cache.get(KEY) == answer


def test_answers_are_counted_and_cleared_by_model(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    for text, model in (("one", "openai:m"), ("two", "anthropic:n")):
        cache.put(content_hash(text), ANSWER, model=model, prompt_version="v1")
    assert cache.info().models == {"anthropic:n": 1, "openai:m": 1}
    assert cache.clear(model="openai:m") == 1
    assert cache.info().models == {"anthropic:n": 1}
    assert (cache.clear(), cache.info().answers) == (1, 0)


def test_what_is_no_answer_counts_as_absent(tmp_path: Path) -> None:
    FileCache(tmp_path).put(KEY, b"[]", {"model": "openai:m"})
    assert AnswerCache(tmp_path).get(KEY) is None
