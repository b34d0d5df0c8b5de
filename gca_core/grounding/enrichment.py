"""Which gene sets a response is enriched in: by its differentially expressed genes, and by the order of all genes.

Every test is of one set against the other measured genes, for all sets at once: a product of a sparse matrix of
sets and genes with a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from scipy import stats

from gca_core import io
from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.gene_sets import COLLECTIONS, GO_BP, load_gene_sets, parse_gmt
from gca_core.matrix.differential import adjust

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MIN_GENES, MAX_GENES = 5, 500
BUNDLED = (*COLLECTIONS, GO_BP)


@dataclass(frozen=True)
class SetMatrix:
    """Gene sets over the measured genes.

    Attributes:
        names: (n_sets,) of the sets.
        collections: (n_sets,) which collection each is of; p-values are adjusted within one.
        member: (n_sets, n_genes) 1 where the set holds the gene.
        size: (n_sets,) measured genes of each set.
    """

    names: tuple[str, ...]
    collections: npt.NDArray[np.object_]
    member: sp.csr_matrix
    size: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        collections: Mapping[str, Mapping[str, Iterable[str]]],
        genes: Sequence[str],
        *,
        min_genes: int = MIN_GENES,
        max_genes: int = MAX_GENES,
    ) -> SetMatrix:
        """The sets of all collections that hold ``min_genes`` to ``max_genes`` of the measured genes."""
        place = {gene: i for i, gene in enumerate(genes)}
        names, kinds, columns, bounds = [], [], [], [0]
        for kind, sets in collections.items():
            for name, members in sets.items():
                found = [place[gene] for gene in members if gene in place]
                if min_genes <= len(found) <= max_genes:
                    names.append(name)
                    kinds.append(kind)
                    columns += sorted(found)
                    bounds.append(len(columns))
        member = sp.csr_matrix((np.ones(len(columns)), columns, bounds), shape=(len(names), len(genes)))
        return cls(tuple(names), np.array(kinds, dtype=object), member, np.diff(bounds).astype(np.int64))

    def adjusted(self, pvalues: Floats) -> Floats:
        """(n_sets,) Benjamini-Hochberg within each collection."""
        found = np.ones(len(pvalues))
        for kind in dict.fromkeys(self.collections):
            own = self.collections == kind
            found[own] = adjust(pvalues[own])
        return found


@lru_cache(maxsize=4)
def bundled_sets(genes: tuple[str, ...], gmt: tuple[str, ...] = ()) -> SetMatrix:
    """Hallmark, Reactome, GO biological process and a user's GMT files over some genes; kept for the last few.

    Raises:
        DataValidationError: a GMT file is missing or is none.
    """
    collections = {name: load_gene_sets(name) for name in BUNDLED}
    return SetMatrix.of({**collections, **{uri: read_gmt(uri) for uri in gmt}}, genes)


def read_gmt(uri: str) -> dict[str, frozenset[str]]:
    """Gene sets of a GMT file; see :func:`gca_core.knowledge.bundled.gene_sets.parse_gmt`.

    Raises:
        DataValidationError: there is no such file, or a line has no genes.
    """
    sets = {name: frozenset(genes) for name, genes in parse_gmt(io.read_text(uri, what="GMT file"), uri)}
    if not sets:
        raise DataValidationError(f"{uri} holds no gene set; expected lines of name, description, genes")
    return sets


def over_representation(sets: SetMatrix, hits: Mask, background: Mask | None = None) -> tuple[Floats, Floats]:
    """How many hits each set holds, and how often as many or more fall into it by chance.

    Fisher's exact test, one-sided, against the background of measured genes.

    Args:
        sets: over n genes.
        hits: (n,) the genes in question; those outside the background don't count.
        background: (n,) genes that could have been hits; all where None.

    Returns:
        (n_sets,) overlaps and (n_sets,) p-values.
    """
    measured = np.ones(len(hits), dtype=bool) if background is None else background
    drawn = hits & measured
    overlap = sets.member @ drawn.astype(np.float64)
    size = sets.member @ measured.astype(np.float64)
    p = np.ones(len(overlap))
    some = overlap > 0
    p[some] = stats.hypergeom.sf(overlap[some] - 1, int(measured.sum()), size[some], int(drawn.sum()))
    return overlap, p


def rank_sums(sets: SetMatrix, scores: Floats, background: Mask | None = None) -> tuple[Floats, Floats]:
    """Whether the genes of each set stand higher than the others: z of the rank sum, corrected for ties.

    Args:
        sets: over n genes.
        scores: (n,) such as log fold changes.
        background: (n,) genes that are ranked; all where None.

    Returns:
        (n_sets,) z, positive where the set stands high, and (n_sets,) two-sided p-values.
    """
    measured = np.ones(len(scores), dtype=bool) if background is None else background
    ranks = np.zeros(len(scores))
    ranks[measured] = stats.rankdata(scores[measured])
    size = sets.member @ measured.astype(np.float64)
    n = float(measured.sum())
    _, ties = np.unique(scores[measured], return_counts=True)
    tied = float((ties.astype(np.float64) ** 3 - ties).sum()) / max(n * (n - 1), 1.0)
    spread = np.sqrt(size * (n - size) * max(n + 1 - tied, 0.0) / 12.0)
    centred = sets.member @ ranks - size * (n + 1) / 2.0
    z = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9)
    return z, np.asarray(2.0 * stats.norm.sf(np.abs(z)))


def weight_matrix(weights: Mapping[str, Mapping[str, float]], genes: Sequence[str]) -> sp.csr_matrix:
    """(n_regulators, n_genes) of signed weights, in the order of the mapping."""
    place = {gene: i for i, gene in enumerate(genes)}
    found = [{place[gene]: weight for gene, weight in own.items() if gene in place} for own in weights.values()]
    values = np.array([weight for own in found for weight in own.values()], dtype=np.float64)
    columns = np.array([column for own in found for column in own], dtype=np.int64)
    bounds = np.cumsum([0, *map(len, found)])
    return sp.csr_matrix((values, columns, bounds), shape=(len(weights), len(genes)))


def enrichment_table(sets: SetMatrix, lfc: Floats, is_de: Mask, background: Mask | None = None) -> pd.DataFrame:
    """Both tests of every set, most significant by rank first.

    Args:
        sets: over n genes.
        lfc: (n,) log fold changes, by which genes are ranked.
        is_de: (n,) the differentially expressed ones.
        background: (n,) the measured genes; all where None.

    Returns:
        One row per set: name, collection, size, z, p, padj of the ranks; overlap_up, p_up, padj_up, overlap_down,
        p_down, padj_down of the genes that rise and fall.
    """
    z, p = rank_sums(sets, lfc, background)
    table = pd.DataFrame({"name": sets.names, "collection": sets.collections, "size": sets.size, "z": z, "p": p})
    table["padj"] = sets.adjusted(p)
    for direction, sign in (("up", 1.0), ("down", -1.0)):
        overlap, chance = over_representation(sets, is_de & (sign * lfc > 0), background)
        table[f"overlap_{direction}"] = overlap.astype(np.int64)
        table[f"p_{direction}"], table[f"padj_{direction}"] = chance, sets.adjusted(chance)
    return table.sort_values(["p", "name"], kind="stable", ignore_index=True)
