"""Expression matrices: what kind they are, normalisation, group statistics, comparison and ranking.

Import from the modules themselves; none loads scanpy by being imported. What stands here loads no science.
"""

from typing import Literal

# the tests that rank genes
RankingMethod = Literal["t-test", "t-test_overestim_var", "wilcoxon", "logreg"]

# of a differentially expressed gene: absolute log2 fold change, and adjusted p
MIN_LFC, MAX_PADJ = 0.5, 0.05
