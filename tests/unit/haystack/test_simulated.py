"""The simulated atlas that the loop is judged on: its seeds decide everything, and it is as hard as it says."""

from itertools import combinations

import numpy as np
import pytest

from benchmarks.haystack_simulated import DONORS, FAMILIES, HELD_BACK, MAIN, OPPOSITES, TYPES, World
from gca_core.knowledge.bundled.catalogue import load_catalogue


@pytest.fixture(scope="module", params=[MAIN, HELD_BACK], ids=["main", "held back"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_seed_gives_the_same_rates_cells_and_truth(world: World) -> None:
    again = World(world.config)
    assert again.genes == world.genes
    asked = (world.perturbations[7], "CL:0000236")
    assert np.array_equal(world.truth(*asked, n=5), again.truth(*asked, n=5))
    cells = [w.draw(5, *asked, 0, np.random.default_rng(1)).toarray() for w in (world, again)]
    assert np.array_equal(*cells)
    assert 2000 < cells[0].sum(axis=1).mean() < 4500


def test_neighbours_are_from_a_third_to_nine_tenths_alike_and_opposites_against(world: World) -> None:
    assert len(world.perturbations) >= 40
    assert len(TYPES) == 8 and len(DONORS) == 4
    assert all(load_catalogue().get(name) for name in world.perturbations)
    drives = world.drives
    alike = [cosine(drives[next(iter(m))], drives[n]) for _, _, m in FAMILIES for n in list(m)[1:]]
    assert min(alike) == pytest.approx(0.3) and max(alike) == pytest.approx(0.9)
    respond = {name: world.mean_response(name) for name in drives}
    seen = [cosine(respond[next(iter(m))], respond[n]) for _, _, m in FAMILIES for n in list(m)[1:]]
    assert min(seen) < 0.4 < 0.5 < np.median(seen) < 0.7 < 0.75 < max(seen)
    assert all(cosine(respond[o], respond[p]) < -0.2 for o, partners in OPPOSITES.items() for p in partners)
    unlike = [
        cosine(drives[a], drives[b]) for a, b in combinations(world.family, 2) if world.family[a] != world.family[b]
    ]
    assert abs(np.mean(unlike)) < 0.1


def test_responses_are_no_sum_of_perturbation_and_type(world: World) -> None:
    full = np.array(
        [[np.mean([world.response(p, t, d) for d in range(4)], axis=0) for t in TYPES] for p in world.perturbations]
    )
    mean = full.mean((0, 1))
    left = full - full.mean(1, keepdims=True) - full.mean(0, keepdims=True) + mean
    assert (left**2).sum() / ((full - mean) ** 2).sum() > 0.25


def test_a_question_hides_its_answer_and_what_its_regime_says(world: World) -> None:
    held = {(p, t) for p in world.perturbations for t in TYPES}
    asked = world.questions(held, 5)
    assert [q.regime for q in asked[::5]] == list(dict.fromkeys(q.regime for q in asked))
    for question in asked:
        assert (question.perturbation, question.cell_type_id) in question.hidden
        shown = {p for p, _ in held - question.hidden}
        assert (question.perturbation in shown) == (question.regime == "same perturbation elsewhere")
        if question.regime == "decoy":
            assert question.decoys <= shown
        if question.regime == "nothing good":
            assert all(cosine(world.drives[p], world.drives[question.perturbation]) <= 0.3 for p in shown)
