"""Where prompts come from: four strategies, each with its reasons, at work in parallel.

* direct: the same perturbation in the cell type nearest to the target in the Cell Ontology;
* ontology: the same perturbation in related types within a distance, each alone and all together;
* mechanistic: other perturbations with shared targets, responses and pathways, of the same sign, and the most alike
  of them together;
* semantic: other perturbations whose names lie near in the embedding.

What each needs of the atlas is fetched in threads; what comes of it depends on nothing but the atlas and the query.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from gca_core.atlas.models import CellGroup
from gca_core.errors import CellRetrievalError
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.models import IterationConfig, Strategy, StructuredQuery
from gca_core.knowledge.bundled.catalogue import PerturbationCatalogue, PerturbationEntry
from gca_core.knowledge.bundled.genetic import changes_gene, resolve_perturbation
from gca_core.knowledge.bundled.likeness import (
    Features,
    compare,
    shared,
)
from gca_core.knowledge.bundled.names import normalise_name
from gca_core.llm.embeddings import similarity_threshold

MIN_SIMILARITY = 0.2
# of a model that nobody has calibrated
UNMEASURED_THRESHOLD = 0.5
# a similarity of names alone says less than one of what they do
SPELLING_TRUST = 0.5
MOST_ALIKE = 0.95
OTHER_PERTURBATIONS = 3
WORKERS = 4


@dataclass(frozen=True)
class PromptDraft:
    """A prompt before it is ranked: groups with their weight, and why.

    Its relevance is the mean weight where it isn't known better.
    """

    strategy: Strategy
    members: tuple[tuple[CellGroup, float], ...]
    rationale: str
    relevance: float | None = None


def without_groups(drafts: Iterable[PromptDraft], group_ids: Collection[str]) -> list[PromptDraft]:
    """The drafts without these groups; one of which nothing is left goes."""
    if not group_ids:
        return list(drafts)
    kept = (replace(d, members=tuple(m for m in d.members if m[0].group_id not in group_ids)) for d in drafts)
    return [draft for draft in kept if draft.members]


class RelatedPerturbation(NamedTuple):
    """Another perturbation that a strategy found: how alike, in which groups, and why."""

    name: str
    strategy: Strategy
    similarity: float
    groups: tuple[CellGroup, ...]
    reason: str


@dataclass(frozen=True)
class CandidatePool:
    """What the atlas offers to a query.

    Attributes:
        query_groups: control groups of the target type, of one dataset.
        same: perturbed groups of the asked perturbation, by cell type, nearest type first.
        distances: steps in the ontology from the target to each cell type; unrelated types are absent.
        others: other perturbations with their relevance and perturbed groups, each strategy's best first.
        notes: what was left out, and why.
    """

    query_groups: tuple[CellGroup, ...]
    same: Mapping[str, tuple[CellGroup, ...]]
    distances: Mapping[str, int]
    others: tuple[RelatedPerturbation, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    def relevance(self, cell_type_id: str) -> float:
        """1 / (distance + 1)."""
        return 1.0 / (self.distances[cell_type_id] + 1)

    def tier(self, types: Iterable[str]) -> tuple[tuple[CellGroup, float], ...]:
        """All groups of the asked perturbation in these types, with their relevance."""
        return tuple((g, self.relevance(t)) for t in types for g in self.same[t])


def make_candidate_pool(query: StructuredQuery, config: IterationConfig, context: HaystackContext) -> CandidatePool:
    """Collect what the atlas offers, which may be nothing.

    Raises:
        CellRetrievalError: the atlas lacks control cells of the target.
    """
    names = _Names.of(query, context)
    with ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="strategy") as threads:
        asked = threads.submit(_query_groups, query, context)
        same = threads.submit(_same_groups, query, names, context)
        mechanistic = threads.submit(_mechanistic, query, names, config, context)
        semantic = threads.submit(_semantic, query, names, config, context)
        query_groups = asked.result()
        usable, notes = same.result()
        alike = mechanistic.result()
        spelled, semantic_notes = semantic.result()
    others = (*alike, *_settled(spelled, alike))
    types = {g.cell_type_id for g in usable} | {g.cell_type_id for other in others for g in other.groups}
    distances = _distances(query.cell_type_id, types, context)
    return CandidatePool(query_groups, _by_type(usable, distances), distances, others, (*notes, *semantic_notes))


def run_strategies(pool: CandidatePool, config: IterationConfig) -> list[PromptDraft]:
    """The drafts of every strategy that is switched on, in a fixed order."""
    strategies: Mapping[Strategy, Callable[[], list[PromptDraft]]] = {
        Strategy.DIRECT: lambda: direct(pool),
        Strategy.ONTOLOGY: lambda: ontology(pool, config.ontology_distance),
        Strategy.MECHANISTIC: lambda: other_perturbation(pool, Strategy.MECHANISTIC),
        Strategy.SEMANTIC: lambda: other_perturbation(pool, Strategy.SEMANTIC),
    }
    return [draft for strategy in strategies if strategy in config.strategies for draft in strategies[strategy]()]


def direct(pool: CandidatePool) -> list[PromptDraft]:
    """The asked perturbation in the nearest type; types at the same distance go together."""
    if not pool.same:
        return []
    nearest = min(pool.distances[t] for t in pool.same)
    types = [t for t in pool.same if pool.distances[t] == nearest]
    names = _labels(pool, types)
    return [PromptDraft(Strategy.DIRECT, pool.tier(types), f"the asked perturbation in {names}, {_steps(nearest)}")]


def ontology(pool: CandidatePool, distance: int) -> list[PromptDraft]:
    """The asked perturbation in each related type within ``distance``, and in all of them together.

    Where there is none within, the nearest types beyond are taken.
    """
    related = [t for t in pool.same if pool.distances[t] > 0]
    within = [t for t in related if pool.distances[t] <= distance]
    if not within and related:
        nearest = min(pool.distances[t] for t in related)
        within = [t for t in related if pool.distances[t] == nearest]
    drafts = [
        PromptDraft(
            Strategy.ONTOLOGY,
            pool.tier([t]),
            f"the asked perturbation in {_labels(pool, [t])}, {_steps(pool.distances[t])}",
        )
        for t in within
    ]
    if len(within) > 1:
        drafts.append(
            PromptDraft(
                Strategy.ONTOLOGY, pool.tier(within), f"the asked perturbation in all of {_labels(pool, within)}"
            )
        )
    return drafts


def other_perturbation(pool: CandidatePool, strategy: Strategy) -> list[PromptDraft]:
    """Other perturbations of a strategy, each in the type nearest to the target; what acts alike also together."""
    found = [other for other in pool.others if other.strategy is strategy]
    drafts = [_other_draft(pool, other) for other in found]
    if strategy is Strategy.MECHANISTIC and len(found) > 1:
        members = tuple(member for draft in drafts for member in draft.members)
        drafts.append(PromptDraft(strategy, members, f"{', '.join(o.name for o in found)} together, by similarity"))
    return drafts


def _other_draft(pool: CandidatePool, other: RelatedPerturbation) -> PromptDraft:
    nearest = min(pool.distances[g.cell_type_id] for g in other.groups)
    near = [g for g in other.groups if pool.distances[g.cell_type_id] == nearest]
    labels = "; ".join(sorted({g.cell_type for g in near}))
    return PromptDraft(
        other.strategy,
        tuple((g, other.similarity / (nearest + 1)) for g in near),
        f"{other.name} {other.reason}, in {labels}, {_steps(nearest)}",
    )


def draft_of_groups(
    group_ids: Sequence[str], query: StructuredQuery, context: HaystackContext, strategy: Strategy, rationale: str
) -> PromptDraft:
    """A draft of groups that somebody chose; how relevant they are is decided as for every other.

    Raises:
        CellRetrievalError: a group is unknown, of another dataset, a control, without a control, of an unrelated
            type, or of a perturbation that acts against the asked one.
    """
    groups = context.require_atlas().get_groups(list(dict.fromkeys(group_ids)))
    near = _distances(query.cell_type_id, {g.cell_type_id for g in groups}, context)
    asked = _known(query.perturbation, context.catalogue)
    members = []
    for group in groups:
        alike = _similarity_to(group.perturbation, query.perturbation, asked, context)
        if fault := _unfit(group, query, near, alike):
            raise CellRetrievalError(f"the group {group.group_id} can't be in a prompt: {fault}")
        members.append((group, alike / (near[group.cell_type_id] + 1)))
    return PromptDraft(strategy, tuple(members), rationale)


def _similarity_to(name: str, asked: str, own: _Known | None, context: HaystackContext) -> float:
    other = _known(name, context.catalogue)
    if normalise_name(other.entry.name if other else name) == normalise_name(asked):
        return 1.0
    if own is None or other is None:
        return MIN_SIMILARITY if changes_gene(name) == changes_gene(asked) else 0.0
    return min(compare(own.features, other.features), MOST_ALIKE)


def _unfit(group: CellGroup, query: StructuredQuery, near: Mapping[str, int], alike: float) -> str:
    if query.dataset is not None and group.dataset != query.dataset:
        return "it is of another dataset"
    if group.is_control or group.control_group_id is None:
        return "it is a control itself" if group.is_control else "it has no matched control"
    if group.cell_type_id not in near:
        return f"{group.cell_type!r} is not related to {query.cell_type!r}"
    return "" if alike > 0 else f"{group.perturbation!r} does not act like {query.perturbation!r}"


@dataclass(frozen=True)
class _Names:
    """The perturbations of the atlas, told apart by whether they are the asked one."""

    wanted: str
    asked: tuple[str, ...]
    others: tuple[str, ...]
    known: Mapping[str, _Known | None]
    own: _Known | None

    @classmethod
    def of(cls, query: StructuredQuery, context: HaystackContext) -> _Names:
        available = context.require_atlas().perturbations(query.dataset)
        known = {name: _known(name, context.catalogue) for name in available}
        wanted = normalise_name(query.perturbation)
        # the atlas's own spellings of the asked perturbation
        asked = [n for n, found in known.items() if normalise_name(found.entry.name if found else n) == wanted]
        others = tuple(name for name in available if name not in asked)
        return cls(query.perturbation, tuple(asked), others, known, _known(query.perturbation, context.catalogue))

    def similarity(self, name: str) -> float | None:
        """How alike another perturbation acts; None where the catalogue doesn't know both."""
        other = self.known[name]
        return None if self.own is None or other is None else compare(self.own.features, other.features)


