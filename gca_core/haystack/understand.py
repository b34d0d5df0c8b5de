"""What is asked: a sentence that is read, or a cell type and a perturbation by name."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gca_core.errors import QueryParsingError
from gca_core.haystack.models import StructuredQuery
from gca_core.haystack.question.names import find_cell_type, find_perturbation, make_query, other_meanings
from gca_core.haystack.question.rules import EXAMPLE, check_question, parse_question

if TYPE_CHECKING:
    from gca_core.haystack.context import HaystackContext

log = logging.getLogger(__name__)


def understand(
    question: str | None,
    context: HaystackContext,
    *,
    cell_type: str | None = None,
    perturbation: str | None = None,
    kind: str | None = None,
    dataset: str | None = None,
) -> StructuredQuery:
    """What is asked, as ids and canonical names: of a sentence, or of a cell type and a perturbation.

    A sentence is read by rules; where they can't and a model is configured, the model reads it with tools.

    Args:
        question: one human cell type and one perturbation in plain words; None where they are named.
        context: where names are looked up.
        cell_type: name or id of the Cell Ontology.
        perturbation: name of a cytokine, drug, stimulus, gene or genetic perturbation.
        kind: what is done: ``knockout``, ``CRISPRi``, ``cytokine``, ``drug``, ...; with a sentence it stands in there.
        dataset: restricts the run to a dataset of the atlas.

    Raises:
        QueryParsingError: both ways or neither are used, or no, an unknown, or several cell types or perturbations are
            named; ``reason`` says which, ``suggestions`` what may be meant.
        ConfigurationError: there is no such kind.
    """
    named = (cell_type, perturbation, kind)
    if question is not None and any(named):
        raise QueryParsingError(
            "give a question, or a cell type and a perturbation by name, but not both", reason="two_ways"
        )
    if question is not None:
        query = _read(question, context, dataset)
    elif cell_type and perturbation:
        query = _look_up(cell_type, perturbation, kind, context, dataset)
    else:
        raise QueryParsingError(f"give a cell type and a perturbation, or a question; {EXAMPLE}", reason="empty")
    log.info("cell type %s (%s), perturbation %s", query.cell_type, query.cell_type_id, query.perturbation)
    return query


def _read(question: str, context: HaystackContext, dataset: str | None) -> StructuredQuery:
    try:
        return parse_question(
            question,
            ontology=context.ontology,
            catalogue=context.catalogue,
            extra_perturbations=lambda: context.known_perturbations(dataset),
            dataset=dataset,
        )
    except QueryParsingError as refusal:
        if context.language_model is None:
            raise
        from gca_core.haystack.agent.reading import ask_for_reading

        return ask_for_reading(question, refusal, context, dataset=dataset)


def _look_up(
    cell_type: str, perturbation: str, kind: str | None, context: HaystackContext, dataset: str | None
) -> StructuredQuery:
    text = check_question(f"{cell_type}: {perturbation}{f' ({kind})' if kind else ''}")
    name, entry = find_perturbation(perturbation, context.catalogue, kind, lambda: context.known_perturbations(dataset))
    return make_query(
        text,
        find_cell_type(cell_type, context.ontology),
        cell_type,
        name,
        perturbation,
        entry,
        ontology=context.ontology,
        dataset=dataset,
        ambiguities=other_meanings(perturbation, name, context.catalogue),
        reader="names",
    )
