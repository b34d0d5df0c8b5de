import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp

from gca_core.datasets import kang2018_mini
from gca_core.inference.resample import draw, solve_rates
from gca_core.matrix.compare import log_fold_change, pearson
from gca_core.matrix.normalise import log_normalise


def mean_log(counts: sp.csr_matrix) -> npt.NDArray[np.float64]:
    return np.asarray(log_normalise(counts, dtype=np.float64).mean(axis=0)).ravel()


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    rng = np.random.default_rng(0)
    rates = np.tile(np.geomspace(0.02, 60, 300), (800, 1)) * rng.lognormal(0, 0.4, (800, 1))
    return sp.csr_matrix(rng.poisson(rates))


def realised_change(
    counts: sp.csr_matrix, shift: npt.NDArray[np.float64], seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What a draw changed, and what was wanted."""
    before = mean_log(counts)
    target = np.maximum(before + shift, 0)
    drawn = draw(counts, solve_rates(counts, before, target), np.random.default_rng(seed))
    return mean_log(drawn) - before, target - before


def test_no_shift_changes_no_count(counts: sp.csr_matrix) -> None:
    drawn = draw(counts, solve_rates(counts, mean_log(counts), mean_log(counts)), np.random.default_rng(0))
    assert (drawn != counts).nnz == 0


def test_risen_and_fallen_genes_reach_their_mean(counts: sp.csr_matrix) -> None:
    # balanced, so that the libraries can stay as they are
    shift = np.zeros(300)
    shift[100:150], shift[200:230] = 0.4, -0.3
    got, wanted = realised_change(counts, shift)
    assert np.abs(got - wanted)[[*range(100, 150), *range(200, 230)]].max() < 0.12
    assert pearson(got, wanted) > 0.98


def test_a_gene_can_be_silenced(counts: sp.csr_matrix) -> None:
    target = mean_log(counts)
    target[150] = 0.0
    drawn = draw(counts, solve_rates(counts, mean_log(counts), target), np.random.default_rng(0))
    assert drawn[:, 150].sum() == 0


def test_a_silent_gene_can_be_raised(counts: sp.csr_matrix) -> None:
    silent = counts.tolil()
    silent[:, 5] = 0
    silent = sp.csr_matrix(silent)
    target = mean_log(silent)
    target[5] = 0.5
    drawn = draw(silent, solve_rates(silent, mean_log(silent), target), np.random.default_rng(0))
    assert abs(mean_log(drawn)[5] - 0.5) < 0.08
    # added counts go to cells in proportion to their libraries
    libraries, added = (np.asarray(part.sum(axis=1)).ravel() for part in (silent, drawn[:, 5]))
    deep = libraries > np.median(libraries)
    assert added[deep].sum() / added.sum() == pytest.approx(libraries[deep].sum() / libraries.sum(), rel=0.1)


def test_one_cell_and_empty_cells_are_no_trouble() -> None:
    cells = sp.csr_matrix(np.array([[0, 0, 0], [3, 1, 0]]))
    for rows in (cells, cells[1:]):
        drawn = draw(rows, solve_rates(rows, mean_log(rows), mean_log(rows) + 0.1), np.random.default_rng(0))
        assert drawn.shape == rows.shape
        assert (drawn.data >= 0).all()


def test_the_same_seed_draws_the_same_and_another_does_not(counts: sp.csr_matrix) -> None:
    rates = solve_rates(counts, mean_log(counts), mean_log(counts) + 0.2)
    first, again, other = (draw(counts, rates, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first != again).nnz == 0
    assert (first != other).nnz > 0


def test_a_real_response_is_reproduced_where_drawing_from_shifted_values_is_not() -> None:
    cells = kang2018_mini()
    types, stimulated = cells.obs["cell_type_ontology_id"], cells.obs["condition"] == "stim"

    def counts_of(identifier: str, perturbed: bool) -> sp.csr_matrix:
        rows = ((types == identifier) & (stimulated == perturbed)).to_numpy(dtype=bool, na_value=False)
        return sp.csr_matrix(cells[rows].X)

    shift = log_fold_change(counts_of("CL:0002396", True), counts_of("CL:0002396", False))
    query = counts_of("CL:0002057", False)
    got, wanted = realised_change(query, shift)
    assert pearson(got, shift) > 0.98
    shifted = np.expm1(np.maximum(log_normalise(query, dtype=np.float64).toarray() + shift, 0))
    libraries = np.asarray(query.sum(axis=1)).reshape(-1, 1)
    naive = np.random.default_rng(0).poisson(shifted / shifted.sum(axis=1, keepdims=True) * libraries)
    naive_change = mean_log(sp.csr_matrix(naive)) - mean_log(query)
    assert np.mean((got - wanted) ** 2) < 0.2 * np.mean((naive_change - wanted) ** 2)
