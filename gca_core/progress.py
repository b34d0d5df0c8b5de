"""What a long piece of work is at: told by the work, heard by whoever shows it. Nobody has to listen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A stage that is under way.

    Attributes:
        stage: its name, such as ``rank``.
        done, total: parts of it; None where they are not counted.
    """

    stage: str
    done: int | None = None
    total: int | None = None


Listener = Callable[[Progress], None]
_listener: ContextVar[Listener | None] = ContextVar("gca_progress", default=None)


def report_progress(stage: str, done: int | None = None, total: int | None = None) -> None:
    """Say what the work is at; costs next to nothing where nobody listens."""
    listener = _listener.get()
    if listener is not None:
        listener(Progress(stage, done, total))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have ``listener`` called in the block, in the thread that does the work; what it raises ends the work."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
