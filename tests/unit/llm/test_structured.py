"""Values out of models' texts."""

from __future__ import annotations

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


@pytest.mark.parametrize("around", ["{}", "```json\n{}\n```", "Sure, here it is:\n{}\nAnything else?", "```\n{}```"])
def test_json_is_found_between_other_words(around: str) -> None:
    text = around.replace("{}", '{"n": 1, "names": ["a {b} [c]"]}')
    assert parse_answer(text, Shape) == Shape(n=1, names=["a {b} [c]"])


def test_words_in_brackets_before_a_fence_do_not_hide_it() -> None:
    assert find_json('I thought [hard] about it:\n```json\n{"n": 2}\n```') == {"n": 2}


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_any_object_is_found_again(data: dict[str, Any]) -> None:
    assert find_json(f"Answer: {json.dumps(data)} - done") == data


@given(st.text(max_size=200))
def test_any_text_gives_json_or_a_clear_error(text: str) -> None:
    try:
        found = find_json(text)
    except InvalidAnswerError:
        return
    assert isinstance(found, (dict, list))


def test_faults_are_named_and_the_data_kept() -> None:
    with pytest.raises(
        InvalidAnswerError, match=r"n: Input should be a valid integer.*names: Field required"
    ) as raised:
        parse_answer('{"n": "many"}', Shape)
    assert raised.value.data == {"n": "many"}


@pytest.mark.parametrize("text", ["", "no", "{", "[" * 100_000, '{"n": 1', "x" * 1_000_001])
def test_texts_without_json_are_refused(text: str) -> None:
    with pytest.raises(InvalidAnswerError):
        find_json(text)
