from collections.abc import Callable

import pytest

from gca_core.atlas.models import SearchHit
from gca_core.errors import CellRetrievalError
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.models import IterationConfig, RankingWeights, Strategy, StructuredQuery
from gca_core.haystack.prompts.ranking import compose, make_candidates, rank_candidates
from gca_core.haystack.prompts.strategies import (
    PromptDraft,
    direct,
    draft_of_groups,
    make_candidate_pool,
    ontology,
    other_perturbation,
    run_strategies,
)
from gca_core.haystack.steps import suggest
from gca_core.knowledge.bundled.catalogue import load_catalogue
from gca_core.knowledge.bundled.likeness import perturbation_similarity
from tests.helpers.haystack_atlas import TYPES, cell_group

CONFIG = IterationConfig()
MakeContext = Callable[..., HaystackContext]


def types_of(draft: PromptDraft) -> set[str]:
    return {group.cell_type_id for group, _ in draft.members}


def test_direct_takes_the_nearest_type(query: StructuredQuery, kang_context: HaystackContext) -> None:
    (draft,) = direct(make_candidate_pool(query, CONFIG, kang_context))
    assert types_of(draft) == {"CL:0002396"}
    assert [relevance for _, relevance in draft.members] == [pytest.approx(1 / 3)]


def test_direct_takes_the_target_itself_where_it_was_measured(query: StructuredQuery, context_of: MakeContext) -> None:
    context = context_of(*(cell_group(p, t) for t in TYPES for p in ("ctrl", "interferon beta")))
    (draft,) = direct(make_candidate_pool(query, CONFIG, context))
    assert types_of(draft) == {"CL:0002057"}
    assert draft.members[0][1] == 1.0


def test_ontology_stays_within_its_distance(query: StructuredQuery, kang_context: HaystackContext) -> None:
    pool = make_candidate_pool(query, CONFIG, kang_context)
    assert [types_of(d) for d in ontology(pool, 2)] == [{"CL:0002396"}]
    wider = [types_of(d) for d in ontology(pool, 4)]
    assert wider == [{"CL:0002396"}, {"CL:0000451"}, {"CL:0002396", "CL:0000451"}]


def test_ontology_widens_where_nothing_is_near(query: StructuredQuery, context_of: MakeContext) -> None:
    context = context_of(
        cell_group("ctrl", "CL:0002057"), cell_group("interferon beta", "CL:0000236"),
        cell_group("interferon beta", "CL:0000625"),
    )  # fmt: skip
    drafts = ontology(make_candidate_pool(query, CONFIG, context), 2)
    assert [types_of(d) for d in drafts] == [{"CL:0000236"}]


def test_groups_without_control_are_left_out_and_counted(query: StructuredQuery, context_of: MakeContext) -> None:
    context = context_of(
        cell_group("ctrl", "CL:0002057"), cell_group("interferon beta", "CL:0002396", controlled=False),
        cell_group("interferon beta", "CL:0000236"),
    )  # fmt: skip
    pool = make_candidate_pool(query, CONFIG, context)
    assert set(pool.same) == {"CL:0000236"}
    assert pool.notes == ("1 groups without a matched control were left out",)


def test_the_atlas_own_spelling_of_a_perturbation_is_found(query: StructuredQuery, context_of: MakeContext) -> None:
    context = context_of(cell_group("ctrl", "CL:0002057"), cell_group("IFN-b", "CL:0002396"))
    assert set(make_candidate_pool(query, CONFIG, context).same) == {"CL:0002396"}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([("ctrl", "CL:0000236"), ("interferon beta", "CL:0000236")], r"no control cells of .*it has: B cell"),
        ([("ctrl", "CL:0002057"), ("ctrl", "CL:0000236"), ("dexamethasone", "CL:0000236")], "its perturbations: dexa"),
        ([], "gca atlas ingest FILE"),
    ],
)
def test_what_an_atlas_lacks_is_said_with_what_is_there(query, context_of, groups, message):
    with pytest.raises(CellRetrievalError, match=message):
        suggest(query, CONFIG, context_of(*(cell_group(*group) for group in groups)))


