"""The numbers that scoring and labelling were tuned with.

Each gain is in mean agreement over the 413 development clusters, and on the clusters of development cells where these
are named, as ``make bench-annotation`` prints it.
"""

# genes taken per cluster, and fewest supporting markers of a label
TOP_N_MARKERS, MIN_OVERLAP = 40, 2
# how many times more genes are ranked than looked at, since some are passed over
DEPTH = 3

# share of its score that a type keeps where the tissue isn't known to hold it: +0.023, on cells +0.070 accuracy
FOREIGN_TISSUE = 0.7
# share of its weight with which a marker of a type above counts: +0.011, on cells +0.021 accuracy and +0.056 macro-F1
INHERITED = 0.3
# share of a cluster's cells from which a gene counts as seen: by definition; nothing is gained or lost beyond noise
SEEN = 0.05

# on cells, a subtype is named if its defining genes give it this much: +0.030 exact
SUBTYPE = 3.0

# agreement of two types: one above the other, and as far apart on the ontology as (steps, agreement). Without NEAR,
# validation would flag 7 of 31 right labels instead of 2; elsewhere it gains nothing beyond noise
ON_ONE_LINE = 0.5
NEAR = ((4, 0.15), (2, 0.35))

# expected agreement from which confidence is High; it is Medium from that of a type above or below the right one
HIGH = 0.99
# below this product of expected agreement and coherence, over half of TOP_N_MARKERS genes, a label doesn't stand:
# by expression, and by a list; with 0.15 for both, a part of a type whose own genes mark nothing would be unknown; with
# 0.1, of lists with shuffled genes 0.69 would be unknown instead of 0.82
RECOGNISED, RECOGNISED_LIST = 0.1, 0.15
# a cluster with fewer cells is never High
FEW_CELLS = 10
# an unrelated type makes a label doubtful if genes that the label lacks give it this share of the label's score; so do
# genes that speak against it, and another subtype that the defining genes give this share
DOUBT = 0.5
# evidence of a gene from which it is named, and counts for MIN_OVERLAP: without, of random mixtures of cells 0.61 are
# unknown instead of 0.92
NOTABLE = 0.1
N_ALTERNATIVES = 3

# single cells: fewest that are labelled; those of a type that teach the classifier, and their share of its clear cells
MIN_CELLS, MIN_SEEDS, MAX_SEEDS, SEED_SHARE = 30, 5, 200, 0.5
N_NEIGHBORS = 15
# how far a label's marker score may lie below the best one's, in units of the scores' spread
MAX_DISAGREEMENT = 1.0

# agreement: terms this many steps apart count as close
CLOSE = 2
# corrections: share of shared genes from which a cluster is the one that was corrected
MIN_LIKENESS = 0.5
# lists: share of a cluster's genes that the marker database has to know before a caveat says how few it knows
FEW_KNOWN = 0.3
