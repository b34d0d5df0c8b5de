"""How good an answer is expected to be."""

from collections.abc import Mapping

from pydantic import BaseModel


class Expected(BaseModel, frozen=True):
    """An accuracy to expect, with the interval that holds nine in ten."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Forecast(BaseModel, frozen=True):
    """The accuracy to expect of an answer.

    Attributes:
        pearson: correlation over genes of predicted and true change.
        overlap: share of the 50 largest changes that are among the true ones.
        support: what the answer stands on, in words.
        n_pairs: left-out pairs with support like this.
    """

    pearson: Expected
    overlap: Expected
    support: str
    n_pairs: int

    def __str__(self) -> str:
        return f"on {self.n_pairs} pairs of your atlas with support like this ({self.support}), Pearson {self.pearson}"


class Selection(BaseModel, frozen=True):
    """The accuracy to expect of a prompt's prediction: ``level`` + the sum of weight x (value - centre).

    Attributes:
        level: mean Pearson of the prompts that it was learned on.
        weights: by term, 0 or more; 0 is a term that doesn't tell accuracy on this atlas.
        centres: by term, its mean over those prompts.
        reach: half the width of the interval that holds nine in ten.
        n_pairs: left-out pairs that it was learned on.
        n_prompts: prompts for them.
        chosen: mean Pearson of the prompt that this rule takes for each left-out pair, learned without that pair.
        by_score: of the one that the grounding score alone takes; None where no score is known.
        best: of the best one that there was.
        at_threshold: accuracy of prompts whose grounding score is the threshold; None where too few are known.
    """

    level: float
    weights: dict[str, float]
    centres: dict[str, float]
    reach: float
    n_pairs: int
    n_prompts: int
    chosen: float
    by_score: float | None = None
    best: float
    at_threshold: Expected | None = None

    def expect(self, values: Mapping[str, float | None]) -> Expected:
        """The accuracy to expect of a prompt with these terms; one that isn't known counts as the mean."""
        known = {name: value for name, value in values.items() if value is not None and name in self.weights}
        value = self.level + sum(self.weights[n] * (v - self.centres[n]) for n, v in known.items())
        low, found, high = (round(min(max(v, -1.0), 1.0), 4) for v in (value - self.reach, value, value + self.reach))
        return Expected(value=found, low=low, high=high)
