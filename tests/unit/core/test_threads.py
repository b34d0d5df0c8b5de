import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.threads import prefetch


@given(st.lists(st.integers(), max_size=30), st.integers(1, 5))
def test_results_come_in_the_order_of_the_parts(parts: list[int], workers: int) -> None:
    assert list(prefetch(lambda part: -part, parts, workers)) == [-part for part in parts]


def test_several_workers_load_at_once_and_not_too_far_ahead() -> None:
    both, taken = threading.Barrier(2, timeout=20), []

    def parts() -> Any:
        for part in range(10):
            taken.append(part)
            yield part

    results = prefetch(lambda part: (both.wait(), part)[1], parts(), 2)
    assert next(results) == 0
    assert len(taken) <= 3
    assert list(results) == list(range(1, 10))


def test_a_failure_reaches_the_caller_and_no_thread_stays() -> None:
    results = prefetch(lambda part: 1 // part, [1, 0, 1, 1, 1], 3)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    unfinished = prefetch(abs, range(100), 3)
    next(unfinished)
    unfinished.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gca-ahead")]


def test_a_failure_and_a_close_leave_no_call_under_way() -> None:
    under_way: set[int] = set()

    def work(part: int) -> int:
        under_way.add(part)
        time.sleep(0.05)
        under_way.remove(part)
        if part == 3:
            raise ValueError("the fourth")
        return part

    failing = prefetch(work, range(100), 2)
    with pytest.raises(ValueError, match="the fourth"):
        list(failing)
    assert not under_way
    closed = prefetch(work, range(100), 2)
    assert next(closed) == 0
    closed.close()
    assert not under_way
