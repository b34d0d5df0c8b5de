"""Which rows of a gene table are genes, and where their names are."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core.errors import DataValidationError

log = logging.getLogger(__name__)

ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{6,})(\.\d+)?", re.IGNORECASE)
# Entrez ids, and the row numbers that stand for names which were lost
NUMBER = re.compile(r"\d+(\.0)?")
# what Cell Ranger puts before the names of a reference of several genomes: GRCh38_CD3D, mm10___Cd3d
GENOME = re.compile(r"(GRC[a-z]|hg|hs|CHM|T2T|human|mm|mouse|rn)\d*[a-z0-9.-]*(?:_premrna)?_+([^_].*)", re.IGNORECASE)
_GENOMES = {"human": {"grch", "hg", "hs", "chm", "t2t", "human"}, "mouse": {"grcm", "mm", "mouse"}}
SYMBOL_COLUMNS = (
    "gene_symbols", "gene_symbol", "feature_name", "gene_name", "gene_names", "symbol", "symbols", "gene_short_name",
    "hgnc_symbol", "external_gene_name", "features", "gene", "genes", "name", "_index", "index_",
)  # fmt: skip
FEATURE_COLUMNS = ("feature_types", "feature_type")
_GENE_FEATURES = {"gene expression", "gex", "rna", "gene"}
_OTHER_FEATURES = re.compile("antibod|hashtag|hto|adt|multiplex|crispr|guide|capture|peak|custom", re.IGNORECASE)
_MISSING = {"", "nan", "none", "na", "<na>"}
# share of names from which their form is taken for that of all
MOST = 0.5


def gene_rows(
    var: pd.DataFrame, where: str, fallback: pd.DataFrame | None = None, *, tell: bool = False
) -> npt.NDArray[np.int64] | None:
    """Positions of the rows that are genes, by the kinds of features that 10x writes; None where all are.

    The counts of antibodies, hashtags and guides are of another scale: a hashtag outweighs all genes of a cell. Rows
    whose kind is missing are kept.

    Args:
        var: the gene table.
        where: what its matrix is called in messages.
        fallback: another gene table, looked up by name where ``var`` has no such column, as for ``raw``.
        tell: say in the log how many rows are left out, and of which kinds.

    Raises:
        DataValidationError: no row is a gene.
    """
    kinds = _features(var, fallback)
    if kinds is None:
        return None
    plain = kinds.str.casefold().str.replace(r"[\s_-]+", " ", regex=True).str.strip()
    genes = (plain.isin(_GENE_FEATURES) | plain.isin(_MISSING)).to_numpy(dtype=bool)
    others = Counter(kinds[~genes])
    if not plain.isin(_GENE_FEATURES).any():
        if others and all(_OTHER_FEATURES.search(kind) for kind in others):
            raise DataValidationError(
                f"{where} holds no genes: its rows are {_listing(others)}; expected some of Gene Expression"
            )
        # other words, such as the biotypes of CELLxGENE
        return None
    if not others:
        return None
    if tell:
        log.warning("%d rows of %s are no genes and left out: %s", sum(others.values()), where, _listing(others))
    return np.flatnonzero(genes)


def unique_symbols(
    var: pd.DataFrame,
    where: str,
    *,
    column: str | None = None,
    fallback: pd.DataFrame | None = None,
    keep_ensembl: bool = False,
) -> list[str]:
    """The names of the genes: those of the table, or of its column of symbols where they are ids or numbers.

    Prefixes of genomes are taken off. Of genes that share a symbol in a column, all but the first keep their id beside
    it, and those without one have their id alone. Names of the table that repeat are left as they are.

    Args:
        column: of ``var`` or ``fallback`` with the names; None means to look.
        fallback: another gene table, looked up by name, as for ``raw``.
        keep_ensembl: Ensembl ids are as good as symbols.

    Raises:
        DataValidationError: no such column.
    """
    names = without_genome([str(name) for name in var.index])
    kind = kind_of_names(names)
    if column is None and kind is not None and not (keep_ensembl and kind == "Ensembl ids"):
        try:
            column = symbol_column(var, fallback, where, names)
        except DataValidationError as error:
            log.warning("%s; they are taken as they are", error)
    if column is None:
        return names
    seen: set[str] = set()
    genes = []
    for symbol, name in zip(from_column(var, fallback, column, where), names, strict=True):
        genes.append(f"{symbol}_{name}" if symbol in seen else symbol)
        seen.add(genes[-1])
    return genes


def without_genome(names: Sequence[str], species: str | None = None) -> list[str]:
    """Names without the genome that most of them are prefixed with.

    Args:
        species: of several genomes, only those of this species lose their prefix.
    """
    found = [GENOME.fullmatch(name) for name in names]
    if sum(match is not None for match in found) <= MOST * len(names):
        return list(names)
    genomes = {match[1].casefold() for match in found if match}
    taken = genomes & _GENOMES.get(species or "", genomes) or genomes
    stripped = (match[2] if match and match[1].casefold() in taken else None for match in found)
    return [bare or name for name, bare in zip(names, stripped, strict=True)]


def kind_of_names(names: Sequence[str]) -> str | None:
    """What most names are where they are no symbols: ``Ensembl ids`` or ``numbers``."""
    if share(names, ENSEMBL.fullmatch) > MOST:
        return "Ensembl ids"
    return "numbers" if share(names, NUMBER.fullmatch) > MOST else None


def share(names: Sequence[str], test: Callable[[str], Any]) -> float:
    """The share of names that pass a test; 0 without names."""
    return sum(bool(test(name)) for name in names) / max(len(names), 1)


def symbol_column(var: pd.DataFrame, fallback: pd.DataFrame | None, where: str, names: Sequence[str]) -> str:
    """The column that holds symbols, where there is one, or several that say the same.

    Raises:
        DataValidationError: none, or several that differ; says which option settles it.
    """
    table, found = var, _symbol_columns(var)
    if not found and fallback is not None:
        table, found = fallback, _symbol_columns(fallback)
    if not found:
        raise DataValidationError(
            f"the genes of {where} are {kind_of_names(names)} ({names[0]}, ...) and no column of var holds their "
            f"symbols; expected symbols as names, or in one of the columns {', '.join(SYMBOL_COLUMNS[:7])}, or in one "
            "that is named as gene_symbols"
        )
    first = table[found[0]].astype(str)
    differing = [c for c in found[1:] if (table[c].astype(str) != first).mean() > 1 - MOST]
    if differing:
        raise DataValidationError(
            f"several columns of var may hold the symbols of {where} and differ: {', '.join([found[0], *differing])}; "
            "name one of them as gene_symbols"
        )
    log.info("the genes of %s are %s; symbols are taken from the column %r", where, kind_of_names(names), found[0])
    return found[0]


def from_column(var: pd.DataFrame, fallback: pd.DataFrame | None, column: str, where: str) -> list[str]:
    """The values of a column; where one is missing, the name.

    Raises:
        DataValidationError: no such column.
    """
    if column in var:
        values = var[column]
    elif fallback is not None and column in fallback:
        values = fallback.loc[~fallback.index.duplicated(), column].reindex(var.index)
    else:
        found = ", ".join(map(repr, var.columns)) or "no columns"
        raise DataValidationError(f"there is no column {column!r} in the gene table of {where}; found {found}")
    return [
        str(name) if pd.isna(value) or str(value).strip().casefold() in _MISSING else str(value).strip()
        for name, value in zip(var.index, values, strict=True)
    ]


def _symbol_columns(table: pd.DataFrame) -> list[str]:
    """Columns that are called so and whose values may be symbols, the likeliest first."""
    by_name = {str(column).casefold(): str(column) for column in table}
    called = [by_name[name] for name in SYMBOL_COLUMNS if name in by_name]
    texts = {column: _texts(table[column]) for column in called}
    return [c for c in called if texts[c] and kind_of_names(texts[c]) is None]


def _texts(values: pd.Series) -> list[str]:
    found = (str(value).strip() for value in values[~values.isna()])
    return [text for text in found if text.casefold() not in _MISSING]


def _features(var: pd.DataFrame, fallback: pd.DataFrame | None) -> pd.Series | None:
    for column in FEATURE_COLUMNS:
        if column in var:
            return var[column].astype(object).where(~var[column].isna(), "").astype(str)
        if fallback is not None and column in fallback:
            values = fallback.loc[~fallback.index.duplicated(), column].astype(object).reindex(var.index)
            return values.where(~values.isna(), "").astype(str)
    return None


def _listing(kinds: Counter[str]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
