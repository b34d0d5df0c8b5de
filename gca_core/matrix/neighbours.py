"""The graph of near cells in a few dimensions, its Leiden clusters, and a UMAP of it, with nothing to compile first."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Floats = npt.NDArray[np.floating[Any]]

# with the cell itself, as scanpy counts
N_NEIGHBOURS = 15
# below so many cells a search takes less than the import of scikit-learn, .8 s
FEW_CELLS = 3_000
# from so many cells on, neighbours are searched approximately, which compiles for a while before it starts
MANY_CELLS = 100_000
# of the UMAP: with 100 epochs 9,069 PBMC keep their neighbours as well as with umap-learn (trustworthiness .97 both)
N_EPOCHS, N_REPELLING, MAX_STEP, WIDTH = 100, 5, 4.0, 10.0


@dataclass(frozen=True)
class NeighbourGraph:
    """Which of n cells are near each other.

    Attributes:
        coordinates: (n, k) that the distances were taken in.
        pairs: (e, 2) positions of cells, each pair once.
        weights: (e,) UMAP's: the probability that the two are neighbours, 1 for the nearest ones.
    """

    coordinates: Floats
    pairs: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]

    def leiden(self, *, resolution: float, seed: int) -> npt.NDArray[np.int64]:
        """(n,) Leiden clusters by modularity, numbered from 0 by size."""
        import igraph

        graph = igraph.Graph(n=len(self.coordinates), edges=self.pairs)
        igraph.set_random_number_generator(random.Random(seed))  # noqa: S311 - no secret
        try:
            found = graph.community_leiden("modularity", weights=self.weights, resolution=resolution, n_iterations=2)
        finally:
            igraph.set_random_number_generator(random)
        membership = np.asarray(found.membership, dtype=np.int64)
        order = np.argsort(-np.bincount(membership), kind="stable")
        return np.argsort(order)[membership]

    def umap(self, seed: int) -> npt.NDArray[np.float64]:
        """(n, 2) UMAP: near cells attract each other, cells drawn at random repel each other, all move at once.

        It starts from two principal components. The kernel is 1 / (1 + d^2), as of a ``min_dist`` of about 0.3.
        """
        n, chance = len(self.coordinates), np.random.default_rng(seed)
        one, other = self.pairs.T
        near = sp.csr_matrix((self.weights, (one, other)), shape=(n, n))
        near = sp.csr_matrix((near + near.T).astype(np.float32))
        rows, weights, degree = np.repeat(np.arange(n), np.diff(near.indptr)), near.data, np.asarray(near.sum(axis=1))
        at: Floats = _start(self.coordinates)
        for epoch in range(N_EPOCHS):
            pull = sp.csr_matrix((weights * _kernel(at[rows] - at[near.indices])[:, 0], near.indices, near.indptr))
            step = pull @ at - np.asarray(pull.sum(axis=1)) * at
            for _ in range(N_REPELLING):
                away = at - at[chance.permutation(n)]
                push = _kernel(away) / (0.001 + np.einsum("ij,ij->i", away, away)[:, None])
                step += degree * np.clip(push * away, -MAX_STEP, MAX_STEP)
            at = at + np.float32(1 - epoch / N_EPOCHS) * np.clip(step, -MAX_STEP, MAX_STEP)
        return at.astype(np.float64)


def neighbour_graph(coordinates: Floats, seed: int) -> NeighbourGraph:
    """The graph of each cell's 14 nearest neighbours by Euclidean distance in ``coordinates`` (n, k), n > 1."""
    import igraph

    points = np.ascontiguousarray(coordinates, dtype=np.float32)
    n, k = len(points), min(N_NEIGHBOURS, len(points)) - 1
    # a cell may be the nearest one of itself
    nearest, distances = _exact(points, k) if n < MANY_CELLS else _approximate(points, k, seed)
    pairs = np.column_stack([np.repeat(np.arange(n), nearest.shape[1]), nearest.ravel()]).astype(np.int64)
    real = (pairs[:, 1] >= 0) & (pairs[:, 0] != pairs[:, 1])
    pairs = pairs[real]
    graph = igraph.Graph(n=n, edges=pairs, directed=True)
    # of two cells that are each other's neighbours, one direction has the weight and the other has 0
    weights = np.asarray(igraph.umap_compute_weights(graph, distances.ravel()[real]), dtype=np.float64)
    return NeighbourGraph(points, pairs[weights > 0], weights[weights > 0])


def _exact(points: Floats, k: int) -> tuple[npt.NDArray[Any], Floats]:
    if len(points) < FEW_CELLS:
        from scipy.spatial import KDTree

        distances, nearest = KDTree(points).query(points, k + 1)
        return np.asarray(nearest), np.asarray(distances)
    from sklearn.neighbors import NearestNeighbors

    distances, nearest = NearestNeighbors(n_neighbors=k).fit(points).kneighbors()
    return nearest, distances


def _approximate(points: Floats, k: int, seed: int) -> tuple[npt.NDArray[Any], Floats]:
    from pynndescent import NNDescent  # type: ignore[import-untyped]

    nearest, distances = NNDescent(points, n_neighbors=k + 1, random_state=seed).neighbor_graph
    return nearest, distances


def _kernel(apart: Floats) -> Floats:
    """(n, 1) of twice the kernel at each distance."""
    near: Floats = (2 / (1 + np.einsum("ij,ij->i", apart, apart)))[:, None]
    return near


def _start(points: Floats) -> npt.NDArray[np.float32]:
    """(n, 2) the first two principal components, each over a width of 10; noise-free and the same each time."""
    centred = points - points.mean(axis=0)
    axes = np.linalg.eigh(np.cov(centred, rowvar=False).reshape(centred.shape[1], -1))[1][:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])] < 0, -1, 1)
    at = np.zeros((len(points), 2), np.float32)
    at[:, : axes.shape[1]] = centred @ axes
    return np.asarray(WIDTH * at / np.where(np.ptp(at, axis=0) > 0, np.ptp(at, axis=0), 1), dtype=np.float32)
