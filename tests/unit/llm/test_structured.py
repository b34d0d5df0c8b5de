"""Values out of models' texts."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from gca_core.llm.failures import InvalidAnswerError
from gca_core.llm.structured import find_json, parse_answer

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


class Shape(BaseModel):
    n: int
    names: list[str]


DRAFT = '{"n": 0, "names": []}'


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "```json\n{}\n```",
        "```\n{}```",
        "Sure, here it is {as asked}:\n{}\nAnything else [1]?",
        f"<think>maybe [n, {{names}}]: {DRAFT}</think>\n{{}}",
        f"<think>first {DRAFT}, then {{}}",
        f"<thinking>\n```json\n{DRAFT}\n```\n</thinking>\n```json\n{{}}\n```",
        f"```json\n{DRAFT}\n```\nOn a second look:\n```json\n{{}}\n```",
        "the \"5' end {of} a gene:\n{}",
    ],
)
@pytest.mark.parametrize("comma", ["", ","])
def test_the_last_json_that_fits_is_the_answer(around: str, comma: str) -> None:
    text = around.replace("{}", '{"n": 1, "names": ["a {b} [c,]"' + f"{comma}\n]{comma}}}")
    assert parse_answer(text, Shape) == Shape(n=1, names=["a {b} [c,]"])


def test_a_draft_among_thoughts_is_no_answer_where_the_answer_does_not_fit() -> None:
    with pytest.raises(InvalidAnswerError, match="names"):
        parse_answer(f'<think>{DRAFT}</think>{{"n": 1}}', Shape)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_any_object_is_found_again(data: dict[str, Any]) -> None:
    assert find_json(f"Answer: {json.dumps(data)} - done") == [data]


@given(st.text(max_size=200))
def test_any_text_gives_json_or_none(text: str) -> None:
    assert all(isinstance(found, dict | list) for found in find_json(text))


def test_faults_are_named_and_the_data_kept() -> None:
    with pytest.raises(
        InvalidAnswerError, match=r"n: Input should be a valid integer.*names: Field required"
    ) as raised:
        parse_answer('{"n": "many"}', Shape)
    assert raised.value.data == {"n": "many"}


@pytest.mark.parametrize("text", ["", "no", "{", "[" * 100_000, '{"n": 1', '{"n":[' * 100_000, "x" * 1_000_001])
def test_texts_without_json_are_refused(text: str) -> None:
    with pytest.raises(InvalidAnswerError):
        parse_answer(text, Shape)
