"""One sub-agent at work: a prompt file, some tools, a bounded number of calls, and an answer that fits a schema."""

from __future__ import annotations

import functools
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel

from gca_core.config import require
from gca_core.errors import ConfigurationError, GcaError, LLMError
from gca_core.haystack.agent.tooling import cut
from gca_core.haystack.models import AgentReport, AgentTurn
from gca_core.io import content_hash
from gca_core.llm.chat import ChatClient, Reply
from gca_core.llm.failures import BudgetError, ProviderError
from gca_core.llm.meter import Meter
from gca_core.llm.models import Budget, ChatOptions, LlmConfig
from gca_core.llm.structured import parse_answer

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from gca_core.haystack.models import IterationConfig

log = logging.getLogger(__name__)

MAX_RESULT_CHARS = 12_000
# tools that are called of one answer, and calls that the transcript shows of it
MAX_TOOL_CALLS, MAX_SHOWN = 8, 10
_TOO_MANY = json.dumps({"error": f"at most {MAX_TOOL_CALLS} tools are called of one answer; this one was not"})
# a provider that is silent so long, twice, is left out
TIMEOUT_S, RETRIES = 60.0, 1
# what an answer that is on its way is waited for beyond the run's seconds
GRACE_S = 1.0
_VERSION = re.compile(r"version: (\d+)\n\s*")
# characters of the transcript
_ARGUMENTS, _TEXT, _FAULT = 200, 2000, 300

T = TypeVar("T", bound=BaseModel)


class Prompt(NamedTuple):
    """A prompt file; ``version`` is its number and a hash of its text."""

    text: str
    version: str


@dataclass(frozen=True)
class Agent:
    """A sub-agent: the name of its prompt file, its temperature, and the names of the tools that it is given."""

    name: str
    temperature: float
    tools: frozenset[str]


@functools.cache
def load_prompt(name: str) -> Prompt:
    """Read a prompt file of the package."""
    content = (resources.files("gca_core.haystack") / "agent" / "prompts" / f"{name}.md").read_text(encoding="utf-8")
    number, text = _VERSION.split(content, maxsplit=1)[1:]
    return Prompt(text.strip(), f"{number}-{content_hash(text)[:12]}")


