"""What flags mean, in plain words."""

from gca_core.annotation.models import FlagReason, Opinion

# what was seen, and what to look at
FLAG_WORDS: dict[FlagReason, tuple[str, str]] = {
    FlagReason.SPECIES_MISMATCH: (
        "genes of another species",
        "The gene names look like those of another species than the one given. Check the species option.",
    ),
    FlagReason.TISSUE_MISMATCH: (
        "unusual for this tissue",
        "The marker database doesn't know this cell type in the tissue given. Check for contamination or a wrong "
        "tissue.",
    ),
    FlagReason.NO_MARKERS_SUPPLIED: (
        "no marker genes",
        "No gene is higher in this cluster than elsewhere. It may be too small, or no population of its own.",
    ),
    FlagReason.LOW_MARKER_OVERLAP: (
        "few known markers",
        "Too few of the top genes are known markers of any one cell type. It may be a type that the marker database "
        "lacks, or cells of poor quality.",
    ),
    FlagReason.CONTRADICTORY_MARKERS: (
        "markers speak against it",
        "Genes that this cell type shouldn't express are high. It may be a mixture, doublets or ambient RNA.",
    ),
    FlagReason.AMBIGUOUS_EVIDENCE: (
        "two cell types fit",
        "An unrelated cell type fits almost as well. It may be a mixture or doublets: try a finer clustering.",
    ),
    FlagReason.FEW_CELLS: (
        "few cells",
        "The cluster has fewer than ten cells, too few to be sure of. Look at its genes, or cluster more coarsely.",
    ),
    FlagReason.LOW_CONFIDENCE: (
        "low confidence",
        "Other cell types, siblings among them, fit about as well. Look at the alternatives.",
    ),
    FlagReason.LABEL_NOT_IN_KB: (
        "not in the marker database",
        "The marker database has no markers of this label, so nothing could be checked.",
    ),
    FlagReason.MISSING_ONTOLOGY_ID: (
        "no Cell Ontology term",
        "The label couldn't be found on the Cell Ontology. Give it a name that the ontology knows.",
    ),
    FlagReason.ONTOLOGY_MISMATCH: (
        "label and term disagree",
        "The label and the Cell Ontology id given with it are different cell types.",
    ),
    FlagReason.MODEL_ABSTAINED: (
        "the model gave no label",
        "The language model found the evidence too thin. Look at the top genes.",
    ),
    FlagReason.MODEL_DISAGREEMENT: (
        "the models disagree",
        "The language models found no majority. Their answers are among the caveats.",
    ),
    FlagReason.OFFLINE_FALLBACK: (
        "labelled without the model",
        "The language model gave no usable answer for this cluster, so marker evidence alone decided.",
    ),
    FlagReason.VALIDATION_MISSING: (
        "couldn't be checked",
        "There was nothing to check this label with, such as no marker genes or no label.",
    ),
    FlagReason.ORTHOLOG_UNMAPPED: (
        "genes without a human counterpart",
        "Mouse genes were matched to human markers by their letters, and for many the documented counterpart has "
        "other letters or doesn't exist, so that too little sound evidence is left. Use a table with mouse markers.",
    ),
    FlagReason.OPINIONS_DISAGREE: (
        "opinions differ",
        "The markers, the reference or another source say something else, or have no majority. The row lists what each "
        "says.",
    ),
}


def flag_name(reason: FlagReason) -> str:
    """A flag in a few words."""
    return FLAG_WORDS[reason][0]


def flag_advice(reason: FlagReason) -> str:
    """What a flag means and what to look at."""
    return FLAG_WORDS[reason][1]


def opinion_words(opinion: Opinion) -> str:
    """What a source says, with the share of cells that it says so of."""
    share = "" if opinion.share is None or opinion.label is None else f" ({100 * opinion.share:.0f} % of cells)"
    return f"{opinion.source}: {opinion.label or 'nothing'}{share}"
