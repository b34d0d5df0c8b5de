"""Counts whose mean log1p(CP10k) is what was asked for.

Adding a shift to log values and drawing counts from them misses the mean for sparse genes: the
logarithm of a Poisson draw is not a draw around the logarithm. Here each gene instead gets one
probability of keeping a count (its mean has to fall) or one rate of adding counts (it has to rise),
chosen so that the expected mean of log1p(CP10k) over the cells is the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.special import gammaln, xlogy
from scipy.stats import binom
from scipy.stats.sampling import DiscreteAliasUrn

TARGET_SUM = 1e4
LIBRARY_BINS = 12
MAX_EXACT_COUNT = 30
GRID = 160
MAX_RATE = 2000.0
OUTER_ROUNDS = 3
TOLERANCE = 1e-4

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GeneRates:
    """Per gene: the probability of keeping each count, and the rate of added counts per 10,000.

    Attributes:
        keep: (n_genes,), 1 where nothing is removed.
        add: (n_genes,), 0 where nothing is added.
        reachable: (n_genes,), False where the target lies outside what rates can reach.
    """

    keep: Array
    add: Array
    reachable: npt.NDArray[np.bool_]


def solve_rates(counts: sp.csr_matrix, means: Array, target: Array) -> GeneRates:
    """Rates with which the expected mean log1p(CP10k) of each gene is ``target``.

    The expected mean is tabulated over (count, library bin, rate); a gene's curve is its cells'
    histogram over (count, library bin) times the table, and is inverted by interpolation:
    O(stored values + genes x counts x bins x grid). The library sizes that the change itself brings
    about are found in three rounds.

    Args:
        counts: cells x genes, integers.
        means: (n_genes,) their mean log1p(CP10k).
        target: (n_genes,) wanted mean of log1p(CP10k).
    """
    original = libraries = np.maximum(np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(), 1.0)
    bins = _library_bins(libraries)
    values, histogram = _histogram(counts, bins)
    # the residue of binning is carried along, so that an unchanged gene stays exactly unchanged
    residue = means - _unchanged(values, histogram, _centres(libraries, bins))
    rates = GeneRates(np.ones(counts.shape[1]), np.zeros(counts.shape[1]), np.ones(counts.shape[1], dtype=bool))
    for _ in range(OUTER_ROUNDS):
        rates = _solve(values, histogram, _centres(libraries, bins), residue, target)
        kept = np.asarray(counts @ rates.keep).ravel()
        # added counts scale with the library, so their sum is a share of it
        libraries = np.clip(kept / np.maximum(1.0 - rates.add.sum() / TARGET_SUM, 0.5), 0.5 * original, 2.0 * original)
    return rates


def draw(counts: sp.csr_matrix, rates: GeneRates, rng: np.random.Generator) -> sp.csr_matrix:
    """One draw of counts: thinned where a gene falls, with Poisson counts added where it rises."""
    kept = counts.astype(np.int32, copy=True)
    chance = rates.keep.astype(np.float32)[kept.indices]
    # most counts are 1, and a coin is far cheaper than a binomial
    several = np.flatnonzero((kept.data > 1) & (chance < 1))
    thinned = rng.binomial(kept.data[several], chance[several])
    kept.data *= rng.random(len(chance), dtype=np.float32) < chance
    kept.data[several] = thinned
    share = min(rates.add.sum() / TARGET_SUM, 0.5)
    libraries = np.asarray(kept.sum(axis=1), dtype=np.float64).ravel() / (1.0 - share)
    # a gene's counts in all cells, dealt out by the cells' libraries: the same as a Poisson draw in each cell
    total = rng.poisson(rates.add * libraries.sum() / TARGET_SUM)
    if total.any():
        urn = DiscreteAliasUrn(libraries / libraries.sum(), random_state=rng)
        cells = np.asarray(urn.rvs(int(total.sum())), dtype=np.int32)
        genes = np.repeat(np.arange(len(total), dtype=np.int32), total)
        kept = kept + sp.csr_matrix((np.ones(len(genes), dtype=np.int32), (cells, genes)), shape=counts.shape)
    result = sp.csr_matrix(kept)
    result.eliminate_zeros()
    result.sort_indices()
    return result


def _solve(values: Array, histogram: sp.csr_matrix, centres: Array, residue: Array, target: Array) -> GeneRates:
    wanted = target - residue
    unchanged = _unchanged(values, histogram, centres)
    keep, add = np.ones(len(target)), np.zeros(len(target))
    reachable = np.ones(len(target), dtype=bool)
    falling, rising = wanted < unchanged - TOLERANCE, wanted > unchanged + TOLERANCE
    if falling.any():
        grid = np.linspace(0.0, 1.0, GRID)
        curves = histogram[falling] @ _thinning_table(values, centres, grid)
        keep[falling], reachable[falling] = _invert(curves, grid, wanted[falling])
        silenced = falling & (target <= 0)
        keep[silenced], reachable[silenced] = 0.0, True
    if rising.any():
        grid = np.concatenate(([0.0], np.geomspace(1e-4, MAX_RATE, GRID - 1)))
        curves = histogram[rising] @ _adding_table(values, centres, grid)
        add[rising], reachable[rising] = _invert(curves, grid, wanted[rising])
    return GeneRates(keep, add, reachable)


def _unchanged(values: Array, histogram: sp.csr_matrix, centres: Array) -> Array:
    """Mean log1p(CP10k) of each gene, by its histogram."""
    return np.asarray(histogram @ np.log1p(values[:, None] * TARGET_SUM / centres[None, :]).ravel())


def _library_bins(libraries: Array) -> npt.NDArray[np.int64]:
    """Bin of each cell by library size."""
    bins = np.empty(len(libraries), dtype=np.int64)
    n_bins = min(LIBRARY_BINS, len(libraries))
    bins[np.argsort(libraries, kind="stable")] = np.arange(len(libraries)) * n_bins // len(libraries)
    return bins


def _centres(libraries: Array, bins: npt.NDArray[np.int64]) -> Array:
    """Geometric mean library of each bin."""
    return np.exp(np.bincount(bins, weights=np.log(libraries)) / np.bincount(bins))


def _histogram(counts: sp.csr_matrix, bins: npt.NDArray[np.int64]) -> tuple[Array, sp.csr_matrix]:
    """Share of the cells in each (count, library bin) per gene, genes x (counts * bins).

    Counts above ``MAX_EXACT_COUNT`` fall into geometric classes, each represented by its middle.
    """
    n_cells, n_genes = counts.shape
    coarse = np.unique(np.rint(np.geomspace(MAX_EXACT_COUNT + 1, max(counts.max(), MAX_EXACT_COUNT + 2), 30)))
    values = np.concatenate((np.arange(MAX_EXACT_COUNT + 1, dtype=np.float64), coarse))
    edges = (values[1:] + values[:-1]) / 2
    per_bin = np.bincount(bins)
    shape = (n_genes, len(values), len(per_bin))
    key = counts.data.astype(np.int64)
    large = np.flatnonzero(key > MAX_EXACT_COUNT)
    key[large] = np.searchsorted(edges, key[large], side="left")
    key *= len(per_bin)
    key += np.repeat(bins, np.diff(counts.indptr))
    key += counts.indices.astype(np.int64) * (shape[1] * shape[2])
    filled = np.bincount(key, minlength=math.prod(shape)).reshape(shape)
    filled[:, 0] = per_bin - filled[:, 1:].sum(axis=1)
    return values, sp.csr_matrix(sp.csr_matrix(filled.reshape(n_genes, -1)) / n_cells)


def _thinning_table(values: Array, centres: Array, grid: Array) -> Array:
    """E[log1p(a * Binomial(x, p))] for every (x, library) and p, (counts * bins) x grid."""
    table = np.empty((len(values), len(centres), len(grid)))
    for i, value in enumerate(values):
        table[i] = _expected_binomial(int(value), centres, grid)
    return table.reshape(-1, len(grid))


def _expected_binomial(value: int, centres: Array, grid: Array) -> Array:
    if value <= MAX_EXACT_COUNT:
        outcomes = np.arange(value + 1)
        probability = binom.pmf(outcomes[:, None], value, grid[None, :])
        return np.asarray(np.log1p(outcomes[None, :] * TARGET_SUM / centres[:, None]) @ probability)
    mean = value * grid[None, :]
    return _second_order(mean, value * (grid * (1 - grid))[None, :], TARGET_SUM / centres[:, None])


def _adding_table(values: Array, centres: Array, grid: Array) -> Array:
    """E[log1p(a * (x + Poisson(rate / a)))] for every (x, library) and rate per 10,000."""
    table = np.empty((len(values), len(centres), len(grid)))
    for b, centre in enumerate(centres):
        scale = TARGET_SUM / centre
        means = grid / scale
        small = means <= MAX_EXACT_COUNT
        outcomes = np.arange(int(MAX_EXACT_COUNT + 8 * np.sqrt(MAX_EXACT_COUNT)) + 1)
        probability = np.exp(xlogy(outcomes[:, None], means[small]) - means[small] - gammaln(outcomes[:, None] + 1))
        logs = np.log1p((values[:, None] + outcomes[None, :]) * scale)
        # threads of BLAS meet later than so small a product is done
        table[:, b, small] = np.einsum("ij,jk->ik", logs, probability)
        large = means[~small][None, :]
        table[:, b, ~small] = _second_order(values[:, None] + large, large, np.full((len(values), 1), scale))
    return table.reshape(-1, len(grid))


def _second_order(mean: Array, variance: Array, scale: Array) -> Array:
    """Second-order expansion of E[log1p(scale * X)], good where the mean is large."""
    return np.asarray(np.log1p(scale * mean) - 0.5 * variance * (scale / (1 + scale * mean)) ** 2)


def _invert(curves: Array, grid: Array, wanted: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Where each rising curve reaches the wanted value, by linear interpolation between grid points."""
    curves = np.maximum.accumulate(curves, axis=1)
    reachable = (wanted >= curves[:, 0] - TOLERANCE) & (wanted <= curves[:, -1] + TOLERANCE)
    upper = np.clip((curves < wanted[:, None]).sum(axis=1), 1, len(grid) - 1)
    rows = np.arange(len(wanted))
    low, high = curves[rows, upper - 1], curves[rows, upper]
    part = np.clip((wanted - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    return grid[upper - 1] + part * (grid[upper] - grid[upper - 1]), reachable
