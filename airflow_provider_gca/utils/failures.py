"""How a failure of the core becomes a failure of a task, and Airflow's exceptions from where its version has them."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from gca_core.errors import BatchError, ExternalAPIError, GcaError, InferenceError, LLMError, StoreError

try:
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
    )
except ImportError:  # Airflow 3.1
    from airflow.exceptions import (  # type: ignore[attr-defined,no-redef,unused-ignore]
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
    )

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "as_task_failure",
    "fails_as_task",
]

P = ParamSpec("P")
R = TypeVar("R")

MAY_PASS = (StoreError, ExternalAPIError, LLMError, InferenceError, BatchError)


@contextmanager
def as_task_failure() -> Iterator[None]:
    """Turn the core's errors into Airflow's, with their message.

    Bad input and bad configuration stay bad however often they are tried: ``AirflowFailException``, which
    no retry follows. A database, service, model or job that failed may work next time: ``AirflowException``.
    """
    try:
        yield
    except MAY_PASS as error:
        raise AirflowException(str(error)) from error
    except GcaError as error:
        raise AirflowFailException(str(error)) from error


def fails_as_task(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator for TaskFlow callables that wraps the whole body in :func:`as_task_failure`."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with as_task_failure():
            return function(*args, **kwargs)

    return wrapped