class _Known(NamedTuple):
    entry: PerturbationEntry
    features: Features


@lru_cache(maxsize=50_000)
def _known(name: str, catalogue: PerturbationCatalogue) -> _Known | None:
    """What the catalogue and its rules know of a name; kept, since the rules for genes take a millisecond each."""
    entry = resolve_perturbation(name, catalogue)
    return None if entry is None else _Known(entry, Features.of(entry))


def _same_groups(
    query: StructuredQuery, names: _Names, context: HaystackContext
) -> tuple[list[CellGroup], tuple[str, ...]]:
    """Groups of the asked perturbation that have a control, and what was left out."""
    atlas = context.require_atlas()
    groups = [g for n in names.asked for g in atlas.groups(dataset=query.dataset, perturbation=n, is_control=False)]
    usable = [g for g in groups if g.control_group_id is not None]
    missing = len(groups) - len(usable)
    return usable, (f"{missing} groups without a matched control were left out",) if missing else ()


def _mechanistic(
    query: StructuredQuery, names: _Names, config: IterationConfig, context: HaystackContext
) -> list[RelatedPerturbation]:
    if names.own is None or Strategy.MECHANISTIC not in config.strategies:
        return []
    own = names.own.entry
    scores = {name: names.similarity(name) for name in names.others}
    alike = {n: min(score, MOST_ALIKE) for n, score in scores.items() if score is not None and score >= MIN_SIMILARITY}

    def reason(name: str) -> str:
        other = names.known[name]
        return f"acts alike (similarity {alike[name]:.2f}: {shared(own, other.entry) if other else ''})"

    return _with_groups(query, alike, Strategy.MECHANISTIC, reason, context)


