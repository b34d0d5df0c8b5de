"""Mouse genes judged by human markers: what the documented orthologs don't carry over, and what rests on it."""

import functools

from gca_core.annotation.markers.build import bundled_mouse_symbols
from gca_core.annotation.markers.database import MarkerDatabase, symbol_aliases
from gca_core.annotation.models import Annotation, FlagReason, Status

N_NAMED = 5


def ortholog_checked(annotation: Annotation, database: MarkerDatabase, *, min_overlap: int) -> Annotation:
    """The annotation of a mouse cluster by human rows, flagged where its evidence was not carried over as documented.

    Mouse genes are matched to human rows by their letters. Two kinds go wrong: a mouse gene whose human ortholog is
    a marker under other letters, so that its evidence is missing; and a supporting gene with the letters of a human
    one whose documented mouse ortholog is another gene, or which mouse lacks. The caveats name these genes. The
    cluster is flagged where, because of them, the label rests on too little: where fewer than ``min_overlap``
    supporting genes are left, or fewer than half of those that support it or whose evidence is missing.
    """
    human = _human_symbols()
    lost = [
        gene
        for gene in annotation.markers
        if gene not in database.genes and database.genes.intersection(human.get(gene.casefold(), ()))
    ]
    letters = [row.gene for row in annotation.evidence.supporting if row.gene in _other_letters()]
    if not lost and not letters:
        return annotation
    caveats = [
        f"genes without a documented human ortholog {what}: {', '.join(genes[:N_NAMED])}"
        + (f" and {len(genes) - N_NAMED} more" if len(genes) > N_NAMED else "")
        for genes, what in ((lost, "of the same letters, so they count for nothing"), (letters, "support the label"))
        if genes
    ]
    annotation = annotation.model_copy(update={"caveats": (*annotation.caveats, *caveats)})
    supporting = len(annotation.evidence.supporting)
    sound = supporting - len(letters)
    if sound >= min_overlap and 2 * sound >= supporting + len(lost):
        return annotation
    reasons = (*annotation.flag_reasons, FlagReason.ORTHOLOG_UNMAPPED)
    return annotation.model_copy(update={"status": Status.FLAGGED, "flag_reasons": reasons})


@functools.cache
def _human_symbols() -> dict[str, frozenset[str]]:
    """Mouse symbols, their case folded, with the human genes that go by other letters."""
    found: dict[str, set[str]] = {}
    for human, mouse in bundled_mouse_symbols().items():
        if mouse:
            found.setdefault(mouse.casefold(), set()).add(human)
    return {mouse: frozenset(genes) for mouse, genes in found.items()}


@functools.cache
def _other_letters() -> frozenset[str]:
    """Human genes whose mouse ortholog goes by other letters or isn't there, and that no earlier symbol leads to."""
    aliases = symbol_aliases()
    return frozenset(
        human for human, mouse in bundled_mouse_symbols().items() if not mouse or aliases.get(mouse.upper()) != human
    )
