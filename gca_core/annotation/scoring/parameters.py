"""The numbers that scoring and labelling were tuned with."""

# fewest supporting markers of a label
MIN_OVERLAP = 2
# genes taken per cluster
TOP_N_MARKERS = 40

# ranking: how fast a gene's weight falls with its rank
RANK_DECAY = 0.03
# how many times more genes are ranked than looked at, since some are passed over
DEPTH = 3

# expression: share of expressing cells, in the cluster that expresses a gene most, from which it is trusted fully
FULL_FRACTION = 0.2
# shares of the highest cluster's mean from which a gene counts as expressed, and below which as absent
EXPRESSED, ABSENT = 0.5, 0.2
# share with which a gene outside the ranking counts, whether it is expressed or absent
UNRANKED = 0.1
# trust in a gene that all clusters express alike, against one that some cluster lacks
FLAT_TRUST = 0.3

# marker database: share of its weight with which an ancestor's marker counts for a type
INHERITED = 0.3
# types that list a gene share its weight; this exponent keeps types with many markers from winning by their number
SIZE_EXPONENT = 0.05
CONTRADICTION_WEIGHT = 0.5
# share of its weight with which a gene of cell division counts
DIVISION_WEIGHT = 0.3
# share of its score that a type of another tissue keeps
FOREIGN_TISSUE = 0.7
# types that share more of their ancestors than this count as the same lineage
SAME_LINEAGE = 0.55
# genes that the confidence looks at
TOP_GENES = 10

# labels: what one strong marker found in nothing but this type gives
MIN_SCORE = 1.0
# a label within this share of the best score can't be told apart from it
TIE = 0.1
# a subtype is named if it scores at least this share of the type above it, and gains this much by its own markers
SUBTYPE_SHARE = 0.5
SUBTYPE_GAIN = 1.5
# below this gain a type has nothing of its own against the one above it
OWN_GAIN = 0.25
CONTRADICTION_SHARE = 0.5
# an unrelated type makes a label doubtful if genes that the label lacks give it this share of the label's score
MIXTURE_SHARE = 0.5
# evidence of a gene from which it is worth naming, is strong, and below which a marker counts as absent
NOTABLE = 0.2
STRONG = 0.8
LACKING = -0.5
FEW_MARKERS = 3
N_ALTERNATIVES = 3
# neighbors left out of a ranking that a caveat names
N_NEIGHBORS_NAMED = 5

# ranking again: clusters closer than this share of the way to the farthest one, in squared distance, may be left out
NEIGHBOR_DISTANCE = 1 / 3
# a type's markers reach this share of their highest mean in a cluster of the type, and seldom in a mixture
WHOLE = 0.6

# single cells: fewest that are labelled; those of a type that teach the classifier, and their share of its clear cells
MIN_CELLS = 30
MIN_SEEDS = 5
MAX_SEEDS = 200
SEED_SHARE = 0.5
N_NEIGHBORS = 15
# how far a label's marker score may lie below the best one's, in units of the scores' spread
MAX_DISAGREEMENT = 1.0

# agreement: terms this many steps apart count as close
CLOSE = 2
# corrections: share of shared genes from which a cluster is the one that was corrected
MIN_LIKENESS = 0.5
# lists: share of a cluster's genes that the marker database has to know before a caveat says how few it knows
FEW_KNOWN = 0.3
