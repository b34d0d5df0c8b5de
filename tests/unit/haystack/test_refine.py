from collections.abc import Mapping

from gca_core.grounding.models import GroundingScore, GroundingStatus
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.models import (
    CandidateEvaluation,
    EvaluationStatus,
    IterationConfig,
    IterationRecord,
    PromptCandidate,
    Strategy,
    StructuredQuery,
)
from gca_core.haystack.prompts.ranking import make_candidates
from gca_core.haystack.prompts.refine import refine
from gca_core.haystack.prompts.strategies import CandidatePool, PromptDraft, make_candidate_pool
from gca_core.haystack.steps import choose
from tests.helpers.haystack_atlas import TYPES

CONFIG = IterationConfig()


def scored(pool: CandidatePool, scores: Mapping[tuple[str, ...], float]) -> list[CandidateEvaluation]:
    """Evaluations of prompts made of these cell types."""
    found = []
    for types, score in scores.items():
        (candidate,) = make_candidates([PromptDraft(Strategy.DIRECT, pool.tier(types), "")], pool.query_groups, CONFIG)
        found.append(evaluated(candidate, score))
    return found


def evaluated(candidate: PromptCandidate, score: float) -> CandidateEvaluation:
    return CandidateEvaluation(
        candidate=candidate,
        status=EvaluationStatus.SCORED,
        grounding=GroundingScore(status=GroundingStatus.SCORED, score=score),
        prediction_uri="file:///p.h5ad",
    )


def type_sets(drafts: list[PromptDraft]) -> list[set[str]]:
    return [{group.cell_type_id for group, _ in draft.members} for draft in drafts]


def test_the_next_iteration_widens_by_the_nearest_unused_type(query, kang_context):
    pool = make_candidate_pool(query, CONFIG, kang_context)
    drafts = refine(pool, scored(pool, {("CL:0002396",): 6.0}), CONFIG)
    assert type_sets(drafts) == [{"CL:0000451"}, {"CL:0002396", "CL:0000451"}]


def test_types_that_scored_low_are_not_combined(query: StructuredQuery, kang_context: HaystackContext) -> None:
    pool = make_candidate_pool(query, CONFIG, kang_context)
    before = scored(pool, {("CL:0002396",): 7.0, ("CL:0000451",): 5.0, ("CL:0000236",): 6.5})
    combined = [types for types in type_sets(refine(pool, before, CONFIG)) if len(types) > 1]
    assert {"CL:0002396", "CL:0000236"} in combined
    assert all("CL:0000451" not in types for types in combined)


def test_a_prompt_of_several_types_is_narrowed(query: StructuredQuery, kang_context: HaystackContext) -> None:
    pool = make_candidate_pool(query, CONFIG, kang_context)
    before = scored(pool, {("CL:0002396", "CL:0000451", "CL:0000236"): 7.0})
    assert {"CL:0002396", "CL:0000451"} in type_sets(refine(pool, before, CONFIG))


def test_no_prompt_is_proposed_twice_and_the_search_ends(query, kang_context, run_with):
    pool = make_candidate_pool(query, CONFIG, kang_context)
    run = run_with(candidates_per_iteration=4)
    seen: list[str] = []
    for iteration in range(40):
        proposal = choose(run, pool, iteration)  # type: ignore[arg-type]
        if not proposal.candidates:
            break
        seen += [c.candidate_id for c in proposal.candidates]
        done = tuple(evaluated(c, 5.0 + 0.1 * len(c.cell_group_ids)) for c in proposal.candidates)
        record = IterationRecord(iteration=iteration, evaluations=done)
        run = run.model_copy(update={"iterations": (*run.iterations, record)})  # type: ignore[attr-defined]
    assert proposal.empty_reason == f"all {len(seen)} prompts within the bounds were tried"
    assert len(seen) == len(set(seen))
    assert len(seen) < 2 ** (len(TYPES) - 1)


def test_a_proposal_is_the_same_for_the_same_state(query, kang_context, run_with):
    pool = make_candidate_pool(query, CONFIG, kang_context)
    run = run_with()
    assert choose(run, pool, 0) == choose(run, pool, 0)  # type: ignore[arg-type]


def test_the_budget_of_predictions_bounds_a_proposal(query, kang_context, run_with):
    config = {"max_evaluations": 1, "ontology_distance": 9}
    pool = make_candidate_pool(query, CONFIG, kang_context)
    assert len(choose(run_with(**config), pool, 0).candidates) == 1  # type: ignore[arg-type]