def _semantic(
    query: StructuredQuery, names: _Names, config: IterationConfig, context: HaystackContext
) -> tuple[list[RelatedPerturbation], tuple[str, ...]]:
    if not names.others or Strategy.SEMANTIC not in config.strategies:
        return [], ()
    atlas = context.require_atlas()
    models = {info.embedding_model for info in atlas.datasets()}
    if models - {context.embedding_model}:
        return [], (f"semantic search was left out: the atlas was embedded with {', '.join(sorted(models))}",)
    threshold = similarity_threshold(context.embedding_model) or atlas.similarity_threshold() or UNMEASURED_THRESHOLD
    hits = atlas.semantic(
        context.embed([query.perturbation])[0],
        kind="perturbation",
        limit=config.search_limit,
        dataset=query.dataset,
        exclude_perturbations=names.asked,
        is_control=False,
        min_similarity=threshold,
    )
    near = {hit.id: hit.similarity for hit in hits if hit.id in names.known}
    scores = {name: _weighed(names, name, similarity) for name, similarity in near.items()}
    kept = {name: score for name, score in scores.items() if score > 0}
    found = _with_groups(
        query, kept, Strategy.SEMANTIC, lambda name: f"is named alike (similarity {near[name]:.2f})", context, by=near
    )
    return found, ()


