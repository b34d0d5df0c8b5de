"""Work done ahead of its use in threads, in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

P = TypeVar("P")
R = TypeVar("R")


def prefetch(load: Callable[[P], R], parts: Iterable[P], workers: int) -> Generator[R]:
    """``load`` of each part, in the order of the parts; once it is closed or has failed, no call is under way.

    Args:
        load: makes a result of a part; has to be safe in several threads at once.
        parts: taken one at a time, ``workers`` ahead at most.
        workers: threads; with one, each result is made when it is asked for, in the thread that asks.
    """
    if workers == 1:
        yield from map(load, parts)
        return
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="gca-ahead") as pool:
        try:
            for part in parts:
                pending.append(pool.submit(load, part))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
