"""An atlas that is a list, and what runs are made of."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from gca_core.atlas.models import CellGroup, SearchHit, make_group_id
from gca_core.grounding.models import GroundingScore, GroundingStatus
from gca_core.haystack.context import HaystackContext, open_knowledge
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
from gca_core.haystack.question.rules import parse_question

QUESTION = "How would CD14+ monocytes respond to interferon beta?"
TYPES = {
    "CL:0002057": "classical monocyte",
    "CL:0002396": "non-classical monocyte",
    "CL:0000451": "dendritic cell",
    "CL:0000236": "B cell",
    "CL:0000625": "CD8 T cell",
}


def cell_group(
    perturbation: str, cell_type_id: str, *, n_cells: int = 200, controlled: bool = True, dataset: str = "d"
) -> CellGroup:
    """A group; ``ctrl`` is the control."""
    is_control = perturbation == "ctrl"
    control = None if is_control or not controlled else make_group_id(dataset, "ctrl", cell_type_id, None)
    return CellGroup(
        group_id=make_group_id(dataset, perturbation, cell_type_id, None),
        dataset=dataset,
        perturbation=perturbation,
        is_control=is_control,
        cell_type_id=cell_type_id,
        cell_type=TYPES[cell_type_id],
        donor=None,
        n_cells=n_cells,
        control_group_id=control,
        control_match=None if control is None else "type",
    )


@dataclass(frozen=True)
class ListedAtlas:
    """The reading side of an atlas over a plain list of groups."""

    listed: tuple[CellGroup, ...]
    hits: tuple[SearchHit, ...] = ()
    models: tuple[str, ...] = field(default=("hashed-text-1536",))

    def groups(
        self,
        *,
        dataset: str | None = None,
        perturbation: str | None = None,
        cell_type_ids: Iterable[str] | None = None,
        is_control: bool | None = None,
    ) -> list[CellGroup]:
        types = None if cell_type_ids is None else set(cell_type_ids)
        found = [
            g
            for g in self.listed
            if (dataset is None or g.dataset == dataset)
            and (perturbation is None or g.perturbation == perturbation)
            and (types is None or g.cell_type_id in types)
            and (is_control is None or g.is_control == is_control)
        ]
        return sorted(found, key=lambda g: g.group_id)

    def get_groups(self, group_ids: Iterable[str]) -> list[CellGroup]:
        by_id = {group.group_id: group for group in self.listed}
        return [by_id[group_id] for group_id in group_ids]

    def perturbations(self, dataset: str | None = None) -> list[str]:
        return sorted({g.perturbation for g in self.groups(dataset=dataset, is_control=False)})

    def cell_types(self, dataset: str | None = None) -> list[tuple[str, str]]:
        return sorted({(g.cell_type_id, g.cell_type) for g in self.groups(dataset=dataset)})

    def datasets(self) -> list[Any]:
        names = {"dataset": "d", "content_hash": "h"}
        return [type("Info", (), {"embedding_model": name, **names})() for name in self.models]

    def group_means(self, group_ids: list[str]) -> tuple[np.ndarray, list[str]]:
        seeds = [zlib.crc32(group_id.encode()) for group_id in group_ids]
        return np.array([np.random.default_rng(seed).random(20) for seed in seeds]), [f"G{i}" for i in range(20)]

    def semantic(
        self,
        vector: list[float],
        *,
        kind: str,
        limit: int,
        dataset: str | None,
        exclude_perturbations: Iterable[str],
        is_control: bool,
        min_similarity: float,
    ) -> list[SearchHit]:
        there = set(self.perturbations(dataset)) - set(exclude_perturbations)
        hits = [h for h in self.hits if h.kind == kind and h.id in there and h.similarity >= min_similarity]
        return hits[:limit]

    def similarity_threshold(self) -> float | None:
        return None


@pytest.fixture(scope="session")
def knowledge_context() -> HaystackContext:
    return open_knowledge()


@pytest.fixture
def context_of(knowledge_context: HaystackContext) -> Callable[..., HaystackContext]:
    """A context whose atlas lists these groups."""

    def make(*groups: CellGroup, **options: Any) -> HaystackContext:
        return replace(knowledge_context, atlas=ListedAtlas(groups, **options))  # type: ignore[arg-type]

    return make


@pytest.fixture
def kang_context(context_of: Callable[..., HaystackContext]) -> HaystackContext:
    """Controls of five types, and interferon beta in all but classical monocytes."""
    controls = [cell_group("ctrl", t) for t in TYPES]
    perturbed = [cell_group("interferon beta", t) for t in TYPES if t != "CL:0002057"]
    return context_of(*controls, *perturbed)


@pytest.fixture
def query(knowledge_context: HaystackContext) -> StructuredQuery:
    return parse_question(QUESTION, ontology=knowledge_context.ontology, catalogue=knowledge_context.catalogue)


def evaluation(
    candidate_id: str, score: float | None, *, relevance: float = 0.5, seconds: float = 1.0, failed: bool = False
) -> CandidateEvaluation:
    """An evaluation with this score; None is ungroundable."""
    candidate = PromptCandidate(
        candidate_id=candidate_id,
        strategy=Strategy.DIRECT,
        cell_group_ids=(f"g-{candidate_id}",),
        control_group_ids=("g-control",),
        query_group_ids=("g-query",),
        relevance=relevance,
    )
    if failed:
        return CandidateEvaluation(candidate=candidate, status=EvaluationStatus.FAILED, error="broken")
    status = GroundingStatus.UNGROUNDABLE if score is None else GroundingStatus.SCORED
    return CandidateEvaluation(
        candidate=candidate,
        status=EvaluationStatus.UNGROUNDABLE if score is None else EvaluationStatus.SCORED,
        grounding=GroundingScore(status=status, score=score),
        prediction_uri=f"file:///{candidate_id}.h5ad",
        duration_seconds=seconds,
    )


@pytest.fixture
def run_with(query: StructuredQuery, knowledge_context: HaystackContext) -> Callable[..., HaystackRun]:
    """A run whose iterations had these scores, one candidate each; an empty list is an empty proposal."""

    def make(*scores: float | list[Any] | None, **options: Any) -> HaystackRun:
        config = IterationConfig.model_validate({"max_iterations": 10, **options})
        records = []
        for i, score in enumerate(scores):
            done = () if isinstance(score, list) else (evaluation(f"c-{i}", score),)
            best = done[0].score if done else None
            records.append(IterationRecord(iteration=i, evaluations=done, best_score=best, empty_reason="none left"))
        return HaystackRun(
            run_id="r",
            results_uri="file:///r",
            query=query,
            config=config,
            provenance=knowledge_context.provenance(config),
            iterations=tuple(records),
        )

    return make
