"""Mouse genes that are judged by human markers: which of them the documented orthologs don't carry over."""

from __future__ import annotations

import functools

from gca_core.annotation.marker_build import bundled_mouse_symbols
from gca_core.annotation.markers import MarkerDatabase, symbol_aliases
from gca_core.annotation.models import Annotation, FlagReason, Status

N_NAMED = 5


def ortholog_checked(annotation: Annotation, database: MarkerDatabase) -> Annotation:
    """The annotation of a mouse cluster by human rows, flagged where genes were not carried over as documented.

    Mouse genes are matched to human rows by their letters. Two kinds go wrong: a mouse gene whose human ortholog is
    a marker under other letters, so that its evidence is missing; and a supporting gene with the letters of a human
    one whose documented mouse ortholog is another gene, or which mouse lacks.
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
    return annotation.model_copy(
        update={
            "status": Status.FLAGGED,
            "flag_reasons": (*annotation.flag_reasons, FlagReason.ORTHOLOG_UNMAPPED),
            "caveats": (*annotation.caveats, *caveats),
        }
    )


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