@dataclass
class Session:
    """What the agents of one step share: the model, and what they may still spend.

    Attributes:
        model: the model.
        calls: calls that are left.
        meter: counts tokens, and stops before the run's are spent.
        until: monotonic time after which no call begins.
        reports: what each agent did, in order.
        down: why the model isn't asked any more; empty while it is.
    """

    model: LlmConfig
    calls: int
    meter: Meter
    until: float
    reports: list[AgentReport] = field(default_factory=list)
    down: str = ""

    @classmethod
    def of(cls, model: LlmConfig, config: IterationConfig, spent: Sequence[AgentReport] = ()) -> Session:
        """A session within a run's bounds.

        Args:
            model: the model.
            config: the bounds.
            spent: what agents of the same run did before.
        """
        tokens = config.max_model_tokens - sum(r.input_tokens + r.output_tokens for r in spent)
        seconds = config.max_model_seconds - sum(r.duration_seconds for r in spent)
        meter = Meter(Budget(max_tokens=max(1, tokens)))
        return cls(model, config.max_model_calls, meter, time.monotonic() + seconds)

    def converse(
        self, agent: Agent, task: str, schema: type[T], tools: Mapping[str, BaseTool], *, calls: int | None = None
    ) -> T:
        """Let an agent call tools until it answers; the last call that it may make is told to answer.

        Args:
            agent: who is asked.
            task: what for; text from data in it is JSON or stands in a tag.
            schema: of the answer.
            tools: by name; the agent is given those among them that are its own.
            calls: of the session's calls, how many it may make; all where None.

        Raises:
            LLMError: the provider failed, a bound is reached, or the answer doesn't fit after the calls are spent.
            ConfigurationError: the model can't be used.
        """
        prompt, before, begun = load_prompt(agent.name), self.meter.usage, time.monotonic()
        turns: list[AgentTurn] = []
        failure = ""
        try:
            own = {name: tool for name, tool in tools.items() if name in agent.tools}
            return self._talk(agent, prompt.text, task, schema, own, turns, calls)
        except (LLMError, ConfigurationError) as error:
            failure = cut(str(error), _TEXT)
            if not isinstance(error, LLMError) or isinstance(error, (ProviderError, BudgetError)):
                self.down = failure
            raise
        finally:
            usage = self.meter.usage.since(before)
            self.reports.append(
                AgentReport(
                    agent=agent.name,
                    prompt_version=prompt.version,
                    model=self.model.name,
                    failure=failure,
                    calls=usage.calls,
                    input_tokens=usage.input_tokens,
                    output_tokens=usage.output_tokens,
                    duration_seconds=round(time.monotonic() - begun, 3),
                    turns=tuple(turns),
                )
            )

    def _talk(
        self,
        agent: Agent,
        system: str,
        task: str,
        schema: type[T],
        tools: dict[str, BaseTool],
        turns: list[AgentTurn],
        calls: int | None,
    ) -> T:
        if self.down:
            raise LLMError(self.down)
        client = self._client(agent, list(tools.values()))
        history: list[Any] = [("system", system), ("human", task)]
        fault, allowed = "it called tools to the end", min(self.calls, self.calls if calls is None else calls)
        for left in range(allowed - 1, -1, -1):
            if time.monotonic() >= self.until:
                raise BudgetError("the seconds of the run's language model are spent; raise max_model_seconds")
            self.calls -= 1
            reply = self._in_time(functools.partial(client.complete, list(history)))
            if not reply.tool_calls:
                try:
                    answer = parse_answer(reply.text, schema)
                except LLMError as error:
                    fault = str(error)
                    turns.append(AgentTurn(text=cut(reply.text, _TEXT), refused=(cut(fault, _FAULT),)))
                    history += [
                        ("ai", reply.text),
                        ("human", f"That does not fit: {fault}. Answer with the JSON alone."),
                    ]
                    continue
                turns.append(AgentTurn(text=cut(reply.text, _TEXT)))
                return answer
            said = [_called(call, tools) for call in reply.tool_calls[:MAX_TOOL_CALLS]]
            said += [_TOO_MANY] * (len(reply.tool_calls) - len(said))
            messages = [_message(call["id"], text) for call, text in zip(reply.tool_calls, said, strict=True)]
            history += [reply.message, *messages]
            shown = [(_shown(call), text) for call, text in zip(reply.tool_calls, said, strict=True)][:MAX_SHOWN]
            turns.append(
                AgentTurn(
                    tools=tuple(call for call, _ in shown),
                    text=cut(reply.text, _TEXT),
                    refused=tuple(cut(text, _FAULT) for _, text in shown if text.startswith('{"error"')),
                )
            )
            if left == 1:
                history.append(("human", "No further tools: answer with the JSON now."))
        raise LLMError(f"{self.model.name} gave no usable answer within {allowed} calls: {fault}")

    def _in_time(self, call: Callable[[], Reply]) -> Reply:
        """Wait for a call no longer than the run may: a server can send a byte now and then for ever."""
        done: Future[Reply] = Future()

        def run() -> None:
            try:
                done.set_result(call())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=run, daemon=True, name="agent-call").start()
        try:
            return done.result(timeout=max(self.until - time.monotonic(), 0.0) + GRACE_S)
        except TimeoutError:
            raise BudgetError(
                f"{self.model.name} did not answer in time: the seconds of the run's language model are spent; raise "
                "max_model_seconds"
            ) from None

    def _client(self, agent: Agent, tools: list[BaseTool]) -> ChatClient:
        left = max(self.until - time.monotonic(), 0.1)
        options = ChatOptions(
            temperature=agent.temperature,
            timeout_s=min(TIMEOUT_S, left),
            max_retries=RETRIES if left > 2 * TIMEOUT_S else 0,
            max_wait_s=min(TIMEOUT_S, left),
        )
        return ChatClient(self.model, options, meter=self.meter, tools=tools)


def _called(call: dict[str, Any], tools: dict[str, BaseTool]) -> str:
    """What a tool says to a call; one that there isn't is said to be none."""
    tool = tools.get(call["name"])
    try:
        value = {"error": f"there is no tool {cut(call['name'])!r}"} if tool is None else tool.invoke(call["args"])
    except GcaError as error:
        value = {"error": str(error)}
    return (value if isinstance(value, str) else json.dumps(value))[:MAX_RESULT_CHARS]


def _message(identifier: str | None, text: str) -> Any:
    return require("langchain_core.messages", "openai").ToolMessage(content=text, tool_call_id=identifier or "")


def _shown(call: dict[str, Any]) -> str:
    return f"{cut(call['name'], _ARGUMENTS)} {cut(json.dumps(call['args'], sort_keys=True), _ARGUMENTS)}"
