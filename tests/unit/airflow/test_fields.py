from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel, Field

from airflow_provider_gca.utils.fields import (
    as_flag,
    as_mapping,
    check_literals,
    given,
    given_within,
    is_literal,
    make_model,
    require_choice,
    require_positive,
    require_text,
)
from airflow_provider_gca.utils.summary import seconds_since
from gca_core.errors import ConfigurationError

NOW = datetime(2026, 6, 1, tzinfo=UTC)


class Model(BaseModel):
    name: str = Field(min_length=1)
    count: int = Field(default=1, ge=1)


@pytest.mark.parametrize("value", ["text", "", None, 3, ["a", {"b": "c"}], {"a": 1}])
def test_plain_values_are_literals(value: object) -> None:
    assert is_literal(value)


@pytest.mark.parametrize("value", ["{{ params.x }}", "a{% if b %}", ["a", "{{ b }}"], {"a": {"b": "{{ c }}"}}])
def test_a_template_anywhere_in_a_value_makes_it_wait(value: object) -> None:
    assert not is_literal(value)


def test_the_output_of_another_task_is_no_literal() -> None:
    from airflow.sdk import DAG, BaseOperator

    with DAG("d", schedule=None):
        assert not is_literal(BaseOperator(task_id="t").output)


def test_complaints_name_the_operator_the_field_and_what_would_do() -> None:
    with pytest.raises(ConfigurationError, match="Op: uri has to be a text, found None"):
        require_text("Op", uri=None)
    with pytest.raises(ConfigurationError, match="Op: mode is 'x'; use one of a, b"):
        require_choice("Op", ("b", "a"), mode="x")
    with pytest.raises(ConfigurationError, match="Op: seconds has to be a number above 0, found 0"):
        require_positive("Op", seconds=0)


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        (lambda value: require_text("Op", uri=value), " "),
        (lambda value: require_choice("Op", ("a",), mode=value), "b"),
        (lambda value: require_positive("Op", seconds=value), -1),
        (lambda value: check_literals("Op", Model, {"name": "n", "count": value}), 0),
    ],
)
def test_a_template_passes_each_check_that_refuses_a_wrong_literal(check, wrong):
    with pytest.raises(ConfigurationError, match=r"^Op: "):
        check(wrong)
    assert check("{{ x }}") is None


def test_a_wrong_literal_beside_a_template_is_still_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Op: name: String should have at least 1 character$"):
        check_literals("Op", Model, {"name": "", "count": "{{ x }}"})


def test_rendered_values_are_converted_and_a_wrong_one_is_not_repeated() -> None:
    assert make_model("Op", Model, {"name": "n", "count": "3"}).count == 3
    with pytest.raises(ConfigurationError, match="Op: count: Input should be a valid integer") as raised:
        make_model("Op", Model, {"name": "n", "count": "hunter2"})
    assert "hunter2" not in str(raised.value)


def test_what_a_template_makes_of_none_counts_as_not_given() -> None:
    assert given({"a": None, "b": "None", "c": "", "d": 0, "e": False, "f": "x"}) == {"d": 0, "e": False, "f": "x"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), ("True", True), (" yes ", True), ("1", True), ("False", False), ("", False), ("None", False)],
)
def test_a_flag_may_be_the_text_that_a_template_makes_of_it(value: object, expected: bool) -> None:
    assert as_flag("Op", "offline", value) is expected


@pytest.mark.parametrize("value", ["maybe", 2, [], "{{ x }}"])
def test_what_is_neither_yes_nor_no_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="Op: offline has to be true or false, found"):
        as_flag("Op", "offline", value)


def test_options_are_a_mapping_or_nothing() -> None:
    assert as_mapping("Op", "options", {"a": 1}) == {"a": 1}
    assert all(as_mapping("Op", "options", value) == {} for value in (None, "", "None", "{{ params.options }}"))
    with pytest.raises(ConfigurationError, match="Op: options has to be a mapping, found str"):
        as_mapping("Op", "options", "{'a': 1}")


def test_what_says_nothing_is_left_out_at_every_level() -> None:
    nested = {"a": {"b": "None", "c": {"d": ""}}, "e": 0, "f": {"g": False, "h": None}}
    assert given_within(nested) == {"e": 0, "f": {"g": False}}
    assert given_within(None) == {}


@pytest.mark.parametrize("others", [(None,), (NOW - timedelta(days=900),), (NOW + timedelta(days=900),)])
def test_a_run_with_a_date_of_long_ago_or_to_come_takes_the_time_it_takes(others: tuple[datetime | None]) -> None:
    assert seconds_since((*others, NOW - timedelta(seconds=3)), NOW) == 3
