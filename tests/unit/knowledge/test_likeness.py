import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.knowledge.bundled.catalogue import PerturbationEntry, load_catalogue
from gca_core.knowledge.bundled.genetic import resolve_perturbation
from gca_core.knowledge.bundled.likeness import likeness_matrix, perturbation_similarity, shared

CATALOGUE = load_catalogue()
NAMES = sorted(CATALOGUE.entries)


def entry(name: str) -> PerturbationEntry:
    found = resolve_perturbation(name, CATALOGUE)
    assert found is not None
    return found


@given(st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_similarity_is_symmetric_and_bounded(a: str, b: str) -> None:
    one, other = entry(a), entry(b)
    assert perturbation_similarity(one, other) == pytest.approx(perturbation_similarity(other, one))
    assert -1 <= perturbation_similarity(one, other) <= perturbation_similarity(one, one) + 1e-9


def test_the_same_pathway_in_the_other_direction_counts_against() -> None:
    assert perturbation_similarity(entry("interferon gamma"), entry("STAT1 overexpression")) > 0
    assert perturbation_similarity(entry("interferon gamma"), entry("STAT1 knockout")) < 0
    assert perturbation_similarity(entry("ruxolitinib"), entry("JAK2 knockout")) > 0


def test_two_knockouts_are_not_alike_because_they_are_knockouts() -> None:
    assert perturbation_similarity(entry("STAT1 knockout"), entry("MYOD1 knockout")) <= 0.05


def test_what_is_shared_is_named_with_its_direction() -> None:
    common = shared(entry("interleukin 4"), entry("interleukin 13"))
    assert "IL4R" in common
    assert "IL4R" not in shared(entry("interleukin 4"), entry("dupilumab"))


def test_all_pairs_at_once_are_as_one_by_one() -> None:
    known = [entry(name) for name in (*NAMES[::9], "STAT1 knockout", "STAT1 overexpression")]
    found = likeness_matrix([*known, None])
    assert np.isnan(found[-1]).all() and np.isnan(found[:, -1]).all()
    assert found[:-1, :-1] == pytest.approx(np.array([[perturbation_similarity(a, b) for b in known] for a in known]))
