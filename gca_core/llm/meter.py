"""Tokens and money over all calls, with a budget that holds also for calls under way."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gca_core.errors import ConfigurationError
from gca_core.llm.failures import BudgetError
from gca_core.llm.models import Budget, TokenPrice, Usage

_PER_MESSAGE = 16


@dataclass(frozen=True)
class Reservation:
    """The worst case of one call: tokens that may be spent by it."""

    model: str
    input_tokens: int
    output_tokens: int


class Meter:
    """Counts what calls spend; shared by threads and by the models of a consensus.

    Args:
        budget: its worst-case rule is :meth:`reserve`'s.
        prices: by ``provider:model``; without them nothing is said about money.

    Raises:
        ConfigurationError: prices in several currencies.
    """

    def __init__(self, budget: Budget | None = None, prices: Mapping[str, TokenPrice] | None = None) -> None:
        self.budget = budget or Budget()
        self._prices = dict(prices or {})
        currencies = sorted({price.currency for price in self._prices.values()})
        if len(currencies) > 1:
            raise ConfigurationError(f"the prices are in several currencies ({', '.join(currencies)}); use one")
        self._currency = currencies[0] if currencies else None
        self._lock = threading.Lock()
        self._open: list[Reservation] = []
        self._spent = Usage(cost=0.0 if self._prices else None, currency=self._currency)

    def check_priced(self, model: str) -> None:
        """Refuse a money budget for a model whose price is not known.

        Raises:
            ConfigurationError: there is a money budget and no price for ``model``.
        """
        if self.budget.max_cost is not None and model not in self._prices:
            raise ConfigurationError(
                f"a budget of money needs the price of {model}; give it in tokens per million, or set max_tokens"
            )

    def reserve(self, model: str, input_tokens: int, output_tokens: int) -> Reservation:
        """Set aside the worst case of a call.

        Raises:
            BudgetError: with all calls under way at their worst, it would not fit.
        """
        wanted = Reservation(model, input_tokens, output_tokens)
        with self._lock:
            tokens = self._spent.input_tokens + self._spent.output_tokens
            cost = self._spent.cost or 0.0
            for each in (*self._open, wanted):
                tokens += each.input_tokens + each.output_tokens
                cost += self._cost(each.model, each.input_tokens, each.output_tokens)
            self._check(tokens, cost)
            self._open.append(wanted)
        return wanted

    def settle(self, reservation: Reservation, input_tokens: int | None, output_tokens: int | None) -> None:
        """Count a call by what the provider reported; None counts the worst case as an estimate."""
        spent_in = reservation.input_tokens if input_tokens is None else input_tokens
        spent_out = reservation.output_tokens if output_tokens is None else output_tokens
        estimated = (spent_in if input_tokens is None else 0) + (spent_out if output_tokens is None else 0)
        with self._lock:
            self._open.remove(reservation)
            s = self._spent
            cost = None if s.cost is None else s.cost + self._cost(reservation.model, spent_in, spent_out)
            self._spent = s.model_copy(
                update={
                    "calls": s.calls + 1,
                    "input_tokens": s.input_tokens + spent_in,
                    "output_tokens": s.output_tokens + spent_out,
                    "estimated_tokens": s.estimated_tokens + estimated,
                    "cost": cost,
                }
            )

    @property
    def usage(self) -> Usage:
        """What was spent so far."""
        with self._lock:
            return self._spent

    def _cost(self, model: str, input_tokens: int, output_tokens: int) -> float:
        price = self._prices.get(model)
        return 0.0 if price is None else price.cost(input_tokens, output_tokens)

    def _check(self, tokens: int, cost: float) -> None:
        b = self.budget
        if b.max_tokens is not None and tokens > b.max_tokens:
            raise BudgetError(
                f"the budget of {b.max_tokens:,} tokens does not cover another call: with it up to {tokens:,} "
                "might be spent; raise max_tokens, or lower max_output_tokens or the chunk size"
            )
        if b.max_cost is not None and cost > b.max_cost:
            raise BudgetError(
                f"the budget of {b.max_cost:g} {self._currency} does not cover another call: with it up to "
                f"{cost:.4g} might be spent; raise max_cost, or lower max_output_tokens or the chunk size"
            )


def most_tokens(messages: Sequence[tuple[str, str]]) -> int:
    """An upper bound for the tokens of role and text pairs: no tokeniser makes more of them than there are bytes."""
    return sum(len(text.encode(errors="surrogatepass")) + _PER_MESSAGE for _, text in messages)