def test_unrelated_responses_prompt_where_there_are_enough_to_learn_from(query, context_of):
    """Each of six perturbations in two types, none like the asked one: a prompt, and no refusal."""
    names = [f"compound {letter}" for letter in "abcdef"]
    types = ("CL:0000236", "CL:0000625")
    groups = [cell_group("ctrl", "CL:0002057"), *(cell_group(n, t) for n in ("ctrl", *names) for t in types)]
    (candidate,) = suggest(query, CONFIG, context_of(*groups)).candidates
    assert candidate.strategy is Strategy.REFERENCE and set(candidate.perturbations) <= set(names)


def test_mechanistic_finds_what_acts_alike_and_not_the_inhibitor(query, context_of):
    others = ("interferon alpha", "ruxolitinib", "TGF-beta 1")
    context = context_of(cell_group("ctrl", "CL:0002057"), *(cell_group(name, "CL:0002396") for name in others))
    drafts = other_perturbation(make_candidate_pool(query, CONFIG, context), Strategy.MECHANISTIC)
    assert [{g.perturbation for g, _ in d.members} for d in drafts] == [{"interferon alpha"}]


def test_semantic_takes_near_names_but_never_an_opposed_one(query: StructuredQuery, context_of: MakeContext) -> None:
    hits = tuple(
        SearchHit(kind="perturbation", id=name, label=name, distance=distance)
        for name, distance in (
            ("interferon betas", 0.2),
            ("IFNB1+X knockout", 0.25),
            ("ruxolitinib", 0.3),
            ("unrelated", 0.9),
        )
    )
    names = [hit.id for hit in hits]
    context = context_of(
        cell_group("ctrl", "CL:0002057"), *(cell_group(name, "CL:0002396") for name in names), hits=hits
    )
    drafts = other_perturbation(make_candidate_pool(query, CONFIG, context), Strategy.SEMANTIC)
    assert [{g.perturbation for g, _ in d.members} for d in drafts] == [{"interferon betas"}]


def test_vectors_of_another_model_are_not_searched(query: StructuredQuery, context_of: MakeContext) -> None:
    context = context_of(
        cell_group("ctrl", "CL:0002057"), cell_group("interferon beta", "CL:0002396"),
        cell_group("compound", "CL:0002396"), models=("another",),
    )  # fmt: skip
    assert any("another" in note for note in make_candidate_pool(query, CONFIG, context).notes)


@pytest.mark.parametrize(
    ("a", "b", "sign"),
    [
        ("interferon beta", "interferon alpha", 1),
        ("interferon beta", "interferon gamma", 1),
        ("interferon beta", "ruxolitinib", -1),
        ("TGF-beta 1", "galunisertib", -1),
        ("tumor necrosis factor", "dexamethasone", -1),
        ("interleukin 4", "interleukin 13", 1),
    ],
)
def test_similarity_is_signed(a: str, b: str, sign: int) -> None:
    catalogue = load_catalogue()
    first, second = catalogue.get(a), catalogue.get(b)
    assert perturbation_similarity(first, second) * sign > 0
    assert perturbation_similarity(first, second) == pytest.approx(perturbation_similarity(second, first))
    assert perturbation_similarity(first, first) == pytest.approx(1.0)


def test_drafts_of_the_same_groups_become_one_candidate(query: StructuredQuery, kang_context: HaystackContext) -> None:
    pool = make_candidate_pool(query, CONFIG, kang_context)
    (candidate,) = make_candidates([*direct(pool), *ontology(pool, 2)], pool.query_groups, CONFIG)
    assert candidate.strategies == (Strategy.DIRECT, Strategy.ONTOLOGY)


