"""One client for all threads: pauses, tries and giving up."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from gca_core.llm.chat import ChatClient
from gca_core.llm.failures import BudgetError, ProviderError
from gca_core.llm.meter import Meter
from gca_core.llm.models import Budget, ChatOptions, parse_model

CONFIG = parse_model("openai-compatible:m@http://127.0.0.1:9/v1")
PROMPT = [("human", "hello")]


class RefusedError(Exception):
    def __init__(self, status: int, wait: str | None = None) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        self.response = type("R", (), {"headers": {"Retry-After": wait} if wait else {}})()


class Scripted:
    """A chat model that raises or answers as a list says, then answers "done"."""

    def __init__(self, *steps: BaseException | AIMessage) -> None:
        self.steps = list(steps)
        self.calls = 0
        self.lock = threading.Lock()

    def invoke(self, input: Any, /) -> Any:  # noqa: A002
        with self.lock:
            self.calls += 1
            step = self.steps.pop(0) if self.steps else AIMessage("done")
        if isinstance(step, BaseException):
            raise step
        return step


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, []
        self.lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self.lock:
            self.waits.append(seconds)
            self.now += seconds

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(clock: Clock) -> Callable[..., ChatClient]:
    def make(model: Scripted, meter: Meter | None = None, **options: Any) -> ChatClient:
        chat = ChatOptions(**options)
        return ChatClient(CONFIG, chat, meter=meter, chat_model=model, sleep=clock.sleep, clock=clock.time)

    return make


def test_pauses_grow_and_have_jitter(client: Callable[..., ChatClient], clock: Clock) -> None:
    model = Scripted(*(RefusedError(503) for _ in range(7)))
    assert client(model, max_retries=8).complete(PROMPT).text == "done"
    longest = [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert all(0.5 * most <= wait <= most for wait, most in zip(clock.waits, longest, strict=True))
    assert len({wait / most for wait, most in zip(clock.waits, longest, strict=True)}) > 1


def test_a_wished_pause_is_never_shortened(client: Callable[..., ChatClient], clock: Clock) -> None:
    client(Scripted(RefusedError(429, "20"))).complete(PROMPT)
    assert 20.0 <= clock.waits[0] <= 21.0


def test_a_pause_asked_of_one_thread_holds_for_all(clock: Clock) -> None:
    model = Scripted(RefusedError(429, "20"))
    first_waits, both_wait = threading.Event(), threading.Barrier(2, timeout=10)

    def sleep(seconds: float) -> None:
        first_waits.set()
        both_wait.wait()
        clock.sleep(seconds)

    shared = ChatClient(CONFIG, chat_model=model, sleep=sleep, clock=clock.time)
    with ThreadPoolExecutor(2) as pool:
        told = pool.submit(shared.complete, PROMPT)
        assert first_waits.wait(10)
        other = pool.submit(shared.complete, PROMPT)
        assert (told.result().text, other.result().text) == ("done", "done")
    assert all(wait >= 20.0 for wait in clock.waits)
    assert (len(clock.waits), model.calls) == (2, 3)


@pytest.mark.parametrize(("status", "calls"), [(400, 1), (401, 1), (500, 3)])
def test_only_what_can_pass_is_tried_again(client: Callable[..., ChatClient], status: int, calls: int) -> None:
    model = Scripted(*(RefusedError(status) for _ in range(5)))
    with pytest.raises(ProviderError, match=f"HTTP {status}"):
        client(model, max_retries=2).complete(PROMPT)
    assert model.calls == calls


def test_two_calls_that_failed_end_the_asking_and_a_good_one_between_does_not(client):
    model = Scripted(RefusedError(500), AIMessage("done"), RefusedError(500), RefusedError(500))
    shared = client(model, max_retries=0)
    for expected in (False, True, False, False):
        if expected:
            assert shared.complete(PROMPT).text == "done"
        else:
            with pytest.raises(ProviderError):
                shared.complete(PROMPT)
    with pytest.raises(ProviderError, match="HTTP 500"):
        shared.complete(PROMPT)
    assert model.calls == 4


def test_tries_that_would_exceed_the_budget_are_not_made(client: Callable[..., ChatClient]) -> None:
    model = Scripted(TimeoutError())
    with pytest.raises(BudgetError):
        client(model, meter=Meter(Budget(max_tokens=150)), max_output_tokens=100).complete(PROMPT)
    # the first may have been billed, so a second does not fit
    assert model.calls == 1


def test_an_interrupted_call_is_counted_and_passed_on(client: Callable[..., ChatClient]) -> None:
    meter = Meter()
    with pytest.raises(KeyboardInterrupt):
        client(Scripted(KeyboardInterrupt()), meter=meter, max_output_tokens=100).complete(PROMPT)
    assert meter.usage.estimated_tokens == 100 + len("hello") + 16


def test_text_in_blocks_and_the_end_of_an_answer_are_read(client: Callable[..., ChatClient]) -> None:
    blocks = AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
    cut = AIMessage("half", response_metadata={"stop_reason": "max_tokens"})
    shared = client(Scripted(blocks, cut))
    assert shared.complete(PROMPT).text == "ab"
    assert shared.complete(PROMPT).truncated
