"""The names of the tests that rank genes; loads no science."""

from typing import Literal

RankingMethod = Literal["t-test", "t-test_overestim_var", "wilcoxon", "logreg"]
