import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gca_core.haystack.models import IterationConfig, Strategy
from gca_core.haystack.prompts.from_reference import Guide, first_drafts, reference_draft
from gca_core.haystack.prompts.strategies import CandidatePool, PromptDraft
from gca_core.haystack.reference import AtlasReference
from gca_core.responses.left_out import Support
from gca_core.responses.measured import Measured
from gca_core.responses.reference import Answer, Reference
from tests.helpers.haystack_atlas import cell_group

NAMES = ["interferon beta", "interferon gamma"]
TYPES = ["CL:0000236", "CL:0002057", "CL:0002396"]


def guide_of(
    responses: np.ndarray, change: list[float], weights: list[float] | None = None, likeness: float = np.nan
) -> Guide:
    """One perturbation in three types, two groups of the first; the last response may be of another perturbation."""
    other = not np.isnan(likeness)
    groups = [cell_group(NAMES[0], t) for t in TYPES[:2]] + [cell_group(NAMES[int(other)], TYPES[2])]
    groups.append(cell_group(NAMES[0], TYPES[0], dataset="other", n_cells=600))
    alike = np.array([[1.0, likeness], [likeness, 1.0]])
    data = Measured(NAMES, TYPES, np.array([0, 0, int(other)]), np.arange(3), responses, alike, np.zeros((3, 3)))
    genes = [f"G{i}" for i in range(responses.shape[1])]
    answer = Answer(np.array(change), np.array(weights or [1.0] * 3), Support(True, False), None)
    return Guide(AtlasReference(Reference(data), genes, tuple(groups), {n: n for n in NAMES}, ""), answer, NAMES[0])


def weights_of(draft: PromptDraft) -> dict[tuple[str, str], float]:
    return {(group.dataset, group.cell_type_id): weight for group, weight in draft.members}


def test_the_groups_of_a_draft_add_up_to_the_reference() -> None:
    draft = reference_draft(guide_of(np.eye(3, 9), [2.0, 1.0, *[0.0] * 7]), 1000)
    assert draft is not None and draft.strategy is Strategy.REFERENCE
    # the first response twice as much as the second, shared by its groups as they have cells
    assert weights_of(draft) == pytest.approx({("d", TYPES[0]): 0.25, ("other", TYPES[0]): 0.75, ("d", TYPES[1]): 0.5})


def test_there_is_no_draft_where_no_response_speaks_for_the_reference() -> None:
    guide = guide_of(np.eye(3, 9), [-1.0, -1.0, -1.0, *[0.0] * 6], [-0.5, -0.1, -0.2])
    assert reference_draft(guide, 1000) is None


def test_what_acts_against_the_asked_perturbation_is_in_no_prompt() -> None:
    for likeness, kept in ((0.3, True), (-0.3, False)):
        draft = reference_draft(guide_of(np.eye(3, 9), [1.0, 1.0, 1.0, *[0.0] * 6], likeness=likeness), 1000)
        assert draft is not None and (("d", TYPES[2]) in weights_of(draft)) is kept


@given(arrays(float, (3, 6), elements=st.floats(-2, 2, width=16)), st.sampled_from([20, 40, 60, 80]))
def test_no_prompt_is_larger_than_its_budget_and_no_weight_below_zero(responses, room):
    guide = guide_of(responses, list(responses.sum(axis=0)))
    members = guide.weigh(guide.groups.values(), room)
    assert all(weight > 0 for _, weight in members)
    assert sum(min(group.n_cells, 20) for group, _ in members) <= max(room, 40)  # a response comes with both its groups


def test_each_strategy_is_weighed_and_ranked_by_the_reference() -> None:
    guide = guide_of(np.eye(3, 9), [2.0, 1.0, *[0.0] * 7])
    groups = {t: tuple(g for g in guide.groups.values() if g.cell_type_id == t) for t in TYPES}
    pool = CandidatePool((cell_group("ctrl", TYPES[0]),), groups, dict(zip(TYPES, (1, 2, 2), strict=True)))
    drafts = first_drafts(pool, IterationConfig(), guide)
    assert drafts[0].strategy is Strategy.REFERENCE and drafts[0].relevance == pytest.approx(1.0)
    (alone,) = [d for d in drafts if d.strategy is Strategy.DIRECT]
    assert weights_of(alone) == pytest.approx({("d", TYPES[0]): 0.25, ("other", TYPES[0]): 0.75})
    assert alone.relevance == pytest.approx(guide.agreement(guide.responses[0]))
