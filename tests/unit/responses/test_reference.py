"""The reference response and its forecast, on responses of known structure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gca_core.errors import DataValidationError
from gca_core.matrix.compare import pearson
from gca_core.responses import reference
from gca_core.responses.backtest import SUPPORTS, backtest
from gca_core.responses.covariance import Covariance, Shares
from gca_core.responses.left_out import Support, leave_out
from gca_core.responses.measured import Measured, pool_groups, type_distances
from gca_core.responses.reference import Reference, weigh

GENES = 400


def simulated(n_perturbations: int = 12, n_types: int = 4, *, share: float = 0.9, seed: int = 0) -> Measured:
    """Mixtures of six programs; types in two families; ``share`` of the pairs was measured."""
    rng = np.random.default_rng(seed)
    programs = rng.standard_normal((6, GENES))
    acting = rng.standard_normal((n_perturbations, 6))
    family = np.arange(n_types) % 2
    gain = np.exp(0.5 * rng.standard_normal((2, 6)))[family] + 0.1 * rng.standard_normal((n_types, 6))
    pairs = [(p, t) for p in range(n_perturbations) for t in range(n_types) if rng.random() < share]
    p, t = np.array(pairs).T
    cells = rng.integers(20, 500, len(pairs)).astype(float)
    noise = rng.standard_normal((len(pairs), GENES)) * np.sqrt(100 / cells)[:, None]
    unit = acting / np.linalg.norm(acting, axis=1, keepdims=True)
    return Measured(
        perturbations=[f"p{i}" for i in range(n_perturbations)],
        cell_types=[f"t{i}" for i in range(n_types)],
        perturbation=p,
        cell_type=t,
        responses=(acting[p] * gain[t]) @ programs + noise,
        likeness=unit @ unit.T,
        distances=np.where(family[:, None] == family[None, :], 0.1, 0.4) * (1 - np.eye(n_types)),
        n_cells=cells,
        n_donors=np.full(len(pairs), 2.0),
    )


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_a_left_out_pair_gets_what_the_rest_says_of_it(support: Support) -> None:
    data, shares = simulated(), Shares(noise=0.5)
    p, t = data.perturbation, data.cell_type
    left = leave_out(Covariance(data), support, shares)
    assert len(left.pairs) == len(data)
    for row in (0, len(data) // 2, len(data) - 1):
        same, own = p == p[row], t == t[row]
        gone = {(1, 1): same & own, (1, 0): own, (0, 1): same, (0, 0): same | own}[support]
        rest = np.flatnonzero(~gone)
        part = data.take(rest, p[row], t[row])
        asked = [list(part.perturbations).index(f"p{p[row]}"), list(part.cell_types).index(f"t{t[row]}")]
        weights, uncertainty = weigh(Covariance(part), *asked, shares)
        assert np.allclose(left.weights[row, rest], weights)
        assert not left.weights[row, gone].any()
        assert left.uncertainty[row] == pytest.approx(uncertainty)


def test_the_reference_beats_the_mean_shift_and_knows_how_good_it_is() -> None:
    data = simulated(14, 5, share=0.8, seed=1)
    measured = {pair: row for row, pair in enumerate(zip(data.perturbation, data.cell_type, strict=True))}
    ours, shift, inside = [], [], []
    for (p, t), row in list(measured.items())[::6]:
        keep = np.arange(len(data)) != row
        answer = Reference(data.take(np.flatnonzero(keep), p, t)).answer(f"p{p}", f"t{t}")
        ours.append(pearson(answer.change, data.responses[row]))
        shift.append(pearson(data.responses[keep & (data.perturbation == p)].mean(axis=0), data.responses[row]))
        assert answer.forecast is not None
        inside.append(answer.forecast.pearson.low <= ours[-1] <= answer.forecast.pearson.high)
    assert np.mean(ours) > np.mean(shift) + 0.05
    assert 0.75 <= np.mean(inside) <= 1


def test_the_order_of_rows_and_names_decides_nothing() -> None:
    data = simulated()
    first = Reference(data).answer("p3", "t1")
    again = Reference(data.take(np.arange(len(data))[::-1])).answer("p3", "t1")
    assert np.allclose(first.change, again.change) and np.allclose(first.weights[::-1], again.weights)
    assert first.forecast is not None and first.forecast == Reference(data).answer("p3", "t1").forecast
    assert first.weights @ data.responses == pytest.approx(first.change)


def test_few_cells_and_few_donors_count_less() -> None:
    data = simulated(1, 3, share=1.0)
    data = replace(data, distances=0.2 * (1 - np.eye(3)), n_cells=np.array([1e4, 1e4, 30.0]), n_donors=np.ones(3))
    few = Reference(replace(data, n_cells=np.array([10.0, 1e4, 30.0]))).answer("p0", "t2").weights
    many = Reference(replace(data, n_donors=np.array([5.0, 1.0, 1.0]))).answer("p0", "t2").weights
    assert few[0] < few[1] and many[0] > many[1]
    assert few[2] == many[2] == 0


@pytest.mark.parametrize(("n_perturbations", "n_types"), [(1, 3), (3, 1)])
def test_a_small_atlas_gets_an_answer_by_the_defaults_and_no_forecast(n_perturbations: int, n_types: int) -> None:
    found = Reference(simulated(n_perturbations, n_types, share=1.0))
    answer = found.answer("p0", "t0")
    assert answer.forecast is None and found.shares(answer.support) == Shares()
    assert np.linalg.norm(answer.change) > 0


def test_a_large_atlas_is_fitted_on_a_part_and_answers_from_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    data = simulated(20, 4)
    whole = Reference(data).answer("p3", "t1")
    monkeypatch.setattr(reference, "PANEL", 40)
    monkeypatch.setattr(reference, "MOST_PAIRS", 30)
    part = Reference(data).answer("p3", "t1")
    assert np.count_nonzero(part.weights) == 30
    assert pearson(part.change, whole.change) > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"responses": np.full((2, 3), np.nan)}, "not finite"),
        ({"perturbation": np.zeros(2, dtype=int), "cell_type": np.zeros(2, dtype=int)}, "comes twice"),
        ({"likeness": np.ones((2, 2))}, "likeness has the shape"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    good = {
        "perturbation": np.zeros(2, dtype=int),
        "cell_type": np.arange(2),
        "responses": np.ones((2, 3)),
        "likeness": np.ones((1, 1)),
        "distances": np.zeros((2, 2)),
    }
    with pytest.raises(DataValidationError, match=message):
        Measured(perturbations=["p"], cell_types=["a", "b"], **good | change)


def test_nothing_else_measured_or_an_unknown_name_is_an_error() -> None:
    data = simulated(1, 1, share=1.0)
    for names, message in ((("p0", "t0"), "no other response"), (("p0", "tx"), "'tx' is not among")):
        with pytest.raises(DataValidationError, match=message):
            Reference(data).answer(*names)


def test_types_without_control_profiles_stand_by_the_ontology() -> None:
    rng = np.random.default_rng(0)
    profiles = np.vstack([rng.random((2, 50)), np.full((1, 50), np.nan)])
    steps = np.array([[0, 2, 3], [2, 0, np.nan], [3, np.nan, 0]])
    found = type_distances(profiles, steps)
    assert found[0, 1] == pytest.approx(1 - np.corrcoef(profiles[:2])[0, 1])
    assert found[0, 2] == pytest.approx(0.09) and found[1, 2] == 2.0


def test_groups_of_donors_are_pooled_by_their_cells() -> None:
    found = pool_groups(
        ["p", "q"],
        ["a", "b"],
        [("q", "a"), ("p", "b"), ("q", "a")],
        np.array([[0.0, 4.0], [7.0, 7.0], [4.0, 0.0]]),
        np.eye(2),
        np.zeros((2, 2)),
        n_cells=np.array([30, 5, 10]),
        donors=["D1", "D1", "D2"],
    )
    assert found.perturbation.tolist() == [0, 1] and found.cell_type.tolist() == [1, 0]
    assert found.responses.tolist() == [[7.0, 7.0], [1.0, 3.0]]
    assert found.n_cells is not None and found.n_cells.tolist() == [5, 40]
    assert found.n_donors is not None and found.n_donors.tolist() == [1, 2]


def test_a_backtest_sets_the_reference_beside_plain_answers() -> None:
    found = {regime.support: regime for regime in backtest(Reference(simulated(16, 4)))}
    assert len(found) == 4
    for regime in found.values():
        reached = {row.answer: row for row in regime.rows}
        assert 0.8 <= regime.coverage <= 1 and reached["no change"].pearson == 0
        others = reached.keys() - {"reference"}
        assert all(reached["reference"].pearson > reached[name].pearson - 0.02 for name in others)
        assert all(row.ahead_low <= row.ahead <= row.ahead_high for row in regime.rows)
    both = {row.answer for row in found[str(SUPPORTS[0])].rows}
    assert both == {"reference", "mean shift of other types", "nearest type", "type's mean response", "no change"}
