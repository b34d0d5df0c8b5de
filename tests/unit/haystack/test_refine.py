from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from gca_core.grounding.models import ActionKind, GroundingScore, GroundingStatus, Suggestion
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.decide import decide
from gca_core.haystack.feedback import read_answer, render_so_far
from gca_core.haystack.models import (
    CandidateEvaluation,
    EvaluationStatus,
    HaystackRun,
    IterationConfig,
    IterationRecord,
    PromptCandidate,
    Strategy,
    StructuredQuery,
)
from gca_core.haystack.prompts.from_reference import Guide, guide_for
from gca_core.haystack.prompts.ranking import make_candidates
from gca_core.haystack.prompts.refine import left_behind, refine
from gca_core.haystack.prompts.strategies import CandidatePool, PromptDraft, make_candidate_pool
from gca_core.haystack.steps import choose
from tests.helpers.haystack_atlas import TYPES, cell_group
from tests.unit.haystack.test_from_reference import guide_of

CONFIG = IterationConfig()


@pytest.fixture
def pool(query: StructuredQuery, kang_context: HaystackContext) -> CandidatePool:
    return make_candidate_pool(query, CONFIG, kang_context)


@pytest.fixture
def guide(query: StructuredQuery, kang_context: HaystackContext) -> Guide:
    found = guide_for(query, kang_context)
    assert found is not None
    return found


def tried(pool: CandidatePool, agreements: Mapping[tuple[str, ...], float]) -> list[CandidateEvaluation]:
    """Evaluations of prompts made of these cell types."""
    found = []
    for types, agreement in agreements.items():
        (candidate,) = make_candidates([PromptDraft(Strategy.DIRECT, pool.tier(types), "")], pool.query_groups, CONFIG)
        found.append(evaluated(candidate, agreement))
    return found


def evaluated(
    candidate: PromptCandidate, agreement: float, suggestions: Sequence[Suggestion] = ()
) -> CandidateEvaluation:
    return CandidateEvaluation(
        candidate=candidate,
        status=EvaluationStatus.SCORED,
        grounding=GroundingScore(status=GroundingStatus.SCORED, score=5.0, improvement_suggestions=tuple(suggestions)),
        prediction_uri="file:///p.h5ad",
        agreement=agreement,
    )


def types_of(draft: PromptDraft) -> set[str]:
    return {group.cell_type_id for group, _ in draft.members}


def test_the_best_prompt_is_combined_with_the_next_best(guide, pool, knowledge_context):
    before = tried(pool, {("CL:0002396",): 0.8, ("CL:0000451",): 0.6, ("CL:0000236",): 0.1, ("CL:0000625",): 0.0})
    drafts = refine(guide, before, 1000, knowledge_context.knowledge)
    together = [draft for draft in drafts if "together" in draft.rationale]
    assert [
        types_of(draft) <= {"CL:0002396", other}
        for draft, other in zip(together, ("CL:0000451", "CL:0000236"), strict=True)
    ]
    assert all(weight > 0 for draft in drafts for _, weight in draft.members)


def test_the_best_prompt_is_corrected_for_what_its_prediction_misses(guide, pool, knowledge_context):
    before = tried(pool, {("CL:0002396",): 0.8})
    exact, wrong = (
        refine(guide, before, 1000, knowledge_context.knowledge, predicted)[0]
        for predicted in (guide.change, guide.change + 2 * guide.responses[0])
    )
    assert "corrected" in exact.rationale
    lost = guide.row(next(g for g in guide.groups.values() if guide.row(g) == 0))
    share = [
        sum(w for g, w in d.members if guide.row(g) == lost) / sum(w for _, w in d.members) for d in (exact, wrong)
    ]
    # a response of which the prediction has too much gets less weight
    assert share[1] < share[0]


