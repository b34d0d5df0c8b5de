import igraph
import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from gca_core.datasets import pbmc68k_reduced
from gca_core.matrix import neighbours
from gca_core.matrix.neighbours import neighbour_graph


def blobs(n=60, k=3):
    rng = np.random.default_rng(0)
    return np.vstack([rng.normal(8 * i, 1.0, size=(n + 20 * i, 5)) for i in range(k)]), np.repeat(
        range(k), [60, 80, 100]
    )


def test_clusters_are_numbered_by_size_and_the_seed_decides():
    points, known = blobs()
    found = [neighbour_graph(points, seed).leiden(resolution=0.1, seed=seed) for seed in (0, 0)]
    assert found[0].tolist() == found[1].tolist() == (2 - known).tolist()


# the search takes most of a minute to compile
@pytest.mark.slow
def test_many_cells_are_clustered_by_an_approximate_search(monkeypatch):
    points, known = blobs()
    monkeypatch.setattr(neighbours, "MANY_CELLS", 100)
    assert neighbour_graph(points, 0).leiden(resolution=0.1, seed=0).tolist() == (2 - known).tolist()


def test_the_umap_keeps_neighbours_as_well_as_scanpys_does_and_better_than_igraphs():
    cells = pbmc68k_reduced()
    components = cells.obsm["X_pca"][:, :30]
    graph = neighbour_graph(components, 0)
    found = graph.umap(0)
    assert (found == graph.umap(0)).all()
    edges = igraph.Graph(n=cells.n_obs, edges=graph.pairs)
    other = np.array(edges.layout_umap(weights=graph.weights, epochs=50).coords)
    kept, scanpys, igraphs = (
        trustworthiness(components, at, n_neighbors=15) for at in (found, cells.obsm["X_umap"], other)
    )
    assert kept > scanpys - 0.01
    assert kept > igraphs + 0.03


@pytest.mark.parametrize("points", [np.zeros((2, 3)), np.ones((40, 1)), np.repeat(np.eye(4), 5, axis=0)])
def test_few_cells_and_cells_that_are_alike_have_places(points):
    graph = neighbour_graph(points, 0)
    assert np.isfinite(graph.umap(0)).all()
    assert graph.umap(0).shape == (len(points), 2)
    assert len(graph.leiden(resolution=1.0, seed=0)) == len(points)
