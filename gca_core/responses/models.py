"""How good an answer is expected to be."""

from pydantic import BaseModel


class Expected(BaseModel, frozen=True):
    """An accuracy to expect, with the interval that holds nine in ten."""

    value: float
    low: float
    high: float


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
        p = self.pearson
        return (
            f"on {self.n_pairs} pairs of your atlas with support like this ({self.support}), "
            f"Pearson {p.value:.2f} [{p.low:.2f}, {p.high:.2f}]"
        )
