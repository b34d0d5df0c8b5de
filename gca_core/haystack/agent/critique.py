"""The grounding-evaluation agent: it reads computed scores and says what the next prompts should change.

It names gene sets, groups, strategies and candidates, and each name has to be one that it was given. What it says is
advice for the agent that chooses prompts, and a note of the run; no score, stop or choice follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from gca_core.haystack.agent.conversation import Agent
from gca_core.haystack.agent.tooling import cut
from gca_core.haystack.models import CandidateEvaluation, StructuredQuery

EVALUATOR = Agent(
    "grounding_evaluation",
    0.2,
    frozenset(
        {
            "extract_de_genes",
            "run_pathway_enrichment",
            "check_target_activation",
            "search_literature_evidence",
            "build_gene_network",
            "compute_grounding_score",
            "get_drug_targets",
            "get_pathway_memberships",
            "get_pathway_priors",
            "find_mechanistically_similar_perturbations",
        }
    ),
)
MAX_GROUPS = 20

Name = Annotated[str, Field(max_length=300)]


class Critique(BaseModel, frozen=True):
    """What a model would change; every name is one of the run's."""

    summary: str = Field(default="", max_length=1000)
    strengthen: list[Name] = Field(default=[], max_length=10)
    drop_groups: list[Name] = Field(default=[], max_length=20)
    drop_strategies: list[Name] = Field(default=[], max_length=10)
    combine: list[Annotated[list[Name], Field(min_length=2, max_length=4)]] = Field(default=[], max_length=5)


def described(evaluation: CandidateEvaluation, *, suggestions: int = 0) -> dict[str, Any]:
    """A tried prompt and how it did, as a model is told."""
    candidate, score = evaluation.candidate, evaluation.grounding
    told: dict[str, Any] = {
        "candidate_id": candidate.candidate_id,
        "strategies": [strategy.value for strategy in candidate.strategies],
        "perturbations": [cut(name) for name in candidate.perturbations],
        "cell_types": [cut(name) for name in candidate.cell_types],
        "group_ids": list(candidate.cell_group_ids[:MAX_GROUPS]),
        "grounding_score": None if evaluation.score is None else round(evaluation.score, 2),
        "agreement": evaluation.agreement,
        "expected_accuracy": None if evaluation.expected is None else round(evaluation.expected.value, 3),
    }
    if suggestions and score is not None:
        told["parts"] = {part.name: part.score for part in score.components}
        told["suggestions"] = [
            " ".join(filter(None, (s.action.value, cut(s.subject), s.direction or "")))
            for s in score.improvement_suggestions[:suggestions]
        ]
    return told


def check_critique(
    critique: Critique, query: StructuredQuery, tried: Sequence[CandidateEvaluation]
) -> tuple[Critique, tuple[str, ...]]:
    """The critique without what the run doesn't know, and what was left out."""
    expected = query.expectation
    subjects = {s.subject for e in tried if e.grounding for s in e.grounding.improvement_suggestions}
    subjects |= {item.name for item in (*expected.pathways, *expected.footprints)}
    subjects |= {item.gene for item in (*expected.targets, *expected.response)}
    known = {
        "strengthen": subjects,
        "drop_groups": {group for e in tried for group in e.candidate.cell_group_ids},
        "drop_strategies": {strategy.value for e in tried for strategy in e.candidate.strategies},
    }
    ids = {e.candidate.candidate_id for e in tried}
    given = {field: list(dict.fromkeys(getattr(critique, field))) for field in known}
    odd = [name for field, names in given.items() for name in names if name not in known[field]]
    odd += [name for pair in critique.combine for name in pair if name not in ids]
    kept: dict[str, Any] = {field: [name for name in given[field] if name in known[field]] for field in known}
    kept["combine"] = [pair for pair in critique.combine if set(pair) <= ids and len(set(pair)) > 1]
    return critique.model_copy(update=kept), tuple(cut(name, 80) for name in dict.fromkeys(odd))


def in_words(critique: Critique) -> str:
    """A critique as a sentence for the run's notes."""
    parts = {
        "strengthen": ", ".join(critique.strengthen),
        "drop groups": ", ".join(critique.drop_groups),
        "drop strategies": ", ".join(critique.drop_strategies),
        "combine": ", ".join(" with ".join(pair) for pair in critique.combine),
    }
    advice = "; ".join(f"{name} {what}" for name, what in parts.items() if what)
    return " ".join(filter(None, (critique.summary, f"({advice})" if advice else "")))
