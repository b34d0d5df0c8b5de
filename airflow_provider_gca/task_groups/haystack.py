"""The HAYSTACK loop as a task group: iterations are unrolled when the DAG is built and gated when it runs.

Each task calls one step of the core and hands on small JSON.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import AssetAlias, BaseNotifier, TaskGroup, TriggerRule, XComArg, get_current_context, task

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.hooks.llm import LlmHook
from airflow_provider_gca.notifications.haystack import NOTICE
from airflow_provider_gca.operators.batch import cancel_run_jobs, on_batch
from airflow_provider_gca.operators.inference import StackBatchOperator
from airflow_provider_gca.utils.failures import AirflowException, AirflowSkipException, fails_as_task
from airflow_provider_gca.utils.fields import (
    NOTHING,
    as_mapping,
    check_literals,
    given,
    is_literal,
    make_model,
    require_text,
)
from airflow_provider_gca.utils.results import RunLink, note_assets
from gca_core.errors import ConfigurationError, GcaError, RunCancelledError

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pydantic import BaseModel

    from gca_core.haystack.notice import Notice
    from gca_core.inference.models import InferenceResult
    from gca_core.runs.state import StateRef

log = logging.getLogger(__name__)

MAX_BOUND = 10
# a candidate may fail without its run; mapped tasks carry their index behind their name
_TOLERATED = re.compile(r"\.(infer|evaluate)(_\d+)?$")
# of a task's id, what follows the loop's group
_GROUP = re.compile(r"(\.iteration_\d+)?\.[^.]+$")
_ITERATION = re.compile(r"\.iteration_(\d+)\.[^.]+$")
# the steps that end in the middle; gates ask themselves, and what the rest write is wanted
ENDING = frozenset({"propose", "evaluate", "record"})
# a mail that can't be sent is no fault of the run
TELLING = frozenset({"notify", "cancel_leftovers"})
LOOP_LABEL = "loop"
# a mail server may be away for a moment; a notice comes within a minute
TOLD_AGAIN: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(seconds=5)}
# what the events of a run's assets say
FIGURES = ("run_id", "verdict", "best_score", "expected", "termination_reason", "n_iterations", "n_evaluations")
# what a person may fill in, by the arguments of read_answer
FORM = {
    "exclude": ("Exclude groups", "A group's id, or a dataset, perturbation, cell type or donor; one a line."),
    "prefer": ("Prefer pathways", "Names of gene sets or footprints that prompts should carry; one a line."),
    "note": ("Note for the report", "Stands in the report and the log."),
}
QUIET = {"show_return_value_in_logs": False}
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
        with _until_cancelled(str(kwargs["gca_atlas_conn_id"])):
            return function(*args, **kwargs)

    return wrapped


@contextmanager
def _named() -> Iterator[None]:
    """The run and its iteration on every line of the task's log."""
    from gca_core.observability import bind_run

    found = _ITERATION.search(get_current_context()["ti"].task_id)
    with bind_run(_own_run_id(), int(found[1]) if found else None):
        yield


@contextmanager
def _until_cancelled(gca_atlas_conn_id: str) -> Iterator[None]:
    from gca_core.runs.cancelling import until_cancelled

    with until_cancelled(AtlasHook(gca_atlas_conn_id).get_run_store(), _own_run_id()):
        yield


