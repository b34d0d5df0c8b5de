"""Grounding: time of differential expression, enrichment and score, beside scanpy, gseapy and decoupler.

All libraries give the same tables in the same run: the genes of 5,000 x 15,000 cells, and all bundled gene sets. What
gseapy and decoupler are needed for is skipped where they are missing. Times are CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, TypeVar

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from scipy.stats import spearmanr

from gca_core.config import require
from gca_core.errors import ConfigurationError
from gca_core.grounding.enrichment import BUNDLED, bundled_sets, weight_matrix
from gca_core.grounding.knowledge import load_knowledge
from gca_core.grounding.models import GroundingConfig
from gca_core.grounding.score import enriched_sets, score_response
from gca_core.haystack.question.names import expectation_of
from gca_core.knowledge.bundled.catalogue import load_catalogue
from gca_core.knowledge.bundled.gene_sets import known_symbols, load_gene_sets
from gca_core.matrix.differential import DifferentialExpression, differential_expression
from gca_core.matrix.normalise import log_normalise
from gca_core.matrix.stats import univariate_model

N_CELLS, N_GENES = 5000, 15000
LIMIT_S, LIMIT_RATIO = 3.0, 10.0
# a tenth of gseapy's default, to be patient with
PERMUTATIONS = 100
PROGRAMME = "HALLMARK_INTERFERON_ALPHA_RESPONSE"
T = TypeVar("T")


def made_cells(n_cells: int, n_genes: int) -> tuple[sp.csr_matrix, np.ndarray, list[str]]:
    """Log-normalised cells of about 2,000 UMIs, half of them with interferon genes raised, and which these are."""
    rng = np.random.default_rng(0)
    raised = load_gene_sets("hallmark")[PROGRAMME]
    others = sorted(known_symbols() - raised)
    genes = [*sorted(raised), *others][:n_genes]
    share = rng.lognormal(0, 2.0, n_genes)
    treated = np.arange(n_cells) < n_cells // 2
    up = np.where(np.isin(genes, list(raised)), 4.0, np.where(rng.random(n_genes) < 0.03, 0.4, 1.0))
    parts = []
    for start in range(0, n_cells, 500):
        rates = np.where(treated[start : start + 500, None], share * up, share)
        parts.append(sp.csr_matrix(rng.poisson(2000 * rates / rates.sum(axis=1, keepdims=True))))
    return log_normalise(sp.vstack(parts)), treated, genes


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call gives, and its CPU seconds over all threads: as long or longer than it takes on an idle machine."""
    begun = time.process_time()
    found = call()
    return found, time.process_time() - begun


def ours(log: sp.csr_matrix, treated: np.ndarray, genes: list[str]) -> tuple[DifferentialExpression, pd.DataFrame, Any]:
    """Differential expression, enrichment of all bundled sets, and the score with its parts."""
    found = differential_expression(log[treated], log[~treated], genes, generated=True)
    everything = GroundingConfig(max_padj=1.0)
    expectation = expectation_of(load_catalogue().get("interferon beta"))
    return found, enriched_sets(found, everything), score_response(found, expectation, load_knowledge())


def by_scanpy(log: sp.csr_matrix, treated: np.ndarray, genes: list[str]) -> pd.DataFrame:
    """The same genes by scanpy's Wilcoxon."""
    obs = pd.DataFrame(
        {"side": pd.Categorical(np.where(treated, "treated", "control"))}, index=map(str, range(len(treated)))
    )
    cells = ad.AnnData(log, obs=obs, var=pd.DataFrame(index=genes))
    sc.tl.rank_genes_groups(cells, "side", groups=["treated"], reference="control", method="wilcoxon", tie_correct=True)
    return sc.get.rank_genes_groups_df(cells, "treated").set_index("names").loc[genes]


