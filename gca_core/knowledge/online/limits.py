"""How often a service is called, and when it is left alone for a while."""

import threading
import time
from collections import deque
from collections.abc import Callable

Clock = Callable[[], float]
FAILURES = 3
COOLDOWN_S = 60.0


class RateLimit:
    """At most ``requests`` calls in any ``window_s`` seconds; safe between threads and event loops.

    Args:
        requests: calls in a window.
        window_s: length of the window in seconds.
        clock: seconds that never go back.
    """

    def __init__(self, requests: int, window_s: float, clock: Clock = time.monotonic) -> None:
        self._requests, self._window_s, self._clock = requests, window_s, clock
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Take the next place, and say how many seconds to wait for it."""
        with self._lock:
            now = self._clock()
            start = now if len(self._times) < self._requests else max(now, self._times[0] + self._window_s)
            self._times.append(start)
            if len(self._times) > self._requests:
                self._times.popleft()
            return start - now


class CircuitBreaker:
    """Leaves a service alone after several failures in a row, and tries it once when the pause is over.

    Args:
        failures: how many calls in a row must fail.
        cooldown_s: length of the pause in seconds.
        clock: seconds that never go back.
    """

    def __init__(self, failures: int = FAILURES, cooldown_s: float = COOLDOWN_S, clock: Clock = time.monotonic) -> None:
        self._failures, self._cooldown_s, self._clock = failures, cooldown_s, clock
        self._count = 0
        self._opened: float | None = None
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Whether the service may be called now; after the pause, one caller at a time finds out."""
        with self._lock:
            if self._opened is None:
                return True
            if self._clock() - self._opened < self._cooldown_s:
                return False
            self._opened = self._clock()
            return True

    def succeeded(self) -> None:
        """The service answered."""
        with self._lock:
            self._count, self._opened = 0, None

    def failed(self) -> None:
        """The service did not answer, after all attempts."""
        with self._lock:
            self._count += 1
            if self._count >= self._failures:
                self._opened = self._clock()
