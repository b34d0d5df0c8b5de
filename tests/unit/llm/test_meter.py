"""Budgets hold, also for calls under way."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.errors import ConfigurationError
from gca_core.llm.failures import BudgetError
from gca_core.llm.meter import Meter, most_tokens
from gca_core.llm.models import Budget, TokenPrice


def test_what_is_under_way_counts_at_its_worst() -> None:
    meter = Meter(Budget(max_tokens=1000))
    first = meter.reserve("m", 300, 300)
    with pytest.raises(BudgetError, match=r"1,000 tokens.*1,200 might be spent"):
        meter.reserve("m", 300, 300)
    meter.settle(first, 100, 50)
    meter.settle(meter.reserve("m", 300, 300), None, None)
    assert meter.usage.input_tokens + meter.usage.output_tokens == 750
    assert meter.usage.estimated_tokens == 600
    assert meter.usage.calls == 2


@given(
    limit=st.integers(1, 5000),
    calls=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.floats(0, 1)), max_size=30),
)
def test_no_order_of_calls_spends_more_than_the_budget(limit: int, calls: list[tuple[int, int, float]]) -> None:
    meter = Meter(Budget(max_tokens=limit))
    open_calls = []
    for worst_in, worst_out, share in calls:
        try:
            reserved = meter.reserve("m", worst_in, worst_out)
        except BudgetError:
            continue
        open_calls.append((reserved, int(worst_in * share), int(worst_out * share)))
        if share > 0.5:
            meter.settle(*open_calls.pop(0))
    for call in open_calls:
        meter.settle(*call)
    assert meter.usage.input_tokens + meter.usage.output_tokens <= limit


def test_threads_together_stay_within_the_budget() -> None:
    meter = Meter(Budget(max_tokens=1000))

    def call(_: int) -> int:
        try:
            reserved = meter.reserve("m", 50, 50)
        except BudgetError:
            return 0
        meter.settle(reserved, 50, 50)
        return 100

    with ThreadPoolExecutor(8) as pool:
        spent = sum(pool.map(call, range(100)))
    assert spent == meter.usage.input_tokens + meter.usage.output_tokens == 1000


def test_money_needs_prices_in_one_currency() -> None:
    price = TokenPrice(input_per_million=1.0, output_per_million=2.0)
    meter = Meter(Budget(max_cost=0.001), {"m": price})
    meter.check_priced("m")
    with pytest.raises(ConfigurationError, match="price of other"):
        meter.check_priced("other")
    with pytest.raises(BudgetError, match=r"0\.001 USD"):
        meter.reserve("m", 500, 500)
    meter.settle(meter.reserve("m", 100, 100), 100, 100)
    assert meter.usage.cost == pytest.approx(0.0003)
    with pytest.raises(ConfigurationError, match="EUR, USD"):
        Meter(None, {"m": price, "n": price.model_copy(update={"currency": "EUR"})})


def test_the_bound_on_tokens_counts_bytes() -> None:
    assert most_tokens([("system", "abc"), ("human", "γδ")]) == 3 + 4 + 2 * 16
