import numpy as np
import pytest

from gca_core.annotation.adata import embedding


# the search takes most of a minute to compile
@pytest.mark.slow
def test_many_cells_are_clustered_by_an_approximate_search(monkeypatch):
    rng = np.random.default_rng(0)
    components = np.vstack([rng.normal(8 * i, 1.0, size=(60, 5)) for i in range(3)])
    exact = embedding.leiden_clusters(components, resolution=0.1, seed=0)
    monkeypatch.setattr(embedding, "MANY_CELLS", 100)
    found = embedding.leiden_clusters(components, resolution=0.1, seed=0)
    for clusters in (exact, found):
        assert [len(set(clusters[60 * i : 60 * (i + 1)])) for i in range(3)] == [1, 1, 1]
        assert len(clusters.categories) == 3