def _weighed(names: _Names, name: str, similarity: float) -> float:
    """What a similarity of names is worth: what the catalogue knows of both goes before the spelling."""
    alike = names.similarity(name)
    if alike is None:
        # a gene that is knocked out is spelled like the cytokine it encodes
        same = changes_gene(name) == changes_gene(names.wanted)
        return SPELLING_TRUST * similarity if same else 0.0
    return min(alike, MOST_ALIKE)


def _with_groups(
    query: StructuredQuery,
    scores: Mapping[str, float],
    strategy: Strategy,
    reason: Callable[[str], str],
    context: HaystackContext,
    *,
    by: Mapping[str, float] | None = None,
) -> list[RelatedPerturbation]:
    """The best of these perturbations that have groups with a control in related types; equals by name."""
    atlas, order = context.require_atlas(), by or scores
    found: list[RelatedPerturbation] = []
    for name in sorted(scores, key=lambda n: (-order[n], n)):
        if len(found) == OTHER_PERTURBATIONS:
            break
        groups = atlas.groups(dataset=query.dataset, perturbation=name, is_control=False)
        near = _distances(query.cell_type_id, {g.cell_type_id for g in groups}, context)
        usable = tuple(g for g in groups if g.control_group_id is not None and g.cell_type_id in near)
        if usable:
            found.append(RelatedPerturbation(name, strategy, scores[name], usable, reason(name)))
    return found


def _settled(spelled: Sequence[RelatedPerturbation], alike: Sequence[RelatedPerturbation]) -> list[RelatedPerturbation]:
    """Semantic finds with the similarity that the mechanistic strategy gave the same perturbation, where it did."""
    known = {other.name: other.similarity for other in alike}
    return [other._replace(similarity=known.get(other.name, other.similarity)) for other in spelled]


def _query_groups(query: StructuredQuery, context: HaystackContext) -> tuple[CellGroup, ...]:
    """Control groups of the target type, else of its subtypes, in the dataset with most such cells."""
    atlas = context.require_atlas()
    for types in ({query.cell_type_id}, context.ontology.descendants(query.cell_type_id)):
        by_dataset: dict[str, list[CellGroup]] = defaultdict(list)
        for group in atlas.groups(dataset=query.dataset, cell_type_ids=types, is_control=True):
            by_dataset[group.dataset].append(group)
        if by_dataset:
            best = min(by_dataset, key=lambda name: (-sum(g.n_cells for g in by_dataset[name]), name))
            return tuple(by_dataset[best])
    known = "; ".join(label for _, label in atlas.cell_types(query.dataset))
    if not known:
        raise CellRetrievalError(
            "the atlas holds no cells at all; take a file in with: gca atlas ingest FILE --dataset NAME "
            "--perturbation-column COLUMN --control-value VALUE --cell-type-column COLUMN"
        )
    raise CellRetrievalError(
        f"the atlas holds no control cells of {query.cell_type!r} ({query.cell_type_id}); it has: {known}. "
        "ask about one of these, or ingest a dataset that has them"
    )


def nothing_found(query: StructuredQuery, context: HaystackContext) -> str:
    """That the atlas has nothing to prompt with, and what it has."""
    known = ", ".join(context.require_atlas().perturbations(query.dataset)) or "none"
    return (
        f"the atlas holds no cells perturbed by {query.perturbation!r} or by anything like it, in types related to "
        f"{query.cell_type!r}; its perturbations: {known}. ingest a dataset that has it"
    )


def _distances(target: str, types: Iterable[str], context: HaystackContext) -> dict[str, int]:
    """Steps from the target to each type; its own subtypes count as the target itself."""
    found = {}
    for identifier in sorted(types):
        if identifier not in context.ontology:
            continue
        distance = 0 if context.ontology.is_a(identifier, target) else context.ontology.distance(target, identifier)
        if distance is not None:
            found[identifier] = distance
    return found


def _by_type(groups: Iterable[CellGroup], distances: Mapping[str, int]) -> dict[str, tuple[CellGroup, ...]]:
    found: dict[str, list[CellGroup]] = defaultdict(list)
    for group in groups:
        if group.cell_type_id in distances:
            found[group.cell_type_id].append(group)
    return {t: tuple(found[t]) for t in sorted(found, key=lambda t: (distances[t], t))}


def _labels(pool: CandidatePool, types: Sequence[str]) -> str:
    return "; ".join(pool.same[t][0].cell_type for t in types)


def _steps(distance: int) -> str:
    if distance == 0:
        return "the target type itself"
    return f"{distance} step{'s' if distance > 1 else ''} from the target in the Cell Ontology"
