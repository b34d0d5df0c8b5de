"""Where prompts come from: four strategies, each with its reasons.

* direct: the same perturbation in the cell type nearest to the target in the Cell Ontology;
* ontology: the same perturbation in related types within a distance, each alone and all together;
* mechanistic: other perturbations with shared targets, responses and pathways, of the same sign;
* semantic: other perturbations whose names lie near in the embedding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from gca_core.atlas.models import CellGroup
from gca_core.errors import CellRetrievalError
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.models import IterationConfig, Strategy, StructuredQuery
from gca_core.knowledge.catalogue import PerturbationEntry, normalise_name

MIN_SIMILARITY = 0.2
SEMANTIC_FLOOR = 0.35
OTHER_PERTURBATIONS = 3
SIMILARITY_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"targets": 0.4, "response": 0.3, "pathways": 0.2, "family": 0.1}
)


@dataclass(frozen=True)
class Draft:
    """A prompt before it is ranked: groups with their relevance, and why."""

    strategy: Strategy
    members: tuple[tuple[CellGroup, float], ...]
    rationale: str


@dataclass(frozen=True)
class Pool:
    """What the atlas offers to a query.

    Attributes:
        query_groups: control groups of the target type, of one dataset.
        same: perturbed groups of the asked perturbation, by cell type, nearest type first.
        distances: steps in the ontology from the target to each cell type; unrelated types are absent.
        others: other perturbations with their relevance and perturbed groups.
        notes: what was left out, and why.
    """

    query_groups: tuple[CellGroup, ...]
    same: Mapping[str, tuple[CellGroup, ...]]
    distances: Mapping[str, int]
    others: tuple[tuple[str, Strategy, float, tuple[CellGroup, ...]], ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    def relevance(self, cell_type_id: str) -> float:
        """1 / (distance + 1)."""
        return 1.0 / (self.distances[cell_type_id] + 1)

    def tier(self, types: Iterable[str]) -> tuple[tuple[CellGroup, float], ...]:
        """All groups of the asked perturbation in these types, with their relevance."""
        return tuple((g, self.relevance(t)) for t in types for g in self.same[t])


def make_pool(query: StructuredQuery, config: IterationConfig, context: HaystackContext) -> Pool:
    """Collect what the atlas offers.

    Raises:
        CellRetrievalError: the atlas lacks control cells of the target, or any perturbation that helps.
    """
    query_groups = _query_groups(query, context)
    names = _names_in_atlas(query, context)
    groups = [g for name in names for g in context.require_atlas().groups(perturbation=name, is_control=False)]
    usable = [g for g in _in_dataset(groups, query) if g.control_group_id is not None]
    notes = [f"{len(groups) - len(usable)} groups without a matched control were left out"]
    distances = _distances(query.cell_type_id, {g.cell_type_id for g in usable}, context)
    same = _by_type(usable, distances)
    others, other_notes = _other_perturbations(query, names, config, context)
    if not same and not others:
        raise CellRetrievalError(_nothing_found(query, context))
    kept = [note for note in notes if not note.startswith("0 ")] + other_notes
    all_types = {g.cell_type_id for _, _, _, found in others for g in found}
    return Pool(
        query_groups=query_groups,
        same=same,
        distances=distances | _distances(query.cell_type_id, all_types, context),
        others=others,
        notes=tuple(kept),
    )


def run_strategies(pool: Pool, config: IterationConfig) -> list[Draft]:
    """The drafts of every strategy that is switched on, in a fixed order."""
    strategies: Mapping[Strategy, Callable[[], list[Draft]]] = {
        Strategy.DIRECT: lambda: direct(pool),
        Strategy.ONTOLOGY: lambda: ontology(pool, config.ontology_distance),
        Strategy.MECHANISTIC: lambda: other_perturbation(pool, Strategy.MECHANISTIC),
        Strategy.SEMANTIC: lambda: other_perturbation(pool, Strategy.SEMANTIC),
    }
    return [draft for strategy in strategies if strategy in config.strategies for draft in strategies[strategy]()]


def direct(pool: Pool) -> list[Draft]:
    """The asked perturbation in the nearest type; types at the same distance go together."""
    if not pool.same:
        return []
    nearest = min(pool.distances[t] for t in pool.same)
    types = [t for t in pool.same if pool.distances[t] == nearest]
    names = _labels(pool, types)
    return [Draft(Strategy.DIRECT, pool.tier(types), f"the asked perturbation in {names}, {_steps(nearest)}")]


def ontology(pool: Pool, distance: int) -> list[Draft]:
    """The asked perturbation in each related type within ``distance``, and in all of them together.

    Where there is none within, the nearest types beyond are taken.
    """
    related = [t for t in pool.same if pool.distances[t] > 0]
    within = [t for t in related if pool.distances[t] <= distance]
    if not within and related:
        nearest = min(pool.distances[t] for t in related)
        within = [t for t in related if pool.distances[t] == nearest]
    drafts = [
        Draft(
            Strategy.ONTOLOGY,
            pool.tier([t]),
            f"the asked perturbation in {_labels(pool, [t])}, {_steps(pool.distances[t])}",
        )
        for t in within
    ]
    if len(within) > 1:
        drafts.append(
            Draft(Strategy.ONTOLOGY, pool.tier(within), f"the asked perturbation in all of {_labels(pool, within)}")
        )
    return drafts


def other_perturbation(pool: Pool, strategy: Strategy) -> list[Draft]:
    """Other perturbations of a strategy, each in the type nearest to the target."""
    drafts = []
    for name, origin, likeness, groups in pool.others:
        if origin is not strategy:
            continue
        nearest = min(pool.distances[g.cell_type_id] for g in groups)
        members = tuple((g, likeness / (nearest + 1)) for g in groups if pool.distances[g.cell_type_id] == nearest)
        labels = "; ".join(sorted({g.cell_type for g, _ in members}))
        reason = "acts alike" if strategy is Strategy.MECHANISTIC else "is named alike"
        drafts.append(
            Draft(strategy, members, f"{name} {reason} (likeness {likeness:.2f}), in {labels}, {_steps(nearest)}")
        )
    return drafts


def likeness(a: PerturbationEntry, b: PerturbationEntry) -> float:
    """How alike two perturbations act, -1..1: signed cosine of their expectations, family beside it.

    An inhibitor of what the other activates gets a negative value, whatever the family.
    """
    parts = {
        "targets": _signed_cosine(_signs(a, "targets"), _signs(b, "targets")),
        "response": _signed_cosine(_signs(a, "response"), _signs(b, "response")),
        "pathways": _signed_cosine(
            _signs(a, "pathways") | _signs(a, "footprints"), _signs(b, "pathways") | _signs(b, "footprints")
        ),
        "family": 1.0 if a.family == b.family else 0.0,
    }
    return sum(SIMILARITY_WEIGHTS[name] * value for name, value in parts.items())


def _signs(entry: PerturbationEntry, field_name: str) -> dict[str, float]:
    items = getattr(entry, field_name)
    return {getattr(i, "gene", None) or i.name: 1.0 if i.direction == "up" else -1.0 for i in items}


def _signed_cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    if not a or not b:
        return 0.0
    return float(sum(a[key] * b[key] for key in a.keys() & b.keys()) / np.sqrt(len(a) * len(b)))


def _other_perturbations(
    query: StructuredQuery, names: Sequence[str], config: IterationConfig, context: HaystackContext
) -> tuple[tuple[tuple[str, Strategy, float, tuple[CellGroup, ...]], ...], list[str]]:
    available = [n for n in context.require_atlas().perturbations(query.dataset) if n not in names]
    entry = context.catalogue.get(query.perturbation)
    entries = {name: context.catalogue.resolve(name) for name in available}
    alike: dict[str, tuple[Strategy, float]] = {}
    if entry is not None and Strategy.MECHANISTIC in config.strategies:
        scores = {name: likeness(entry, other) for name, other in entries.items() if other is not None}
        alike |= {n: (Strategy.MECHANISTIC, min(s, 0.95)) for n, s in scores.items() if s >= MIN_SIMILARITY}
    notes: list[str] = []
    if available and Strategy.SEMANTIC in config.strategies:
        hits, notes = _semantic_hits(query, config, context)
        for name, similarity in hits.items():
            other = entries.get(name)
            opposed = entry is not None and other is not None and likeness(entry, other) <= 0
            if name in entries and name not in alike and not opposed:
                alike[name] = (Strategy.SEMANTIC, similarity)
    found: list[tuple[str, Strategy, float, tuple[CellGroup, ...]]] = []
    for name, (strategy, score) in sorted(alike.items(), key=lambda item: (-item[1][1], item[0])):
        groups = _in_dataset(context.require_atlas().groups(perturbation=name, is_control=False), query)
        near = _distances(query.cell_type_id, {g.cell_type_id for g in groups}, context)
        usable = tuple(g for g in groups if g.control_group_id is not None and g.cell_type_id in near)
        if usable and len(found) < OTHER_PERTURBATIONS:
            found.append((name, strategy, score, usable))
    return tuple(found), notes


def _semantic_hits(
    query: StructuredQuery, config: IterationConfig, context: HaystackContext
) -> tuple[dict[str, float], list[str]]:
    models = {info.embedding_model for info in context.require_atlas().datasets()}
    if models - {context.embedding_model}:
        text = f"semantic search was left out: the atlas was embedded with {', '.join(sorted(models))}"
        return {}, [text]
    vector = context.embed([query.perturbation])[0]
    hits = context.require_atlas().semantic_search("perturbation", vector, limit=config.search_limit)
    return {hit.id: 1.0 - hit.distance for hit in hits if 1.0 - hit.distance >= SEMANTIC_FLOOR}, []


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
    known = "; ".join(label for _, label in atlas.cell_types(query.dataset)) or "no cells at all"
    raise CellRetrievalError(
        f"the atlas holds no control cells of {query.cell_type!r} ({query.cell_type_id}); it has: {known}. "
        "ask about one of these, or ingest a dataset that has them"
    )


def _names_in_atlas(query: StructuredQuery, context: HaystackContext) -> list[str]:
    """The atlas's own spellings of the asked perturbation."""
    wanted = normalise_name(query.perturbation)
    found = []
    for name in context.require_atlas().perturbations(query.dataset):
        entry = context.catalogue.resolve(name)
        if normalise_name(entry.name if entry else name) == wanted:
            found.append(name)
    return found


def _nothing_found(query: StructuredQuery, context: HaystackContext) -> str:
    known = ", ".join(context.require_atlas().perturbations(query.dataset)) or "none"
    return (
        f"the atlas holds no cells perturbed by {query.perturbation!r} or by anything like it, in types related to "
        f"{query.cell_type!r}; its perturbations: {known}. ingest a dataset that has it"
    )


def _in_dataset(groups: Iterable[CellGroup], query: StructuredQuery) -> list[CellGroup]:
    return [g for g in groups if query.dataset is None or g.dataset == query.dataset]


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


def _labels(pool: Pool, types: Sequence[str]) -> str:
    return "; ".join(pool.same[t][0].cell_type for t in types)


def _steps(distance: int) -> str:
    if distance == 0:
        return "the target type itself"
    return f"{distance} step{'s' if distance > 1 else ''} from the target in the Cell Ontology"