def test_a_candidate_is_named_by_its_content(query: StructuredQuery, kang_context: HaystackContext) -> None:
    pool = make_candidate_pool(query, CONFIG, kang_context)
    drafts = ontology(pool, 9)

    def ids(config: IterationConfig, *, turned: bool = False) -> set[str]:
        chosen = drafts[::-1] if turned else drafts
        return {c.candidate_id for c in make_candidates(chosen, pool.query_groups, config)}

    assert ids(CONFIG) == ids(CONFIG, turned=True)
    for change in ({"seed": 1}, {"nonce": "again"}, {"backend": "other"}, {"prediction_seeds": 2}):
        assert not ids(CONFIG) & ids(CONFIG.model_copy(update=change))
    assert ids(CONFIG) == ids(CONFIG.model_copy(update={"score_threshold": 9.0, "max_iterations": 2}))


def test_ranking_weighs_relevance_diversity_and_quality(query: StructuredQuery, kang_context: HaystackContext) -> None:
    pool = make_candidate_pool(query, CONFIG, kang_context)
    candidates = make_candidates(ontology(pool, 9), pool.query_groups, CONFIG)
    ranked = rank_candidates(candidates, RankingWeights(), 3)
    assert ranked[0].cell_types == ("non-classical monocyte",)
    assert all(c.rank_score <= ranked[0].rank_score for c in ranked)
    assert not set(ranked[0].cell_group_ids) & set(ranked[1].cell_group_ids)
    relevant = rank_candidates(candidates, RankingWeights(relevance=1, diversity=0, quality=0), 9)
    assert [c.relevance for c in relevant] == sorted((c.relevance for c in relevant), reverse=True)


@pytest.mark.parametrize(("k", "of_model"), [(1, 0), (2, 1), (4, 2), (6, 2)])
def test_a_models_prompts_never_crowd_out_the_rules(query, kang_context, k, of_model):
    pool = make_candidate_pool(query, CONFIG, kang_context)
    rules = make_candidates(ontology(pool, 9), pool.query_groups, CONFIG)
    praised = [c.model_copy(update={"candidate_id": f"c-{i}", "strategies": (Strategy.MODEL,), "relevance": 1.0,
                                    "cell_group_ids": (f"g-{i}",)}) for i, c in enumerate(rules[:2])]  # fmt: skip
    ranked = rank_candidates([*praised, *rules], RankingWeights(), k)
    assert len(ranked) == k
    assert ranked[0].candidate_id == rank_candidates(rules, RankingWeights(), 1)[0].candidate_id
    assert sum(c.strategies == (Strategy.MODEL,) for c in ranked) == of_model
    # where the rules have no more, a model's are taken
    assert rank_candidates(praised, RankingWeights(), k)


def test_few_cells_lower_the_quality(query: StructuredQuery, context_of: MakeContext) -> None:
    context = context_of(cell_group("ctrl", "CL:0002057"), cell_group("interferon beta", "CL:0002396", n_cells=20))
    pool = make_candidate_pool(query, CONFIG, context)
    (candidate,) = make_candidates(direct(pool), pool.query_groups, CONFIG)
    assert candidate.quality == pytest.approx(0.2)


def test_what_acts_alike_also_prompts_together(query: StructuredQuery, context_of: MakeContext) -> None:
    names = ("interferon alpha", "interferon gamma")
    context = context_of(cell_group("ctrl", "CL:0002057"), *(cell_group(name, "CL:0002396") for name in names))
    drafts = other_perturbation(make_candidate_pool(query, CONFIG, context), Strategy.MECHANISTIC)
    assert [{g.perturbation for g, _ in d.members} for d in drafts] == [{names[0]}, {names[1]}, set(names)]
    relevance = {g.perturbation: r for g, r in drafts[-1].members}
    assert relevance["interferon alpha"] > relevance["interferon gamma"] > 0


def test_the_reason_says_what_is_shared(query: StructuredQuery, context_of: MakeContext) -> None:
    context = context_of(cell_group("ctrl", "CL:0002057"), cell_group("interferon alpha", "CL:0002396"))
    (draft,) = other_perturbation(make_candidate_pool(query, CONFIG, context), Strategy.MECHANISTIC)
    assert "targets IFNAR1" in draft.rationale
    assert "the family type I interferon" in draft.rationale


