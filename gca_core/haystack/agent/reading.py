"""The query-understanding agent: a model reads a question that the rules can't, and its reading is checked.

The cell type is checked against the ontology, the perturbation against catalogue and atlas. Whatever fails, the rules'
refusal stands.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from gca_core.errors import ConfigurationError, LLMError, QueryParsingError
from gca_core.haystack.agent.conversation import Agent, Session
from gca_core.haystack.agent.tools import make_tools, read_only
from gca_core.haystack.models import AgentReport, IterationConfig, StructuredQuery
from gca_core.haystack.question.names import find_perturbation, make_query
from gca_core.haystack.question.rules import check_question, refuse_changed_subject

if TYPE_CHECKING:
    from gca_core.haystack.context import HaystackContext

log = logging.getLogger(__name__)

READER = Agent(
    "query_understanding",
    0.2,
    frozenset(
        {
            "resolve_cell_type",
            "resolve_perturbation",
            "search_cells_by_perturbation",
            "search_cells_by_cell_type",
            "semantic_search_cells",
            "find_ontology_related_cells",
            "get_drug_targets",
            "find_mechanistically_similar_perturbations",
        }
    ),
)
READING_CALLS = 6
# only what a model can put right is asked again; the rest is refused for good
READABLE = frozenset({"unknown_cell_type", "no_cell_type", "unknown_perturbation", "no_perturbation"})


class ReadQuestion(BaseModel, frozen=True):
    """How a model read a question; empty where it could not."""

    cell_type_id: str = Field(default="", max_length=20)
    perturbation: str = Field(default="", max_length=300)
    doubt: str = Field(default="", max_length=1000)


def ask_for_reading(
    question: str,
    refusal: QueryParsingError,
    context: HaystackContext,
    *,
    dataset: str | None = None,
) -> StructuredQuery:
    """Read a question that the rules refused, with a model where one is named.

    Raises:
        QueryParsingError: the rules' refusal, where there is no model, it fails, or its answer doesn't hold.
    """
    if context.language_model is None or refusal.reason not in READABLE:
        raise refusal
    text = check_question(question)
    session = Session.of(context.language_model, IterationConfig(max_model_calls=READING_CALLS))
    try:
        tools = {tool.name: tool for tool in make_tools(read_only(context), dataset=dataset)}
        read = session.converse(READER, f"<question>{text}</question>", ReadQuestion, tools)
    except (LLMError, ConfigurationError) as error:
        log.warning("the model could not read the question, so the rules' answer stands: %s", error)
        raise refusal from None
    query = _checked(text, read, session.reports[-1], context, dataset)
    if query is None:
        log.warning("the model's reading does not hold, so the rules' answer stands: %s", read)
        raise refusal
    return query


def _checked(
    text: str, read: ReadQuestion, report: AgentReport, context: HaystackContext, dataset: str | None
) -> StructuredQuery | None:
    """The query of a model's reading, or None where it names what isn't there or the question doesn't bear it."""
    ontology, catalogue = context.ontology, context.catalogue
    identifier = ontology.resolve(read.cell_type_id) if read.cell_type_id else None
    if identifier is None or not read.perturbation:
        return None
    try:
        name, entry = find_perturbation(
            read.perturbation, catalogue, extra=lambda: context.known_perturbations(dataset)
        )
    except QueryParsingError:
        return None
    refuse_changed_subject(text, name, catalogue)
    label = ontology.label(identifier)
    notes = [f"the rules could not read the question; {report.model} read it as {label!r} and {name!r}"]
    if read.doubt:
        notes.append(f"{report.model}: {read.doubt}")
    query = make_query(
        text, identifier, "", name, "", entry, ontology=ontology, dataset=dataset, ambiguities=notes,
        reader=report.model,
    )  # fmt: skip
    return query.model_copy(update={"reading": report})
