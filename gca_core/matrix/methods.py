"""The names of the tests that rank genes, and what counts as differentially expressed; loads no science."""

from typing import Literal

RankingMethod = Literal["t-test", "t-test_overestim_var", "wilcoxon", "logreg"]

# of a differentially expressed gene: absolute log2 fold change, and adjusted p
MIN_LFC, MAX_PADJ = 0.5, 0.05
