import numpy as np
import pytest

from gca_core.haystack.models import Strategy
from gca_core.haystack.prompts.from_reference import reference_draft
from gca_core.haystack.reference import AtlasReference
from gca_core.responses.left_out import Support
from gca_core.responses.measured import Measured
from gca_core.responses.reference import Answer, Reference
from tests.helpers.haystack_atlas import cell_group

TYPES = ["CL:0000236", "CL:0002057", "CL:0002396"]


def atlas_of(responses: np.ndarray) -> AtlasReference:
    """One perturbation in three types, two groups of the first."""
    groups = [cell_group("interferon beta", t) for t in TYPES]
    groups.append(cell_group("interferon beta", TYPES[0], dataset="other", n_cells=600))
    data = Measured(
        ["interferon beta"], TYPES, np.zeros(3, int), np.arange(3), responses, np.full((1, 1), np.nan), np.zeros((3, 3))
    )
    return AtlasReference(
        Reference(data), ["G1", "G2", "G3"], tuple(groups), {"interferon beta": "interferon beta"}, ""
    )


def test_the_groups_of_a_draft_add_up_to_the_reference() -> None:
    atlas = atlas_of(np.eye(3))
    draft = reference_draft(
        atlas, Answer(np.array([2.0, 1.0, 0.0]), np.array([0.9, 0.2, 0.0]), Support(True, False), None)
    )
    assert draft is not None and draft.strategy is Strategy.REFERENCE
    weights = {(group.dataset, group.cell_type_id): weight for group, weight in draft.members}
    # the first response twice as much as the second, shared by its groups as they have cells
    assert weights == pytest.approx({("d", TYPES[0]): 0.25, ("other", TYPES[0]): 0.75, ("d", TYPES[1]): 0.5})


@pytest.mark.parametrize("weights", [[0.0, 0.0, 0.0], [-0.5, -0.1, -0.2]])
def test_there_is_no_draft_where_no_response_speaks_for_the_reference(weights: list[float]) -> None:
    answer = Answer(np.array(weights), np.array(weights), Support(False, True), None)
    assert reference_draft(atlas_of(np.eye(3)), answer) is None
