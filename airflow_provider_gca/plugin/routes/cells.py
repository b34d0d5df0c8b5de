"""``/cells``: what the atlas holds, and which prompts it gives."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.plugin.models import MAX_NAME, MAX_PAGE, MAX_QUESTION, PAGE, TEXT, Prompt, Prompts
from airflow_provider_gca.plugin.records import explorer
from gca_core.atlas.explore import GroupPage

router = APIRouter(tags=["cells"])
Word = Annotated[
    str | None, Query(max_length=MAX_NAME, pattern=TEXT, description="A part of a name or synonym, or an id.")
]


@router.get("/cells")
def cells(
    cell_type: Word = None,
    perturbation: Word = None,
    tissue: Word = None,
    dataset: Word = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = PAGE,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> GroupPage:
    """Groups of cells that fit every word given."""
    return explorer().browse(
        cell_type=cell_type, perturbation=perturbation, tissue=tissue, dataset=dataset, limit=limit, offset=offset
    )


@router.get("/cells/prompts")
def prompts(
    question: Annotated[str, Query(min_length=10, max_length=MAX_QUESTION, pattern=TEXT)],
    dataset: Annotated[str | None, Query(max_length=MAX_NAME, pattern=TEXT)] = None,
) -> Prompts:
    """The prompts that a question would begin with; nothing is predicted."""
    from gca_core.haystack.models import IterationConfig
    from gca_core.haystack.steps import suggest
    from gca_core.haystack.understand import understand

    context = AtlasHook().get_haystack_context()
    query = understand(question, context, dataset=dataset)
    found = suggest(query, IterationConfig(candidates_per_iteration=10), context)
    return Prompts(
        question=query.question,
        cell_type=query.cell_type,
        cell_type_id=query.cell_type_id,
        perturbation=query.perturbation,
        prompts=[
            Prompt(
                cell_types=c.cell_types,
                perturbations=c.perturbations,
                strategies=tuple(strategy.value for strategy in c.strategies),
                n_cells=c.n_cells,
                rank_score=c.rank_score,
                rationale=c.rationale,
            )
            for c in found.candidates
        ],
    )