def test_a_prompt_has_room_for_as_many_groups_as_its_budget_feeds(query, context_of):
    far = [cell_group("interferon beta", "CL:0002396", dataset=f"d{i}") for i in range(8)]
    near = [cell_group("interferon beta", "CL:0002057", dataset=f"d{i}", n_cells=10 * (i + 1)) for i in range(8)]
    context = context_of(cell_group("ctrl", "CL:0002057"), *far, *near)
    pool = make_candidate_pool(query, CONFIG, context)
    members = [*pool.tier(["CL:0002396"]), *pool.tier(["CL:0002057"])]
    kept = compose(members, budget=100)
    # 20 cells of each, and all of the smallest
    assert [group.n_cells for group, _ in kept] == [80, 70, 60, 50, 40]
    assert [group.n_cells for group, _ in compose(members, budget=150)] == [80, 70, 60, 50, 40, 30, 20, 10]
    assert {relevance for _, relevance in kept} == {1.0}
    assert len(compose([*members, *members], budget=10_000)) == 16


def test_a_perturbation_found_twice_is_one_candidate_of_two_strategies(query, context_of):
    hit = SearchHit(kind="perturbation", id="interferon alpha", label="interferon alpha", distance=0.4)
    context = context_of(cell_group("ctrl", "CL:0002057"), cell_group(hit.id, "CL:0002396"), hits=(hit,))
    pool = make_candidate_pool(query, CONFIG, context)
    (candidate,) = make_candidates(run_strategies(pool, CONFIG), pool.query_groups, CONFIG)
    assert candidate.strategies == (Strategy.MECHANISTIC, Strategy.SEMANTIC)


def test_unknown_names_count_less_than_what_is_known_to_act_alike(query, context_of):
    hit = SearchHit(kind="perturbation", id="interferon betas", label="interferon betas", distance=0.1)
    context = context_of(
        cell_group("ctrl", "CL:0002057"), cell_group(hit.id, "CL:0002396"),
        cell_group("interferon alpha", "CL:0002396"), hits=(hit,),
    )  # fmt: skip
    found = {other.name: other.similarity for other in make_candidate_pool(query, CONFIG, context).others}
    assert found["interferon betas"] == pytest.approx(0.45)
    assert found["interferon alpha"] > found["interferon betas"]


def test_proposals_are_the_same_every_time(query: StructuredQuery, context_of: MakeContext) -> None:
    names = ("interferon alpha", "interferon gamma", "interferon beta")
    context = context_of(*(cell_group("ctrl", t) for t in TYPES), *(cell_group(n, t) for n in names for t in TYPES))
    assert len({make_candidate_pool(query, CONFIG, context).others for _ in range(5)}) == 1
    assert suggest(query, CONFIG, context) == suggest(query, CONFIG, context)


@pytest.mark.parametrize(
    ("perturbation", "cell_type_id", "message"),
    [
        ("ctrl", "CL:0002057", "control itself"),
        ("ruxolitinib", "CL:0002396", "does not act like"),
        ("IFNB1+X knockout", "CL:0002396", "does not act like"),
    ],
)
def test_chosen_groups_are_checked(query, context_of, perturbation, cell_type_id, message):
    wrong = cell_group(perturbation, cell_type_id)
    right = cell_group("interferon beta", "CL:0002396")
    context = context_of(wrong, right)
    with pytest.raises(CellRetrievalError, match=message):
        draft_of_groups([right.group_id, wrong.group_id], query, context, Strategy.MODEL, "")
    draft = draft_of_groups([right.group_id], query, context, Strategy.MODEL, "")
    assert draft.members == ((right, pytest.approx(1 / 3)),)
    elsewhere = query.model_copy(update={"dataset": "another"})
    with pytest.raises(CellRetrievalError, match="another dataset"):
        draft_of_groups([right.group_id], elsewhere, context, Strategy.MODEL, "")
