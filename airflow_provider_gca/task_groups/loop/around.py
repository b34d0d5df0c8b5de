"""What every step of the loop does around its work, and how the run of a task is known."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context, task

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.utils.failures import AirflowException, AirflowSkipException, fails_as_task
from airflow_provider_gca.utils.fields import NOTHING
from gca_core.errors import GcaError, RunCancelledError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from gca_core.runs.models import RunRow
    from gca_core.runs.state import StateRef

# of a task's id, what follows the loop's group
_GROUP = re.compile(r"(\.iteration_\d+)?\.[^.]+$")
_ITERATION = re.compile(r"\.iteration_(\d+)\.[^.]+$")
# the steps that end in the middle; gates ask themselves, and what the rest write is wanted
ENDING = frozenset({"propose", "evaluate", "record"})
# a mail that can't be sent is no fault of the run
TELLING = frozenset({"notify", "cancel_leftovers"})
Json = dict[str, Any]


def step(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A task of the loop: it takes the outputs of other tasks in the place of values, which its types can't say."""
    return lambda function: task(**{"multiple_outputs": False, **options})(fails_as_task(_says_why(_ends(function))))


def _ends(function: Callable[..., Any]) -> Callable[..., Any]:
    """End a step where it is once its run is cancelled; those that begin and end runs go on."""
    if function.__name__ not in ENDING:
        return function

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with until_run_cancelled(str(kwargs["gca_atlas_conn_id"])):
            return function(*args, **kwargs)

    return wrapped


@contextmanager
def named() -> Iterator[None]:
    """The run and its iteration on every line of the task's log."""
    from gca_core.observability import bind_run

    found = _ITERATION.search(get_current_context()["ti"].task_id)
    with bind_run(own_run_id(), int(found[1]) if found else None):
        yield


@contextmanager
def until_run_cancelled(gca_atlas_conn_id: str) -> Iterator[None]:
    from gca_core.runs.cancelling import until_cancelled

    with until_cancelled(AtlasHook(gca_atlas_conn_id).get_run_store(), own_run_id()):
        yield


def _says_why(function: Callable[..., Any]) -> Callable[..., Any]:
    """Leave the reason of a failure in the record, for the teardown too: Airflow tells it the states of tasks alone."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            with named():
                return function(*args, **kwargs)
        except RunCancelledError:
            raise
        except GcaError as error:
            if "gca_atlas_conn_id" in kwargs and function.__name__ not in TELLING:
                with contextlib.suppress(GcaError, AirflowException):
                    AtlasHook(kwargs["gca_atlas_conn_id"]).get_run_store().fault(own_run_id(), str(error))
            raise

    return wrapped


def haystack_run_id(day: date, dag_id: str, dag_run_id: str, group_id: str) -> str:
    """The id of a loop's run in the run records: the same for every task and every retry of a DAG run.

    Args:
        day: of the DAG run's ``run_after``.
        dag_id, dag_run_id: the DAG run.
        group_id: the loop's task group.
    """
    from gca_core.runs.models import make_run_id

    return make_run_id(day, dag_id, dag_run_id, group_id)


def own_run_id() -> str:
    """The id of the run of the loop that the current task belongs to."""
    context = get_current_context()
    dag_run, group_id = context["dag_run"], _GROUP.sub("", context["ti"].task_id)
    return haystack_run_id(dag_run.run_after.date(), dag_run.dag_id, dag_run.run_id, group_id)


def new_row(
    hook: AtlasHook,
    question: str | None = None,
    cell_type: str | None = None,
    perturbation: str | None = None,
    results_uri: str | None = None,
) -> RunRow:
    """The current task's run before it has begun."""
    from gca_core.io import join_uri
    from gca_core.runs.models import RunRow

    run_id = own_run_id()
    words = text_of(question) or ", ".join(filter(None, (text_of(cell_type), text_of(perturbation))))
    place = text_of(results_uri) or join_uri(hook.settings().results_root(), "haystack", run_id)
    return RunRow(run_id=run_id, question=words, results_uri=place, **asked_by())


def asked_by() -> Json:
    dag_run = get_current_context()["dag_run"]
    return {
        "user_name": getattr(dag_run, "triggering_user_name", None),
        "dag_id": dag_run.dag_id,
        "dag_run_id": dag_run.run_id,
    }


def going_on(decision: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The gate's decision when it says go; any other skips the task that asks."""
    if decision is None:
        raise AirflowSkipException("the gate of this iteration left no decision")
    if not decision["go"]:
        raise AirflowSkipException(f"iteration {decision['iteration']} does not run: {decision['reason']}")
    return decision


def all_of(values: Sequence[Any] | None) -> list[Any]:
    """What mapped tasks left. Airflow's lazy sequence is read as a slice: iterating it asks for one entry more
    than there are, which it logs as an error."""
    return [] if values is None else list(values[:])


def dump(value: BaseModel) -> Json:
    return value.model_dump(mode="json")


def as_state(value: Mapping[str, Any]) -> StateRef:
    from gca_core.runs.state import StateRef

    return StateRef.model_validate({name: value[name] for name in StateRef.model_fields})


def text_of(value: str | None) -> str | None:
    """A rendered text, or None where the template made nothing of it."""
    return None if value in (None, *NOTHING) else value