def test_a_missing_gene_steers_to_the_groups_that_carry_it(knowledge_context):
    guide = guide_of(np.eye(3, 9), [2.0, 1.0, 0.5, *[0.0] * 6])
    groups = {row: tuple((g, 1.0) for g in guide.groups.values() if guide.row(g) == row) for row in range(3)}
    (candidate,) = make_candidates(
        [PromptDraft(Strategy.DIRECT, groups[0], "")], [cell_group("ctrl", "CL:0000236")], CONFIG
    )
    missing = Suggestion(action=ActionKind.STRENGTHEN, component="target", subject="G1", direction="up")
    drafts = refine(guide, [evaluated(candidate, 0.8, [missing])], 1000, knowledge_context.knowledge)
    (carried,) = [draft for draft in drafts if "carry G1" in draft.rationale]
    # a person's wish goes the same way
    wished = refine(guide, [evaluated(candidate, 0.8)], 1000, knowledge_context.knowledge, None, ("G1",))
    assert [d.members for d in wished if "carry G1" in d.rationale] == [carried.members]
    assert {guide.row(group) for group, _ in carried.members} == {0, 1}
    assert sum(w for g, w in carried.members if guide.row(g) == 1) == pytest.approx(
        sum(w for _, w in carried.members) / 4
    )


def test_strategies_that_do_badly_leave(pool) -> None:
    good, bad = tried(pool, {("CL:0002396",): 0.8, ("CL:0000236",): 0.3})
    bad = bad.model_copy(update={"candidate": bad.candidate.model_copy(update={"strategies": (Strategy.ONTOLOGY,)})})
    assert left_behind([good, bad]) == {Strategy.ONTOLOGY}
    assert left_behind([good, bad.model_copy(update={"agreement": 0.5})]) == frozenset()


def test_no_prompt_is_proposed_twice_and_the_search_ends(guide, pool, run_with, knowledge_context):
    run: HaystackRun = run_with(candidates_per_iteration=4)
    seen: list[str] = []
    for iteration in range(40):
        proposal = choose(run, pool, knowledge_context.knowledge, guide=guide, predicted=guide.change)
        if not proposal.candidates:
            break
        seen += [c.candidate_id for c in proposal.candidates]
        done = tuple(evaluated(c, 0.5 + 0.01 * len(c.cell_group_ids)) for c in proposal.candidates)
        record = IterationRecord(iteration=iteration, evaluations=done)
        run = run.model_copy(update={"iterations": (*run.iterations, record)})
    assert proposal.empty_reason == f"all {len(seen)} prompts within the bounds were tried"
    assert len(seen) == len(set(seen)) > len(TYPES) - 1


def test_what_a_person_excludes_is_in_no_prompt_and_what_one_prefers_is_carried(guide, pool, run_with, kang_context):
    run: HaystackRun = run_with(candidates_per_iteration=6)
    before = tried(pool, {("CL:0002396",): 0.8, ("CL:0000451",): 0.6})
    run = run.model_copy(update={"iterations": (IterationRecord(iteration=0, evaluations=tuple(before)),)})
    said = read_answer(
        run, kang_context, exclude="non-classical MONOCYTE\nnobody", prefer="interferon alpha response; x", note="a\nb"
    )
    assert said.preferred_pathways == ("HALLMARK_INTERFERON_ALPHA_RESPONSE",)
    assert said.notes == ("the atlas has no group 'nobody'", "no gene set or footprint is called 'x'")
    barred = {g.group_id for g in pool.same["CL:0002396"]}
    assert set(said.excluded_group_ids) == barred and said.note == "a b"
    knowledge = kang_context.knowledge
    free = choose(run, pool, knowledge, guide=guide, predicted=guide.change)
    assert any(set(c.cell_group_ids) & barred for c in free.candidates)
    after = run.model_copy(update={"feedback": (said,)})
    bound = choose(after, pool, knowledge, guide=guide, predicted=guide.change)
    assert bound.candidates and not any(set(c.cell_group_ids) & barred for c in bound.candidates)
    assert after.preferred() == said.preferred_pathways
    assert decide(after).go
    stopped = decide(after.model_copy(update={"feedback": (said.model_copy(update={"stop": True, "by": "mary"}),)}))
    assert (stopped.reason, stopped.detail) == ("feedback", "stopped by mary after iteration 0")
    assert "<" not in render_so_far(after).replace("\\<", "") and "of at most" in render_so_far(after)
