"""A language model at work within the rules' bounds: it proposes prompts beside theirs, after a look at what was tried.

From the second iteration on an orchestrator says whether the scores are read by the grounding-evaluation agent first,
and whether the prompt-generation agent is asked at all; where only one can be asked, nobody is asked about it. What a
model answers is a value of a schema and is checked like anything else: each group against the atlas, each name of a
critique against the run. How relevant a prompt is, the rules decide. Whatever fails, the rules' result stands, with a
note.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from gca_core import io
from gca_core.errors import CellRetrievalError, ConfigurationError, LLMError
from gca_core.haystack.agent.conversation import Agent, Session
from gca_core.haystack.agent.critique import EVALUATOR, Critique, check_critique, described, in_words
from gca_core.haystack.agent.run_tools import make_run_tools
from gca_core.haystack.agent.tooling import cut
from gca_core.haystack.agent.tools import TOOL_NAMES, make_tools, read_only
from gca_core.haystack.models import AgentReport, Strategy
from gca_core.haystack.prompts.strategies import PromptDraft, draft_of_groups

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from gca_core.haystack.context import HaystackContext
    from gca_core.haystack.models import HaystackRun, IterationConfig, StructuredQuery
    from gca_core.haystack.prompts.strategies import CandidatePool
    from gca_core.llm.models import LlmConfig

log = logging.getLogger(__name__)

ORCHESTRATOR = Agent("orchestrator", 0.2, frozenset({"check_convergence", "compute_grounding_score"}))
GENERATOR = Agent("prompt_generation", 0.7, frozenset({*TOOL_NAMES, "compute_grounding_score"}))
MAX_PROMPTS, MAX_TRIED, MAX_SUGGESTIONS = 8, 20, 8
# of the calls of a proposal: the plan takes two at most, the critique leaves half of the rest
PLAN_CALLS, CALLS_WITH_PLAN = 2, 4

Asked = Literal["grounding_evaluation", "prompt_generation"]
EVERYBODY: tuple[Asked, ...] = ("grounding_evaluation", "prompt_generation")


class Plan(BaseModel, frozen=True):
    """Whom the orchestrator wants asked, and what each should look at."""

    ask: list[Asked] = Field(max_length=2)
    focus: dict[Asked, str] = Field(default={})


class ProposedPrompt(BaseModel, frozen=True):
    """Groups that a model chose, and why."""

    group_ids: list[Annotated[str, Field(max_length=100)]] = Field(min_length=1, max_length=50)
    rationale: str = Field(default="", max_length=600)


class ProposedPrompts(BaseModel, frozen=True):
    """A model's answer."""

    prompts: list[ProposedPrompt] = Field(max_length=MAX_PROMPTS)


class ModelAnswer(BaseModel, frozen=True):
    """The prompts of a model, or why there are none, and how it came to them.

    Attributes:
        notes: what it made of the scores, and what was left out of its answers.
        agents: the transcript of each agent that was asked.
    """

    model: str
    prompts: tuple[ProposedPrompt, ...] = ()
    failure: str = ""
    notes: tuple[str, ...] = ()
    agents: tuple[AgentReport, ...] = ()


def ask_agents(
    query: StructuredQuery,
    pool: CandidatePool,
    config: IterationConfig,
    context: HaystackContext,
    run: HaystackRun | None = None,
) -> ModelAnswer | None:
    """What a model proposes, its groups unchecked; None where no model is named or may be asked.

    Args:
        query: what is asked.
        pool: what the rules found.
        config: what the model may spend.
        context: atlas and knowledge, which the model sees through the tools, and the model.
        run: the run so far, whose scores the model is told.
    """
    if context.language_model is None or config.max_model_calls == 0:
        return None
    session = Session.of(context.language_model, config, run.agents() if run else ())
    notes: list[str] = []
    prompts: list[ProposedPrompt] = []
    failure = ""
    try:
        tools = _tools(query, context, run)
        task = _task(query, pool, run)
        plan = _plan(session, task, tools, run, notes)
        if run is not None and "grounding_evaluation" in plan.ask:
            critique = _critique(session, task, plan, tools, run, notes)
            task |= {"critique": critique.model_dump(mode="json")} if critique else {}
        if "prompt_generation" in plan.ask:
            said = session.converse(GENERATOR, _told(task, plan, "prompt_generation"), ProposedPrompts, tools)
            prompts = said.prompts
    except (LLMError, ConfigurationError) as error:
        failure = f"{context.language_model.name} was left out, and the rules chose alone: {cut(str(error), 1000)}"
    return ModelAnswer(
        model=context.language_model.name,
        prompts=tuple(prompts),
        failure=failure,
        notes=tuple(notes),
        agents=tuple(session.reports),
    )


