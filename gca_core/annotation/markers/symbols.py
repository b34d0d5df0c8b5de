"""Gene names of a data set: which kind they are, of which species, and as the marker database writes them."""

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from gca_core.annotation.markers.database import MarkerDatabase, symbol_aliases
from gca_core.errors import DataValidationError
from gca_core.matrix.genes import ENSEMBL, MOST, from_column, kind_of_names, share, symbol_column, without_genome

_MOUSE_LIKE = re.compile(r"[A-Z][a-z]+[a-z0-9]*\d*")
_HUMAN_LIKE = re.compile(r"[A-Z][A-Z0-9]+(-[A-Z0-9]+)*")
_ENSEMBL_SPECIES = {"ENSG": "human", "ENSMUSG": "mouse"}
# share of names from which two species seem to be there
_MANY = 0.25


def find_symbols(
    var: pd.DataFrame, where: str, *, species: str, column: str | None = None, fallback: pd.DataFrame | None = None
) -> list[str]:
    """The gene symbols of a gene table, as the data writes them.

    They are the names of ``var`` without a genome's prefix, or where these are Ensembl ids or numbers the values of
    ``column`` or of the one column that is known to hold symbols. Genes without a symbol keep their id, without its
    version.

    Args:
        var: the gene table of the matrix that is used.
        where: what the matrix is called in messages.
        species: ``human`` or ``mouse``.
        column: of ``var`` or ``fallback`` with the symbols; None means to look.
        fallback: another gene table, looked up by name where ``var`` has no symbols, as for ``raw``.

    Raises:
        DataValidationError: no such column, no symbols, symbols in several columns that differ, or symbols of
            another species; says which option settles it.
    """
    names = without_genome([str(name) for name in var.index], species)
    kind = kind_of_names(names)
    if column is None and kind is not None:
        _check_ensembl_species(names, where, species)
        column = symbol_column(var, fallback, where, names)
    if column is not None:
        names = without_genome(from_column(var, fallback, column, where), species)
    names = [without_version(name) for name in names]
    if (kind := kind_of_names(names)) is not None:
        raise DataValidationError(
            f"most values of the column {column!r} are {kind} or missing; name a column of symbols as gene_symbols"
        )
    check_species(names, where, species)
    return names


def current_symbols(names: Iterable[str], markers: MarkerDatabase) -> list[str]:
    """The names as the marker database spells them, whatever their case, and under their current symbols."""
    spelled = {gene.casefold(): gene for gene in markers.genes}
    aliases = symbol_aliases()
    current = (name if name.casefold() in spelled else aliases.get(name.upper(), name) for name in names)
    return [spelled.get(name.casefold(), name) for name in current]


def check_species(names: Sequence[str], where: str, species: str) -> None:
    """Refuse symbols that are written as another species' or as two species'.

    Mouse symbols are written like Cd3e, human ones like CD3E.

    Raises:
        DataValidationError: says what was seen and which species to name.
    """
    mouse, human = share(names, _MOUSE_LIKE.fullmatch), share(names, _HUMAN_LIKE.fullmatch)
    if min(mouse, human) > _MANY:
        raise DataValidationError(
            f"the gene names of {where} are written as symbols of two species ({100 * human:.0f} % like CD3E, "
            f"{100 * mouse:.0f} % like Cd3e); keep the genes of one species, or name the column with its symbols "
            "as gene_symbols"
        )
    if species == "human" and mouse > MOST:
        examples = ", ".join([name for name in names if _MOUSE_LIKE.fullmatch(name)][:3])
        raise DataValidationError(
            f"the gene names of {where} are written as mouse symbols ({examples}), but the species is human; "
            "set the species to mouse"
        )
    if species == "mouse" and human > MOST:
        examples = ", ".join([name for name in names if _HUMAN_LIKE.fullmatch(name)][:3])
        raise DataValidationError(
            f"the gene names of {where} are written as human symbols ({examples}), but the species is mouse; "
            "set the species to human, also for mouse genes that go by the symbols of their human orthologs"
        )


def without_version(name: str) -> str:
    """An Ensembl id without its version; any other name as it is."""
    found = ENSEMBL.fullmatch(name)
    return found[1].upper() if found else name


def _check_ensembl_species(names: Sequence[str], where: str, species: str) -> None:
    prefixes = [name.upper().rstrip("0123456789.") for name in names]
    for prefix, found in _ENSEMBL_SPECIES.items():
        if found != species and prefixes.count(prefix) > MOST * len(names):
            raise DataValidationError(
                f"the genes of {where} are Ensembl ids of {found} ({names[0]}, ...), but the species is {species}; "
                f"set the species to {found}"
            )