def by_gseapy(gseapy: Any, found: DifferentialExpression) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same sets by gseapy: over-representation of what rises and falls, and its ranked method."""
    measured = [gene for gene, lfc in zip(found.genes, found.lfc, strict=True) if lfc != 0]
    hits = {direction: found.strongest(direction) for direction in ("up", "down")}
    rows, ranked = [], []
    ranking = pd.Series(found.lfc, index=list(found.genes))[measured].sort_values(ascending=False)
    for collection in BUNDLED:
        sets = {name: sorted(members) for name, members in load_gene_sets(collection).items()}
        for direction, genes in hits.items():
            table = gseapy.enrich(
                gene_list=genes, gene_sets=sets, background=measured, outdir=None, no_plot=True
            ).results
            rows.append(table.assign(collection=collection, direction=direction))
        peer = gseapy.prerank(
            rnk=ranking,
            gene_sets=sets,
            min_size=5,
            max_size=500,
            permutation_num=PERMUTATIONS,
            outdir=None,
            threads=2,
            seed=0,
            no_plot=True,
        )
        ranked.append(peer.res2d.assign(collection=collection))
    return pd.concat(rows), pd.concat(ranked)


def main() -> None:
    """Print the tables, and fail where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=N_CELLS)
    parser.add_argument("--genes", type=int, default=N_GENES)
    options = parser.parse_args()
    log, treated, genes = made_cells(options.cells, options.genes)
    print(f"{log.shape[0]} cells x {log.shape[1]} genes, {log.nnz / log.shape[0]:.0f} genes a cell")
    (found, table, score), first = timed(lambda: ours(log, treated, genes))
    bundled_sets.cache_clear()
    again = min(timed(lambda: ours(log, treated, genes))[1] for _ in range(2))
    tested = timed(lambda: differential_expression(log[treated], log[~treated], genes))[1]
    print(f"ours: {first:.2f} s with the knowledge read, {again:.2f} s after, of these {tested:.2f} s for the genes")
    print(f"{int(found.is_de.sum())} genes, {len(table)} sets; score {score.score:.2f}")

    theirs, scanpy_s = timed(lambda: by_scanpy(log, treated, genes))
    gap = np.nanmax(
        np.abs(np.log10(np.maximum(found.wilcoxon_p, 1e-300)) - np.log10(np.maximum(theirs["pvals"], 1e-300)))
    )
    same = float(((theirs["pvals_adj"] <= 0.05) == (found.wilcoxon_padj <= 0.05)).mean())
    print(
        f"scanpy's Wilcoxon: {scanpy_s:.1f} s; largest gap of log10 p {gap:.1e}; "
        f"same verdict at 0.05 on {same:.2%} of genes"
    )
    try:
        gseapy = require("gseapy", "bench")
        decoupler = require("decoupler", "bench")
    except ConfigurationError as error:
        raise SystemExit(f"the rest is skipped: {error}") from None
    (fisher, ranked), gseapy_s = timed(lambda: by_gseapy(gseapy, found))
    own = table.set_index("name")
    for direction in ("up", "down"):
        peer = fisher[fisher["direction"] == direction].set_index("Term")["P-value"]
        shared = own.index.intersection(peer.index)
        gap = np.abs(np.log10(own.loc[shared, f"p_{direction}"]) - np.log10(peer[shared].astype(float))).max()
        print(f"gseapy's enrich, {direction}: {len(shared)} sets, largest gap of log10 p {gap:.1e}")
    peer = ranked.set_index("Term")
    shared = own.index.intersection(peer.index)
    nes, padj = peer.loc[shared, "NES"].astype(float), peer.loc[shared, "FDR q-val"].astype(float)
    rho = float(spearmanr(own.loc[shared, "z"], nes).statistic)
    clear = (own.loc[shared, "padj"] <= 0.05) & (padj <= 0.05)
    signs = float((np.sign(own.loc[shared, "z"]) == np.sign(nes))[clear].mean())
    print(
        f"gseapy's prerank: {len(shared)} sets, Spearman of z and NES {rho:.3f}; same sign in {signs:.1%} of "
        f"{int(clear.sum())} that both find"
    )
    total = scanpy_s + gseapy_s
    print(f"scanpy and gseapy: {scanpy_s:.1f} + {gseapy_s:.1f} s, {total / again:.0f} times ours")

    footprints = load_knowledge().footprints
    net = pd.DataFrame(
        [(path, gene, weight) for path, own_ in footprints.items() for gene, weight in own_.items()],
        columns=["source", "target", "weight"],
    )
    # decoupler leaves out genes that are zero throughout
    changed = found.lfc != 0
    names = [gene for gene, kept in zip(genes, changed, strict=True) if kept]
    activity, _ = decoupler.mt.ulm(pd.DataFrame([found.lfc[changed]], index=["prediction"], columns=names), net=net)
    (t,) = univariate_model(weight_matrix(footprints, names), found.lfc[changed])
    gap = float(np.abs(activity.iloc[0].loc[list(footprints)].to_numpy() - t).max())
    print(f"decoupler's ulm: {len(footprints)} footprints, largest gap of t {gap:.1e}")
    assert again < LIMIT_S, f"{again:.2f} s for {LIMIT_S} allowed"
    assert total / again >= LIMIT_RATIO, f"{total / again:.1f} times as fast; {LIMIT_RATIO} expected"


if __name__ == "__main__":
    main()