def drafts_of(
    answer: ModelAnswer | None, query: StructuredQuery, context: HaystackContext
) -> tuple[list[PromptDraft], tuple[str, ...]]:
    """The prompts of an answer that hold, as drafts, and what became of the others."""
    if answer is None:
        return [], ()
    drafts, notes = [], [*answer.notes, *filter(None, [answer.failure])]
    for prompt in answer.prompts:
        reason = f"{answer.model}: {prompt.rationale}"
        try:
            drafts.append(draft_of_groups(prompt.group_ids, query, context, Strategy.MODEL, reason))
        except CellRetrievalError as error:
            notes.append(f"a prompt of {answer.model} was refused: {cut(str(error))}")
    return drafts, tuple(notes)


def transcript_uri(run: HaystackRun, state_sha256: str, iteration: int, model: LlmConfig) -> str:
    """Where the answer of a model to a state is kept, with its transcript."""
    key = io.content_hash([state_sha256, model.identity, run.config.max_model_calls])
    return io.join_uri(run.work_uri, f"agents-{iteration}-{key[:12]}.json")


def transcripts(run: HaystackRun, model: LlmConfig | None) -> list[AgentReport]:
    """What the agents of a run did, in order, with every turn."""
    found = [] if run.query.reading is None else [run.query.reading]
    if model is None:
        return found
    for iteration in range(len(run.iterations)):
        state = io.join_uri(run.work_uri, f"state-{iteration}.json")
        uri = transcript_uri(run, io.sha256_file(state), iteration, model)
        if io.as_path(uri).exists():
            found += ModelAnswer.model_validate(io.read_json(uri, what="answer of a model")).agents
    return found


def summaries(answer: ModelAnswer | None) -> tuple[AgentReport, ...]:
    """What the agents did, without their transcripts."""
    return () if answer is None else tuple(report.model_copy(update={"turns": ()}) for report in answer.agents)


def _tools(query: StructuredQuery, context: HaystackContext, run: HaystackRun | None) -> dict[str, BaseTool]:
    reader = read_only(context)
    found = [*make_tools(reader, dataset=query.dataset), *(make_run_tools(lambda: run, reader) if run else ())]
    return {tool.name: tool for tool in found}


def _task(query: StructuredQuery, pool: CandidatePool, run: HaystackRun | None) -> dict[str, Any]:
    tried = run.evaluations()[-MAX_TRIED:] if run else ()
    return {
        "cell_type": query.cell_type,
        "cell_type_id": query.cell_type_id,
        "perturbation": query.perturbation,
        "family": query.family,
        "perturbations_that_act_alike_by_the_rules": [cut(other.name) for other in pool.others],
        "tried": [described(evaluation) for evaluation in tried],
    }


def _told(task: dict[str, Any], plan: Plan, agent: Asked) -> str:
    focus = cut(plan.focus.get(agent, ""))
    return json.dumps(task | ({"focus": focus} if focus else {}), ensure_ascii=False)


def _plan(
    session: Session, task: dict[str, Any], tools: dict[str, BaseTool], run: HaystackRun | None, notes: list[str]
) -> Plan:
    """Whom to ask; an orchestrator that gives no usable answer leaves both.

    Raises:
        LLMError: the provider failed, or a bound is reached.
    """
    if run is None or not run.evaluations() or session.calls < CALLS_WITH_PLAN:
        return Plan(ask=["prompt_generation"])
    scores = [{"iteration": r.iteration, "best_score": r.best_score} for r in run.iterations]
    try:
        told = json.dumps(task | {"iterations": scores}, ensure_ascii=False)
        plan = session.converse(ORCHESTRATOR, told, Plan, tools, calls=PLAN_CALLS)
    except LLMError as error:
        if session.down:
            raise
        notes.append(f"the orchestrator left no plan, so both agents were asked: {cut(str(error))}")
        return Plan(ask=list(EVERYBODY))
    if not plan.ask:
        notes.append(f"{session.model.name} left this iteration to the rules")
    return plan


def _critique(
    session: Session, task: dict[str, Any], plan: Plan, tools: dict[str, BaseTool], run: HaystackRun, notes: list[str]
) -> Critique | None:
    """What the grounding-evaluation agent would change, as far as the run knows it.

    Raises:
        LLMError: the provider failed, or a bound is reached.
    """
    tried = run.evaluations()[-MAX_TRIED:]
    own = task | {"tried": [described(evaluation, suggestions=MAX_SUGGESTIONS) for evaluation in tried]}
    try:
        told = _told(own, plan, "grounding_evaluation")
        said = session.converse(EVALUATOR, told, Critique, tools, calls=max(1, session.calls // 2))
    except LLMError as error:
        if session.down:
            raise
        notes.append(f"the scores were not read by {session.model.name}: {cut(str(error))}")
        return None
    critique, odd = check_critique(said, run.query, tried)
    if words := in_words(critique):
        notes.append(f"{session.model.name} on the scores: {words}")
    if odd:
        notes.append(f"names that this run doesn't know were left out of it: {', '.join(odd)}")
    return critique
