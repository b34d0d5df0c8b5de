"""The ranked genes of each cluster: computed, or taken from a ranking that an AnnData brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gca_core.annotation.adata.expression import Expression
from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.annotation.markers.symbols import current_symbols, find_symbols
from gca_core.annotation.models import ClusterMarkers, RankedGene
from gca_core.errors import DataValidationError
from gca_core.matrix.genes import gene_rows
from gca_core.matrix.ranking import RankingMethod, rank_genes
from gca_core.matrix.stats import GroupSums

if TYPE_CHECKING:
    from anndata import AnnData

_FIGURES = ("score", "log_fold_change", "fraction_in", "fraction_out")
_NO_NAME = {"", "nan", "none"}


@dataclass(frozen=True)
class StoredRanking:
    """A ranking in scanpy's structure.

    Attributes:
        key: of ``uns``.
        cluster_key: the column of obs that was ranked.
        method: the test, as reports name it.
        genes: names by cluster, best first, as the data writes them; genes that rank below the others are left out.
        scores: by cluster, of ``genes``; None where unknown.
    """

    key: str
    cluster_key: str
    method: str
    genes: dict[str, tuple[str, ...]]
    scores: dict[str, tuple[float | None, ...]]


def rank_clusters(
    expression: Expression, groups: pd.Series, sums: GroupSums, n_top: int, method: RankingMethod
) -> list[ClusterMarkers]:
    """Rank the genes of each cluster against all other cells; those with a higher mean than elsewhere are kept."""
    # codes instead of names, so that clusters that read alike, such as 1 and "1", stay apart
    codes = pd.Series(pd.Categorical(groups.cat.codes.where(groups.cat.codes >= 0)))
    ranked = rank_genes(expression.values, expression.genes, codes, n_top=n_top, method=method, sums=sums)
    tables = dict(iter(ranked.groupby("group", sort=False, observed=True)))
    return [
        ClusterMarkers(cluster=str(name), n_cells=int(sums.n_cells[i]), genes=ranked_genes(tables[i]))
        for i, name in enumerate(groups.cat.categories)
    ]


def stored_ranking(adata: AnnData, key: str = "rank_genes_groups", *, cluster_key: str | None = None) -> StoredRanking:
    """The ranking in ``uns[key]``, as :func:`scanpy.tl.rank_genes_groups` and its filter leave it.

    Args:
        cluster_key: the column that has to have been ranked; None takes any.

    Raises:
        DataValidationError: no such ranking, one of another column, or one that is no ranking.
    """
    if key not in adata.uns:
        found = ", ".join(repr(name) for name in adata.uns) or "nothing"
        raise DataValidationError(
            f"there is no ranking {key!r} in uns; found {found}. rank the genes with scanpy.tl.rank_genes_groups, "
            "or let them be ranked here"
        )
    stored = adata.uns[key]
    params = stored.get("params") if isinstance(stored, Mapping) else None
    clusters = _fields(stored.get("names")) if isinstance(stored, Mapping) else ()
    if not isinstance(params, Mapping) or "groupby" not in params or not clusters:
        raise DataValidationError(
            f"uns[{key!r}] is no ranking of genes; expected params, and names with a field for each cluster, as "
            "scanpy.tl.rank_genes_groups writes them"
        )
    ranked_key = str(params["groupby"])
    if cluster_key is not None and ranked_key != cluster_key:
        raise DataValidationError(
            f"the ranking {key!r} is of the column {ranked_key!r}, not of {cluster_key!r}; name that column, or have "
            "the genes ranked again"
        )
    columns = {cluster: _column(stored, cluster) for cluster in clusters}
    against = str(params.get("reference", "rest"))
    method = f"{params.get('method', 'unknown test')}, taken from uns[{key!r}]"
    return StoredRanking(
        key=key,
        cluster_key=ranked_key,
        method=method if against == "rest" else f"{method}, against {against}",
        genes={cluster: tuple(gene for gene, _ in column) for cluster, column in columns.items()},
        scores={cluster: tuple(score for _, score in column) for cluster, column in columns.items()},
    )


def stored_markers(
    ranking: StoredRanking,
    adata: AnnData,
    groups: pd.Series,
    markers: MarkerDatabase,
    *,
    species: str,
    gene_symbols: str | None,
    n_top: int,
) -> list[ClusterMarkers]:
    """The ranked genes of each cluster under current symbols; a cluster that was not ranked has none.

    Raises:
        DataValidationError: the ranking has clusters that the column lacks, or names that are no symbols.
    """
    names = [str(name) for name in groups.cat.categories]
    strangers = [cluster for cluster in ranking.genes if cluster not in names]
    if strangers:
        raise DataValidationError(
            f"the ranking {ranking.key!r} has clusters that the column {ranking.cluster_key!r} lacks: "
            f"{', '.join(strangers[:5])}; the column was changed after the ranking, so rank the genes again"
        )
    symbols = _symbols(ranking, adata, species, gene_symbols)
    sizes = np.bincount(groups.cat.codes[groups.cat.codes >= 0], minlength=len(names))
    return [
        ClusterMarkers(
            cluster=name,
            n_cells=int(sizes[i]),
            genes=_distinct(
                current_symbols([symbols.get(gene, gene) for gene in ranking.genes.get(name, ())], markers),
                ranking.scores.get(name, ()),
                n_top,
            ),
        )
        for i, name in enumerate(names)
    ]


def _column(stored: Mapping[str, Any], cluster: str) -> list[tuple[str, float | None]]:
    """Genes and scores of one cluster; without what a filter left out, and what is lower than elsewhere."""
    names = stored["names"][cluster]
    scores = _numbers(stored, "scores", cluster, len(names))
    changes = _numbers(stored, "logfoldchanges", cluster, len(names))
    found = []
    for name, score, change in zip(names, scores, changes, strict=True):
        higher = change if np.isfinite(change) else score
        if str(name).casefold() not in _NO_NAME and not higher <= 0:
            found.append((str(name), round(float(score), 4) if np.isfinite(score) else None))
    return found


def _numbers(stored: Mapping[str, Any], what: str, cluster: str, n: int) -> Any:
    table = stored.get(what)
    if table is None or cluster not in _fields(table):
        return np.full(n, np.nan)
    return np.asarray(table[cluster], dtype=np.float64)


def _fields(table: Any) -> tuple[str, ...]:
    """The names of the fields of a structured array; none of anything else."""
    return tuple(getattr(getattr(table, "dtype", None), "names", None) or ())


def _symbols(ranking: StoredRanking, adata: AnnData, species: str, gene_symbols: str | None) -> dict[str, str]:
    """Symbols by the names of the gene table that the ranking used; none for rows that are no genes."""
    ranked = {gene for genes in ranking.genes.values() for gene in genes}
    tables = [adata.var] if adata.raw is None else [adata.var, adata.raw.var]
    var = max(tables, key=lambda table: (len(ranked & set(map(str, table.index))), len(table)))
    unknown = sorted(ranked - set(map(str, var.index)))
    if len(unknown) > len(ranked) / 2:
        # names that went through scanpy's own gene_symbols
        var = pd.DataFrame(index=pd.Index(sorted(ranked)))
        gene_symbols = None
    where = f"the ranking {ranking.key!r}"
    rows = gene_rows(var, where, adata.var, tell=True)
    genes = var if rows is None else var.iloc[rows]
    symbols = find_symbols(genes, where, species=species, column=gene_symbols, fallback=adata.var)
    return dict.fromkeys(map(str, var.index), "") | dict(zip(map(str, genes.index), symbols, strict=True))


def _distinct(names: Sequence[str], scores: Sequence[float | None], n_top: int) -> tuple[RankedGene, ...]:
    first: dict[str, float | None] = {}
    for name, score in zip(names, scores, strict=True):
        if name:
            first.setdefault(name, score)
    return tuple(RankedGene(gene=name, score=score) for name, score in list(first.items())[:n_top])


def ranked_genes(table: pd.DataFrame) -> tuple[RankedGene, ...]:
    """The rows of a ranking whose mean is higher than elsewhere, figures rounded."""
    rounded = table.assign(**{c: table[c].astype(float).round(4) for c in _FIGURES})
    return tuple(
        RankedGene(gene=row["gene"], **{c: row[c] for c in _FIGURES})
        for row in rounded.to_dict("records")
        if row["log_fold_change"] > 0
    )
