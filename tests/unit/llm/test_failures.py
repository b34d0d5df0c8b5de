"""What a failure means, and how long a provider asks to wait."""

import datetime as dt
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.http import parse_retry_after
from gca_core.llm.failures import describe_failure

NOW = dt.datetime(2025, 6, 1, 12, 0, tzinfo=dt.UTC)


class StatusError(Exception):
    def __init__(self, status: int, message: str = "no", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status_code = status
        self.response = SimpleNamespace(headers=headers or {})


class ClientError(Exception):
    """As Google's client raises it: with a code."""

    code = 503


class APITimeoutError(Exception):
    pass


class APIConnectionError(Exception):
    pass


class ConnectError(Exception):
    pass


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"Retry-After": format_datetime(NOW + dt.timedelta(seconds=90), usegmt=True)}, 90.0),
        ({"Retry-After": format_datetime(NOW - dt.timedelta(seconds=90), usegmt=True)}, 0.0),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_a_wished_pause_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers, now=NOW) == seconds


@given(st.text(max_size=40))
def test_any_header_gives_seconds_or_nothing(value: str) -> None:
    found = parse_retry_after({"Retry-After": value}, now=NOW)
    assert found is None or 0.0 <= found < float("inf")


@pytest.mark.parametrize(
    ("error", "retryable", "billed"),
    [
        (StatusError(429), True, False),
        (StatusError(529), True, False),
        (ClientError(), True, False),
        (StatusError(429, "you exceeded your quota: insufficient_quota"), False, False),
        (StatusError(400), False, False),
        (StatusError(401), False, False),
        (APITimeoutError(), True, True),
        (APIConnectionError(), True, True),
        (KeyError("choices"), True, True),
        (RuntimeError("odd"), False, True),
    ],
)
def test_what_can_pass_is_tried_again_and_what_may_be_billed_is_counted(error, retryable, billed):
    found = describe_failure(error, name="openai:m")
    assert (found.retryable, found.may_be_billed) == (retryable, billed)


def test_what_never_left_is_not_billed() -> None:
    error: Any = APIConnectionError("connection error")
    error.__cause__ = ConnectError("refused")
    assert not describe_failure(error, name="openai:m").may_be_billed


def test_a_message_is_one_short_line_without_the_key() -> None:
    error = StatusError(401, "key sk-secret\nis wrong\x1b[31m " + "x" * 1000)
    text = str(describe_failure(error, name="openai:m", secret="sk-secret"))
    assert "sk-secret" not in text
    assert "key *** is wrong" in text
    assert "check the API key" in text
    assert text.isprintable()
    assert len(text) < 500


def test_a_cause_that_points_at_itself_ends() -> None:
    error = RuntimeError("a")
    other = RuntimeError("b")
    error.__cause__, other.__cause__ = other, error
    assert "a" in str(describe_failure(error, name="m"))
