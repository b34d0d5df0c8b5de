"""A client that calls one chat model: tries again where that helps, counts, and stops at the budget."""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gca_core.config import require
from gca_core.llm.factory import ChatModel, check_ready, find_key, make_chat_model
from gca_core.llm.failures import ProviderError, describe_failure
from gca_core.llm.meter import Meter, Reservation, most_tokens
from gca_core.llm.models import ChatOptions, LlmConfig

log = logging.getLogger(__name__)

# role and text pairs, or langchain-core's messages where tools are called
Messages = Sequence[tuple[str, str]] | Sequence[Any]
FIRST_WAIT_S = 1.0
LONGEST_BACKOFF_S = 30.0
# calls in a row that fail after all their tries, from which the provider counts as down
GIVE_UP_AFTER = 2


@dataclass(frozen=True)
class Reply:
    """The text of an answer, and whether the limit on output tokens cut it off.

    ``message`` is langchain-core's, with the tools that the model wants called in ``tool_calls``.
    """

    text: str
    truncated: bool
    message: Any = None

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tools that the model wants called: name, args and id of each."""
        return list(getattr(self.message, "tool_calls", None) or [])


class ChatClient:
    """Calls one model, from several threads at a time.

    A call that fails for a passing reason is tried again after a pause that grows and has jitter; a pause the
    provider asks for is kept, by all threads. After a failure that can't pass, or two calls in a row that failed
    in spite of their tries, no further call is made.

    Args:
        config: the model, named explicitly by somebody.
        options: how it is called.
        meter: counts and limits; clients may share one.
        chat_model: used instead of one made from ``config``.
        tools: langchain-core tools that the model may ask for.
        sleep, clock: how time passes, in seconds.

    Raises:
        ConfigurationError: the model's package or key is missing, or a money budget lacks its price.
    """

    def __init__(
        self,
        config: LlmConfig,
        options: ChatOptions | None = None,
        *,
        meter: Meter | None = None,
        chat_model: ChatModel | None = None,
        tools: Sequence[Any] = (),
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.options = options or ChatOptions()
        self.meter = meter or Meter()
        self.meter.check_priced(config.name)
        if chat_model is None:
            check_ready(config)
        self._chat_model, self._makes_model = chat_model, chat_model is None
        self._tools = tuple(tools)
        self._tool_tokens = sum(len(f"{tool.name}{tool.description}{tool.args}".encode()) for tool in self._tools)
        self._sleep, self._clock = sleep, clock
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._failed_in_a_row = 0
        self._down: ProviderError | None = None

    def complete(self, messages: Messages) -> Reply:
        """The model's answer to role and text pairs; roles are ``system``, ``human`` and ``ai``.

        Raises:
            ProviderError: failed after all tries, or the provider counts as down.
            BudgetError: the call could exceed the budget.
        """
        attempt, asked_plainly = 0, False
        while True:
            self._wait_for_turn()
            try:
                reply = self._try(messages)
            except ProviderError as error:
                if not asked_plainly and self._drop_temperature(error):
                    asked_plainly = True
                    continue
                wait = self._pause(error, attempt)
                if wait is None:
                    self._note_failure(error)
                    raise
                log.warning("%s; trying again in %.1f s", error, wait)
                attempt += 1
                with self._lock:
                    self._not_before = max(self._not_before, self._clock() + wait)
            else:
                with self._lock:
                    self._failed_in_a_row = 0
                return reply

    def _try(self, messages: Messages) -> Reply:
        model = self._model()
        most = most_tokens(_texts(messages)) + self._tool_tokens
        reservation = self.meter.reserve(self.config.name, most, self.options.max_output_tokens)
        try:
            message = _untraced(model, messages)
        except Exception as raised:
            error = self._described(raised)
            # what was refused costs nothing; what broke off may have been billed
            tokens = None if error.may_be_billed else 0
            self.meter.settle(reservation, tokens, tokens)
            raise error from None
        except BaseException:
            self.meter.settle(reservation, None, None)
            raise
        self._settle(reservation, message)
        return Reply(_text(message), _truncated(message), message)

    def _model(self) -> ChatModel:
        with self._lock:
            if self._chat_model is None:
                self._chat_model = self._made(self.options)
            return self._chat_model

    def _made(self, options: ChatOptions) -> ChatModel:
        model: Any = make_chat_model(self.config, options)
        bound: ChatModel = model.bind_tools(list(self._tools)) if self._tools else model
        return bound

    def _drop_temperature(self, error: ProviderError) -> bool:
        """Whether to ask again without a temperature, which some models refuse."""
        if error.status != 400 or self.options.temperature is None or "temperature" not in str(error):
            return False
        with self._lock:
            if not self._makes_model:
                return False
            log.warning("%s takes no temperature; it is left to the provider", self.config.name)
            self._chat_model = self._made(self.options.model_copy(update={"temperature": None}))
        return True

    def _described(self, error: Exception) -> ProviderError:
        secret = self.config.api_key
        if secret is None and self._chat_model is not None:
            try:
                secret = find_key(self.config)
            except Exception:
                secret = None
        return describe_failure(error, name=self.config.name, secret=secret.get_secret_value() if secret else None)

    def _settle(self, reservation: Reservation, message: Any) -> None:
        usage = getattr(message, "usage_metadata", None) or {}
        self.meter.settle(reservation, usage.get("input_tokens"), usage.get("output_tokens"))

    def _wait_for_turn(self) -> None:
        """Wait for the pause that a provider asked for, by whichever thread it was told."""
        while True:
            with self._lock:
                if self._down is not None:
                    raise self._down
                remaining = self._not_before - self._clock()
            if remaining <= 0:
                return
            self._sleep(remaining)

    def _pause(self, error: ProviderError, attempt: int) -> float | None:
        """Seconds to wait before the next try; None to give up."""
        if not error.retryable or attempt >= self.options.max_retries:
            return None
        backoff = min(FIRST_WAIT_S * 2.0**attempt, LONGEST_BACKOFF_S, self.options.max_wait_s)
        jittered = backoff * random.SystemRandom().uniform(0.5, 1.0)
        if error.retry_after_s is None:
            return jittered
        if error.retry_after_s > self.options.max_wait_s:
            return None
        # never earlier than asked, and not all threads at once
        return error.retry_after_s + 0.1 * jittered

    def _note_failure(self, error: ProviderError) -> None:
        with self._lock:
            self._failed_in_a_row += 1
            rejected = not error.retryable and error.status in {401, 403, 404, 429}
            asked_for_more = error.retry_after_s is not None and error.retry_after_s > self.options.max_wait_s
            if rejected or asked_for_more or self._failed_in_a_row >= GIVE_UP_AFTER:
                self._down = error


def _untraced(model: ChatModel, messages: Messages) -> Any:
    """Call the model without tracing: prompts go to the model that was named and nowhere else."""
    tracing_context = require("langsmith", "openai").tracing_context
    with tracing_context(enabled=False):
        return model.invoke(list(messages))


def _texts(messages: Messages) -> list[tuple[str, str]]:
    """Role and text pairs, with the arguments of tool calls among the texts."""
    return [
        m if isinstance(m, tuple) else (str(m.type), f"{m.content}{getattr(m, 'tool_calls', '')}") for m in messages
    ]


def _text(message: Any) -> str:
    text = message.text
    # halves of characters, which JSON can hold, can't be written
    return str(text if isinstance(text, str) else text()).encode(errors="replace").decode()


def _truncated(message: Any) -> bool:
    metadata = getattr(message, "response_metadata", None) or {}
    reason = metadata.get("finish_reason") or metadata.get("stop_reason") or ""
    return str(reason).lower() in {"length", "max_tokens"}
