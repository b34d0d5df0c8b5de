"""Work that ends where it is when its run is cancelled."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from gca_core.errors import RunCancelledError, StoreError
from gca_core.runs.models import RunStatus

if TYPE_CHECKING:
    from gca_core.runs.store import RunStore

LOOK_SECONDS = 3.0


@contextmanager
def until_cancelled(store: RunStore, run_id: str, *, seconds: float = LOOK_SECONDS) -> Iterator[None]:
    """Look at the run's record every few seconds from a thread, and end the block once the run is cancelled.

    The block ends in the middle of what it does, also while it waits, by an exception that a signal raises. So it has
    to be in the main thread; in another one nothing happens.

    Raises:
        RunCancelledError: the run was cancelled, before or during the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cancelled() -> bool:
        with suppress(StoreError):
            row = store.get(run_id)
            return row is not None and row.status is RunStatus.CANCELLED
        return False

    def look() -> None:
        while not done.wait(seconds):
            if cancelled():
                signal.pthread_kill(main, signal.SIGUSR1)
                return

    def end(*_: object) -> None:
        if not done.is_set():
            done.set()
            _cancelled(run_id)

    if cancelled():
        _cancelled(run_id)
    done, main = threading.Event(), threading.get_ident()
    before = signal.signal(signal.SIGUSR1, end)
    thread = threading.Thread(target=look, name="cancelled-yet", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def _cancelled(run_id: str) -> NoReturn:
    raise RunCancelledError(f"the run {run_id} was cancelled")