class InferOperator(StackBatchOperator):
    """An iteration's job, which ends when its run is cancelled."""

    operator_extra_links = (*StackBatchOperator.operator_extra_links, RunLink())

    def __init__(self, *, gca_atlas_conn_id: str = AtlasHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gca_atlas_conn_id = gca_atlas_conn_id
        self._run_id: str | None = None

    @property
    def haystack_run_id(self) -> str | None:
        """The run, for its link; None before the task runs."""
        return self._run_id

    def _finish(self, context: Context, work: Callable[[Context], Any]) -> Any:
        self._run_id = _own_run_id()
        with _named():
            return super()._finish(context, work)

    def run_local(self, context: Context) -> list[InferenceResult]:
        """Run the job in a subprocess."""
        with _until_cancelled(self.gca_atlas_conn_id):
            return super().run_local(context)


def _says_why(function: Callable[..., Any]) -> Callable[..., Any]:
    """Leave the reason of a failure in the record, for the teardown too: Airflow tells it the states of tasks alone."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            with _named():
                return function(*args, **kwargs)
        except RunCancelledError:
            raise
        except GcaError as error:
            if "gca_atlas_conn_id" in kwargs and function.__name__ not in TELLING:
                with contextlib.suppress(GcaError, AirflowException):
                    AtlasHook(kwargs["gca_atlas_conn_id"]).get_run_store().fault(_own_run_id(), str(error))
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


def loop_label(group_id: str) -> str:
    """A loop's id as the value of a label."""
    return re.sub(r"[^a-z0-9_-]", "-", group_id.lower())[-63:]


def checked_bound(max_iterations: int | str | None, bound: int) -> int:
    """The run's number of iterations, within the bound the DAG was built with.

    Raises:
        ConfigurationError: not a whole number from 1 to ``bound``.
    """
    if max_iterations in (None, *NOTHING):
        return bound
    try:
        number = int(max_iterations)
    except ValueError:
        number = 0
    if not 1 <= number <= bound:
        raise ConfigurationError(
            f"max_iterations is {max_iterations!r}; this DAG was built for 1 to {bound} iterations, and more need "
            "a DAG built with a higher bound"
        )
    return number


def _own_run_id() -> str:
    """The id of the run of the loop that the current task belongs to."""
    context = get_current_context()
    dag_run, group_id = context["dag_run"], _GROUP.sub("", context["ti"].task_id)
    return haystack_run_id(dag_run.run_after.date(), dag_run.dag_id, dag_run.run_id, group_id)


def _asked_by() -> Json:
    dag_run = get_current_context()["dag_run"]
    return {
        "user_name": getattr(dag_run, "triggering_user_name", None),
        "dag_id": dag_run.dag_id,
        "dag_run_id": dag_run.run_id,
    }


def _going(decision: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The gate's decision when it says go; any other skips the task that asks."""
    if decision is None:
        raise AirflowSkipException("the gate of this iteration left no decision")
    if not decision["go"]:
        raise AirflowSkipException(f"iteration {decision['iteration']} does not run: {decision['reason']}")
    return decision


@step()
def understand(
    question: str | None,
    dataset: str | None,
    results_uri: str | None,
    gca_atlas_conn_id: str,
    gca_llm_conn_id: str | None = None,
    cell_type: str | None = None,
    perturbation: str | None = None,
    kind: str | None = None,
) -> Json:
    """What is asked, as a structured query."""
    from gca_core.haystack import steps
    from gca_core.io import join_uri
    from gca_core.runs.models import RunPhase, RunRow

    hook = AtlasHook(gca_atlas_conn_id)
    run_id, store = _own_run_id(), hook.get_run_store()
    words = _text(question) or f"{_text(cell_type)}, {_text(perturbation)}"
    place = _text(results_uri) or join_uri(hook.settings().results_root(), "haystack", run_id)
    store.wait(RunRow(run_id=run_id, question=words, results_uri=place, **_asked_by()))
    store.enter(run_id, RunPhase.QUERY_ANALYSIS, anew=True)
    context = hook.get_haystack_context(_text(gca_llm_conn_id))
    names = {"cell_type": _text(cell_type), "perturbation": _text(perturbation), "kind": _text(kind)}
    with _until_cancelled(gca_atlas_conn_id):
        query = steps.understand(_text(question), context, **names, dataset=_text(dataset))
    log.info("cell type %s (%s), perturbation %s", query.cell_type, query.cell_type_id, query.perturbation)
    return _dump(query)


@step(multiple_outputs=True)
def start(
    query: Json,
    bound: int,
    max_iterations: int | str | None,
    config: Json,
    results_uri: str | None,
    gca_atlas_conn_id: str,
    gca_llm_conn_id: str | None = None,
) -> Json:
    """The run's first state and its row in the run records; also the run's id."""
    from gca_core.haystack import steps
    from gca_core.haystack.models import IterationConfig, StructuredQuery
    from gca_core.io import join_uri
    from gca_core.runs.models import AskedBy, Claim, RunStatus

    values = {**given(config), "max_iterations": checked_bound(max_iterations, bound)}
    bounds = make_model("haystack_loop", IterationConfig, values)
    context = AtlasHook(gca_atlas_conn_id).get_haystack_context(_text(gca_llm_conn_id))
    run_id = _own_run_id()
    row = context.require_runs().get(run_id)
    if row is not None and row.status is RunStatus.CANCELLED:
        raise RunCancelledError(f"the run {run_id} was cancelled; to run it again, clear understand, too")
    ti = get_current_context()["ti"]
    state = steps.start_run(
        StructuredQuery.model_validate(query),
        run_id=run_id,
        results_uri=_text(results_uri) or join_uri(context.settings.results_root(), "haystack", run_id),
        config=bounds,
        context=context,
        claim=Claim(owner=f"Airflow DAG {ti.dag_id}, run {ti.run_id}", retry=ti.try_number > 1),
        asked_by=AskedBy(**_asked_by()),
    )
    return {"run_id": run_id, **_dump(state)}


@step(trigger_rule=TriggerRule.NONE_FAILED)
def gate(states: Sequence[Json | None], iteration: int, gca_atlas_conn_id: str) -> Json:
    """Whether this iteration runs, and why not; the last state travels along."""
    state = next((state for state in reversed(states) if state is not None), None)
    if state is None:
        return {"go": False, "reason": "the loop ended before", "iteration": iteration, "state": None}
    from gca_core.haystack import steps

    context = AtlasHook(gca_atlas_conn_id).get_haystack_context()
    decision = steps.gate(_state(state), iteration, context)
    reason = f"{decision.reason}: {decision.detail}" if decision.reason else decision.detail
    log.info("iteration %d %s%s", iteration, "runs" if decision.go else "stops", f" ({reason})" if reason else "")
    return {"go": decision.go, "reason": reason, "iteration": iteration, "state": _state(state).model_dump(mode="json")}


@step(**QUIET)
def propose(decision: Json, gca_atlas_conn_id: str, gca_llm_conn_id: str | None = None) -> list[Json]:
    """The iteration's inference jobs, one ``infer`` task each; their files are written."""
    going = _going(decision)
    from gca_core.haystack import steps

    context = AtlasHook(gca_atlas_conn_id).get_haystack_context(_text(gca_llm_conn_id))
    return [_dump(job) for job in steps.propose(_state(going["state"]), going["iteration"], context)]


@step(**QUIET, trigger_rule=TriggerRule.ALL_DONE)
def collect(decision: Json | None, jobs: list[Json] | None, answers: Sequence[list[Json]] | None) -> list[Json]:
    """One result per request of every job, in the order of the jobs; an answer that is missing is a failure."""
    _going(decision)
    if jobs is None:
        raise AirflowSkipException("there is no proposal; see the log of propose")
    return aligned(jobs, _all(answers))


@step(**QUIET, map_index_template="{{ task.op_kwargs['result']['candidate_id'] }}")
def evaluate(decision: Json, result: Json, gca_atlas_conn_id: str) -> Json:
    """How grounded one prediction is."""
    going = _going(decision)
    from gca_core.haystack import steps
    from gca_core.inference.models import InferenceResult

    context = AtlasHook(gca_atlas_conn_id).get_haystack_context()
    answer = InferenceResult.model_validate(result)
    return _dump(steps.evaluate(_state(going["state"]), going["iteration"], answer, context))


@step(trigger_rule=TriggerRule.ALL_DONE)
def record(
    decision: Json | None, results: list[Json] | None, evaluations: Sequence[Json] | None, gca_atlas_conn_id: str
) -> Json:
    """The next state, with the iteration's evaluations and its best candidate.

    A candidate whose ``evaluate`` task left nothing counts as failed.
    """
    going = _going(decision)
    if results is None:
        raise AirflowSkipException("there are no results; see the logs of propose and collect")
    from gca_core.haystack import steps
    from gca_core.haystack.models import CandidateEvaluation
    from gca_core.inference.models import InferenceResult, InferenceStatus

    context = AtlasHook(gca_atlas_conn_id).get_haystack_context()
    state, iteration = _state(going["state"]), going["iteration"]
    scored = [CandidateEvaluation.model_validate(evaluation) for evaluation in _all(evaluations)]
    there = {evaluation.candidate.candidate_id for evaluation in scored}
    for result in map(InferenceResult.model_validate, results):
        if result.candidate_id not in there:
            log.warning("the evaluation of %s is missing; see the log of its task", result.candidate_id)
            lost = {"status": InferenceStatus.FAILED, "error": result.error or "its evaluation failed; see its log"}
            scored.append(steps.evaluate(state, iteration, result.model_copy(update=lost), context))
    return _dump(steps.record(state, iteration, scored, context))


@step(**QUIET)
def show(state: Json, iteration: int, gca_atlas_conn_id: str) -> str:
    """The results so far, for a person; skipped where the loop ends anyway."""
    from gca_core.haystack import steps
    from gca_core.haystack.feedback import render_so_far

    decision = steps.gate(_state(state), iteration + 1, AtlasHook(gca_atlas_conn_id).get_haystack_context())
    if not decision.go:
        raise AirflowSkipException(f"nobody is asked, since the loop ends: {decision.detail}")
    return render_so_far(steps.load_run(_state(state)))


@step()
def answer(state: Json, said: Json, gca_atlas_conn_id: str) -> Json:
    """The state with what the person said; where nobody said a thing it stays."""
    from gca_core.haystack import steps
    from gca_core.haystack.feedback import STOP, read_answer

    words = {name: str((said.get("params_input") or {}).get(name) or "") for name in FORM}
    stop = STOP in said["chosen_options"]
    if not stop and not any(words.values()):
        log.info("go on, without a remark")
        return _state(state).model_dump(mode="json")
    context = AtlasHook(gca_atlas_conn_id).get_haystack_context()
    by = (said.get("responded_by_user") or {}).get("name") or ""
    feedback = read_answer(steps.load_run(_state(state)), context, stop=stop, by=by, **words)
    for note in feedback.notes:
        log.warning("%s", note)
    return _dump(steps.answer(_state(state), feedback, context))


@step(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
def finalize(states: Sequence[Json | None], gca_atlas_conn_id: str, asset_alias: str | None = None) -> Json:
    """The best iteration of all as AnnData, HTML and JSON, and the run row closed."""
    from gca_core.haystack import steps

    last = [state for state in states if state is not None][-1]
    context = AtlasHook(gca_atlas_conn_id).get_haystack_context()
    outputs = _dump(steps.finalize(_state(last), context))
    if asset_alias is not None:
        figures = {name: outputs[name] for name in FIGURES}
        files = {name: uri for name in ("h5ad", "html") if (uri := outputs[f"{name}_uri"])}
        note_assets(get_current_context(), asset_alias, (), files, figures)
    return outputs


def _notify(notifiers: Sequence[BaseNotifier]) -> Any:
    """The task that tells what came out."""

    @step(**TOLD_AGAIN)
    def notify(outputs: Json, gca_atlas_conn_id: str) -> None:
        for name, value in outputs.items():
            log.info("%s: %s", name, value)
        if not notifiers:
            return
        from gca_core.haystack.models import HaystackOutputs
        from gca_core.haystack.notice import make_notice

        found = HaystackOutputs.model_validate(outputs)
        row = AtlasHook(gca_atlas_conn_id).get_run_store().get(found.run_id)
        if row is not None:
            _tell(notifiers, make_notice(row, outputs=found))

    return notify


def _tell(notifiers: Sequence[BaseNotifier], notice: Notice) -> None:
    context = get_current_context()
    told = {NOTICE: _dump(notice)}
    for notifier in notifiers:
        # its fields are rendered in place
        copy(notifier)({**context, **told})


def aligned(jobs: Iterable[Json], answers: Iterable[list[Json]]) -> list[Json]:
    """One result per request, matched by candidate id: answers of tasks that died are missing from XCom, which
    would shift any match by position."""
    from gca_core.inference.models import InferenceResult, InferenceStatus

    found = {result["candidate_id"]: result for answer in answers for result in answer or ()}
    rows = []
    for job in jobs:
        for request in job["requests"]:
            missing = InferenceResult(
                candidate_id=request["candidate_id"],
                status=InferenceStatus.FAILED,
                error="the inference task ended without an answer; see its log",
                backend=request["backend"],
            )
            rows.append(found.get(request["candidate_id"]) or missing.model_dump(mode="json"))
    return rows


def _all(values: Sequence[Any] | None) -> list[Any]:
    """What mapped tasks left. Airflow's lazy sequence is read as a slice: iterating it asks for one entry more
    than there are, which it logs as an error."""
    return [] if values is None else list(values[:])


def _dump(value: BaseModel) -> Json:
    return value.model_dump(mode="json")


def _state(value: Mapping[str, Any]) -> StateRef:
    from gca_core.runs.state import StateRef

    return StateRef.model_validate({name: value[name] for name in StateRef.model_fields})


def _text(value: str | None) -> str | None:
    """A rendered text, or None where the template made nothing of it."""
    return None if value in (None, *NOTHING) else value


def _cancel_leftovers(notifiers: Sequence[BaseNotifier]) -> Any:
    """The teardown."""

    @step(**TOLD_AGAIN)
    def cancel_leftovers(
        group_id: str,
        gca_atlas_conn_id: str,
        batch: Json | None = None,
        gcp_conn_id: str | None = None,
        impersonation_chain: str | list[str] | None = None,
    ) -> None:
        """Cancel the loop's jobs on Google Batch that still run, close the run's record where ``finalize`` didn't, and
        tell of a run that failed or was cancelled.

        Local jobs end with the task that started them, so no process is left to stop here.
        """
        try:
            if batch is not None:
                mine = {LOOP_LABEL: loop_label(group_id)}
                names = cancel_run_jobs(get_current_context(), batch, gcp_conn_id, impersonation_chain, labels=mine)
                log.info("jobs that were cancelled: %s", ", ".join(names) or "none")
        finally:
            notice = _close_record(group_id, gca_atlas_conn_id)
            if notice is not None and notifiers:
                _tell(notifiers, notice)

    return cancel_leftovers


def _close_record(group_id: str, gca_atlas_conn_id: str) -> Notice | None:
    """End the run's record where nothing did; what is to be told, unless all went well or nothing began."""
    from gca_core.haystack.notice import make_notice
    from gca_core.runs.models import RunStatus

    run_id = _own_run_id()
    store = AtlasHook(gca_atlas_conn_id).get_run_store()
    row, failed = store.get(run_id), _failed_tasks(group_id)
    if row is None:
        log.info("nothing of run %s is left to cancel", run_id)
        return None
    if not row.status.is_final:
        status, reason = (RunStatus.FAILED, f"failed: {', '.join(failed)}") if failed else (
            RunStatus.CANCELLED, "cancelled"
        )  # fmt: skip
        row = row.model_copy(update={"status": status, "termination_reason": reason})
        store.upsert_run(row)
        log.warning("run %s had not ended; its record now says %s", run_id, reason)
    if row.status is RunStatus.COMPLETED:
        return None
    log_says = f"the task {failed[0]} failed; its log says why" if failed else ""
    return make_notice(row, error=(row.error or log_says) if row.status is RunStatus.FAILED else "")


def _failed_tasks(group_id: str) -> list[str]:
    """The tasks of the group that failed and must not; none where a person ended the run.

    When a task fails, those behind it can't run; when a run is marked as failed, they are skipped.
    """
    context = get_current_context()
    dag_run = context["dag_run"]
    found = context["ti"].get_task_states(dag_id=dag_run.dag_id, run_ids=[dag_run.run_id]).get(dag_run.run_id, {})
    mine = {task: state for task, state in found.items() if task.startswith(f"{group_id}.")}
    if mine.get(f"{group_id}.notify") == "skipped":
        return []
    return sorted(task for task, state in mine.items() if state == "failed" and not _TOLERATED.search(task))


@dataclass(frozen=True)
class HaystackLoop:
    """A loop that was added to a DAG.

    Attributes:
        group: the task group, to put other tasks before and after.
        outputs: what ``finalize`` returns: URIs of predictions, reports and log, verdict, best score, why it ended.
        run_id: the run's id in the run records, known once ``start`` is done; a ``GroundingSensor`` takes it.
    """

    group: TaskGroup
    outputs: XComArg
    run_id: XComArg


def haystack_loop(
    *,
    question: str | XComArg | None = None,
    cell_type: str | XComArg | None = None,
    perturbation: str | XComArg | None = None,
    kind: str | XComArg | None = None,
    iterations: int = 5,
    group_id: str = "haystack",
    max_iterations: int | str | None = None,
    dataset: str | XComArg | None = None,
    config: Mapping[str, Any] | None = None,
    results_uri: str | XComArg | None = None,
    gca_atlas_conn_id: str = AtlasHook.default_conn_name,
    gca_llm_conn_id: str | None = LlmHook.default_conn_name,
    execution: str | None = None,
    batch: Mapping[str, Any] | None = None,
    gcp_conn_id: str | None = None,
    job_timeout_seconds: float | None = None,
    infer_arguments: Mapping[str, Any] | None = None,
    notifiers: BaseNotifier | Sequence[BaseNotifier] = (),
    feedback: timedelta | None = None,
    asset_alias: str | None = None,
) -> HaystackLoop:
    """Add understand, start, the iterations, finalize, notify and a teardown to the DAG that is being built.

    Each iteration is ``gate``, ``propose``, ``infer`` (mapped over jobs), ``collect``, ``evaluate`` (mapped over
    predictions) and ``record``. A gate that stops says why in its XCom and in the log; the tasks behind it
    skip themselves after reading that. A candidate whose inference or evaluation fails doesn't stop the others.
    A gate, proposal or record that fails ends the run as failed; cleared, it goes on from the state before.

    Args:
        question: the question in plain words, or None where cell type and perturbation are named. Templated, like the
            other arguments up to ``results_uri``.
        cell_type: name or id of the Cell Ontology.
        perturbation: name of a cytokine, drug, stimulus, gene or genetic perturbation.
        kind: what is done: ``knockout``, ``CRISPRi``, ``cytokine``, ``drug``, ...; by the name where None.
        iterations: how many iterations are unrolled, 1 to 10: the bound that no run can pass.
        group_id: id of the group; two loops of one DAG need two.
        max_iterations: iterations of this run at most, within the bound; None means the bound.
        dataset: the atlas's dataset to draw from; None means all.
        config: other fields of :class:`gca_core.haystack.models.IterationConfig`.
        results_uri: folder for the run's results; None means ``haystack/<run id>`` under the results root.
        gca_atlas_conn_id: connection of the atlas.
        gca_llm_conn_id: connection of the language model that reads questions and proposes beside the rules; where the
            default does not exist, ``GCA_LLM`` decides. None means no model.
        execution: where :class:`StackBatchOperator` runs jobs, ``local`` or ``batch``; None means Google Batch where
            both ``batch`` and ``gcp_conn_id`` are given; there ``results_uri`` has to be a ``gs://`` folder. One job
            serves all candidates of an iteration, if ``candidates_per_job`` doesn't say otherwise.
        batch: where and how jobs run: the fields of :class:`gca_core.batch.BatchConfig`.
        gcp_conn_id: connection to Google Cloud for the jobs.
        job_timeout_seconds: a job is ended after that time; None means that operator's default.
        infer_arguments: arguments for every ``infer`` task, such as ``pool``, ``queue``, ``retries``.
        notifiers: who tells people how the run ended, such as
            :class:`airflow_provider_gca.notifications.haystack.HaystackNotifier`; any of Airflow's notifiers finds
            question, status, score and error in ``{{ haystack_notice }}``.
        feedback: ask a person after each iteration but the last, and go on without an answer after that time: go on or
            stop, exclude groups from later prompts, prefer pathways, note something for the report. None asks nobody.
        asset_alias: name of an alias under which predictions and report become asset events, with verdict, score and
            the other figures as their extra; None means none.

    Raises:
        ConfigurationError: a literal is out of its range.
    """
    asked = {"question": question, "cell_type": cell_type, "perturbation": perturbation, "kind": kind}
    _check(iterations, max_iterations, asked, config)
    common = {"gca_atlas_conn_id": gca_atlas_conn_id}
    asking = {**common, "gca_llm_conn_id": gca_llm_conn_id}
    more = dict(infer_arguments or {})
    tellers = [notifiers] if isinstance(notifiers, BaseNotifier) else list(notifiers)
    cloud: Json = {}
    if on_batch(execution, batch, gcp_conn_id):
        jobs = as_mapping("haystack_loop", "batch", batch)
        cloud = {"gcp_conn_id": gcp_conn_id, "impersonation_chain": more.pop("impersonation_chain", None)}
    with TaskGroup(group_id=group_id) as group:
        name = str(group.group_id)
        if cloud:
            # two loops of one DAG run are told apart when what is left of one is cancelled
            cloud["batch"] = {**jobs, "labels": {**jobs.get("labels", {}), LOOP_LABEL: loop_label(name)}}
        infer = {"execution": "batch" if cloud else "local", "timeout_seconds": job_timeout_seconds, **cloud, **more}
        query = understand(**asked, dataset=dataset, results_uri=results_uri, **asking)
        started = start(
            query=query,
            bound=iterations,
            max_iterations=max_iterations,
            config=dict(config or {}),
            results_uri=results_uri,
            **asking,
        )
        latest = [started]
        states, must_not_fail = [started], [started]
        for index in range(iterations):
            asks = feedback if index + 1 < iterations else None
            latest, watched = _iteration(index, latest, infer, common, asking, asks)
            states += latest
            must_not_fail += watched
        outlets = [] if asset_alias is None else [AssetAlias(asset_alias)]
        outputs = finalize.override(outlets=outlets)(states=states, asset_alias=asset_alias, **common)
        must_not_fail >> outputs
        told = _notify(tellers)(outputs=outputs, **common)
        stopped = _cancel_leftovers(tellers)(group_id=name, **cloud, **common)
        told >> stopped.as_teardown()
    return HaystackLoop(group=group, outputs=outputs, run_id=started["run_id"])


def _iteration(
    index: int,
    before: Sequence[XComArg],
    infer: Mapping[str, Any],
    common: Mapping[str, Any],
    asking: Mapping[str, Any],
    feedback: timedelta | None,
) -> tuple[list[XComArg], list[XComArg]]:
    """One unrolled iteration; its states, of which the last counts, and the tasks whose failure must fail the run."""
    with TaskGroup(group_id=f"iteration_{index}"):
        decision = gate(states=list(before), iteration=index, **common)
        jobs = propose(decision=decision, **asking)
        predicted = InferOperator.partial(
            task_id="infer", fail_when="never", map_index_template="{{ task.job_id }}", **common, **infer
        ).expand_kwargs(jobs)
        results = collect(decision=decision, jobs=jobs, answers=predicted.output)
        evaluations = evaluate.partial(decision=decision, **common).expand(result=results)
        recorded = record(decision=decision, results=results, evaluations=evaluations, **common)
        watched = [decision, jobs, results, recorded]
        if feedback is None:
            return [recorded], watched
        shown = show(state=recorded, iteration=index, **common)
        said = _ask(index, shown, feedback)
        answered = answer(state=recorded, said=said.output, **common)
    return [recorded, answered], [*watched, shown, answered]


def _ask(index: int, shown: Any, feedback: timedelta) -> Any:
    """The task that waits for a person, and goes on by itself."""
    from airflow.providers.standard.operators.hitl import HITLOperator
    from airflow.sdk import Param

    from gca_core.haystack.feedback import GO_ON, STOP

    form = {
        name: Param("", type=["string", "null"], format="multiline", title=title, description=words)
        for name, (title, words) in FORM.items()
    }
    return HITLOperator(
        task_id="ask",
        subject=f"HAYSTACK, iteration {index} is done: go on?",
        body=shown,
        options=[GO_ON, STOP],
        defaults=GO_ON,
        params=form,
        response_timeout=feedback,
    )


def _check(
    iterations: int, max_iterations: int | str | None, asked: Mapping[str, Any], config: Mapping[str, Any] | None
) -> None:
    name = "haystack_loop"
    if isinstance(iterations, bool) or not isinstance(iterations, int) or not 1 <= iterations <= MAX_BOUND:
        raise ConfigurationError(
            f"{name}: iterations has to be a whole number from 1 to {MAX_BOUND}, found {iterations!r}"
        )
    if max_iterations is not None and is_literal(max_iterations):
        checked_bound(max_iterations, iterations)
    named = {key: value for key, value in asked.items() if value is not None}
    if all(map(is_literal, asked.values())) and set(named) - {"kind"} not in (
        {"question"}, {"cell_type", "perturbation"}
    ):  # fmt: skip
        raise ConfigurationError(f"{name}: give a question, or a cell_type and a perturbation, and not both")
    require_text(name, **named)
    if config and "max_iterations" in config:
        raise ConfigurationError(f"{name}: give max_iterations as an argument of its own, not within config")
    from gca_core.haystack.models import IterationConfig

    check_literals(name, IterationConfig, config or {})
