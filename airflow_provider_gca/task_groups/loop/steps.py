"""The steps of the loop as tasks: each calls one step of the core and hands on small JSON."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from airflow.sdk import TriggerRule, get_current_context

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.task_groups.loop.around import (
    Json,
    all_of,
    as_state,
    asked_by,
    dump,
    going_on,
    new_row,
    own_run_id,
    step,
    text_of,
    until_run_cancelled,
)
from airflow_provider_gca.utils.failures import AirflowSkipException
from airflow_provider_gca.utils.fields import NOTHING, as_flag, given, make_model
from airflow_provider_gca.utils.results import note_assets
from gca_core.errors import ConfigurationError, RunCancelledError

log = logging.getLogger(__name__)

# what the events of a run's assets say
FIGURES = ("run_id", "verdict", "best_score", "expected", "termination_reason", "n_iterations", "n_evaluations")
# what a person may fill in, by the arguments of read_answer
FORM = {
    "exclude": ("Exclude groups", "A group's id, or a dataset, perturbation, cell type or donor; one a line."),
    "prefer": ("Prefer pathways", "Names of gene sets or footprints that prompts should carry; one a line."),
    "note": ("Note for the report", "Stands in the report and the log."),
}
QUIET = {"show_return_value_in_logs": False}


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


@step()
def understand(
    question: str | None,
    dataset: str | None,
    results_uri: str | None,
    gca_atlas_conn_id: str,
    gca_llm_conn_id: str | None = None,
    llm_model: str | None = None,
    cell_type: str | None = None,
    perturbation: str | None = None,
    kind: str | None = None,
) -> Json:
    """What is asked, as a structured query."""
    from gca_core.haystack import steps
    from gca_core.runs.models import RunPhase

    hook = AtlasHook(gca_atlas_conn_id)
    row, store = new_row(hook, question, cell_type, perturbation, results_uri), hook.get_run_store()
    store.wait(row)
    store.enter(row.run_id, RunPhase.QUERY_ANALYSIS, anew=True)
    context = hook.get_haystack_context(text_of(gca_llm_conn_id), text_of(llm_model))
    names = {"cell_type": text_of(cell_type), "perturbation": text_of(perturbation), "kind": text_of(kind)}
    with until_run_cancelled(gca_atlas_conn_id):
        query = steps.understand(text_of(question), context, **names, dataset=text_of(dataset))
    log.info("cell type %s (%s), perturbation %s", query.cell_type, query.cell_type_id, query.perturbation)
    return dump(query)


@step(multiple_outputs=True)
def start(
    query: Json,
    bound: int,
    max_iterations: int | str | None,
    config: Json,
    results_uri: str | None,
    gca_atlas_conn_id: str,
    gca_llm_conn_id: str | None = None,
    llm_model: str | None = None,
) -> Json:
    """The run's first state and its row in the run records; also the run's id."""
    from gca_core.haystack import steps
    from gca_core.haystack.models import IterationConfig, StructuredQuery
    from gca_core.io import join_uri
    from gca_core.runs.models import AskedBy, Claim, RunStatus

    values = {**given(config), "max_iterations": checked_bound(max_iterations, bound)}
    bounds = make_model("haystack_loop", IterationConfig, values)
    context = AtlasHook(gca_atlas_conn_id).get_haystack_context(text_of(gca_llm_conn_id), text_of(llm_model))
    run_id = own_run_id()
    row = context.require_runs().get(run_id)
    if row is not None and row.status is RunStatus.CANCELLED:
        raise RunCancelledError(f"the run {run_id} was cancelled; to run it again, clear understand, too")
    ti = get_current_context()["ti"]
    state = steps.start_run(
        StructuredQuery.model_validate(query),
        run_id=run_id,
        results_uri=text_of(results_uri) or join_uri(context.settings.results_root(), "haystack", run_id),
        config=bounds,
        context=context,
        claim=Claim(owner=f"Airflow DAG {ti.dag_id}, run {ti.run_id}", retry=ti.try_number > 1),
        asked_by=AskedBy(**asked_by()),
    )
    return {"run_id": run_id, **dump(state)}


@step(trigger_rule=TriggerRule.NONE_FAILED)
def gate(states: Sequence[Json | None], iteration: int, gca_atlas_conn_id: str) -> Json:
    """Whether this iteration runs, and why not; the last state travels along."""
    state = next((state for state in reversed(states) if state is not None), None)
    if state is None:
        return {"go": False, "reason": "the loop ended before", "iteration": iteration, "state": None}
    from gca_core.haystack import steps

    context = AtlasHook(gca_atlas_conn_id).get_haystack_context()
    decision = steps.gate(as_state(state), iteration, context)
    reason = f"{decision.reason}: {decision.detail}" if decision.reason else decision.detail
    log.info("iteration %d %s%s", iteration, "runs" if decision.go else "stops", f" ({reason})" if reason else "")
    return {
        "go": decision.go,
        "reason": reason,
        "iteration": iteration,
        "state": as_state(state).model_dump(mode="json"),
    }


@step(**QUIET)
def propose(
    decision: Json, gca_atlas_conn_id: str, gca_llm_conn_id: str | None = None, llm_model: str | None = None
) -> list[Json]:
    """The iteration's inference jobs, one ``infer`` task each; their files are written."""
    going = going_on(decision)
    from gca_core.haystack import steps

    context = AtlasHook(gca_atlas_conn_id).get_haystack_context(text_of(gca_llm_conn_id), text_of(llm_model))
    return [dump(job) for job in steps.propose(as_state(going["state"]), going["iteration"], context)]


@step(**QUIET, trigger_rule=TriggerRule.ALL_DONE)
def collect(decision: Json | None, jobs: list[Json] | None, answers: Sequence[list[Json]] | None) -> list[Json]:
    """One result per request of every job, in the order of the jobs; an answer that is missing is a failure."""
    going_on(decision)
    if jobs is None:
        raise AirflowSkipException("there is no proposal; see the log of propose")
    return aligned(jobs, all_of(answers))


@step(**QUIET, map_index_template="{{ task.op_kwargs['result']['candidate_id'] }}")
def evaluate(decision: Json, result: Json, gca_atlas_conn_id: str) -> Json:
    """How grounded one prediction is."""
    going = going_on(decision)
    from gca_core.haystack import steps
    from gca_core.inference.models import InferenceResult

    context = AtlasHook(gca_atlas_conn_id).get_haystack_context()
    answer = InferenceResult.model_validate(result)
    return dump(steps.evaluate(as_state(going["state"]), going["iteration"], answer, context))


@step(trigger_rule=TriggerRule.ALL_DONE)
def record(
    decision: Json | None, results: list[Json] | None, evaluations: Sequence[Json] | None, gca_atlas_conn_id: str
) -> Json:
    """The next state, with the iteration's evaluations and its best candidate.

    A candidate whose ``evaluate`` task left nothing counts as failed.
    """
    going = going_on(decision)
    if results is None:
        raise AirflowSkipException("there are no results; see the logs of propose and collect")
    from gca_core.haystack import steps
    from gca_core.haystack.models import CandidateEvaluation
    from gca_core.inference.models import InferenceResult, InferenceStatus

    context = AtlasHook(gca_atlas_conn_id).get_haystack_context()
    state, iteration = as_state(going["state"]), going["iteration"]
    scored = [CandidateEvaluation.model_validate(evaluation) for evaluation in all_of(evaluations)]
    there = {evaluation.candidate.candidate_id for evaluation in scored}
    for result in map(InferenceResult.model_validate, results):
        if result.candidate_id not in there:
            log.warning("the evaluation of %s is missing; see the log of its task", result.candidate_id)
            lost = {"status": InferenceStatus.FAILED, "error": result.error or "its evaluation failed; see its log"}
            scored.append(steps.evaluate(state, iteration, result.model_copy(update=lost), context))
    return dump(steps.record(state, iteration, scored, context))


@step(**QUIET)
def show(state: Json, iteration: int, asks: Any, gca_atlas_conn_id: str) -> str:
    """The results so far, for a person; skipped where nobody is to be asked, or the loop ends anyway."""
    if not as_flag("haystack_loop", "asks", asks):
        raise AirflowSkipException("nobody is asked in this run")
    from gca_core.haystack import steps
    from gca_core.haystack.feedback import render_so_far

    decision = steps.gate(as_state(state), iteration + 1, AtlasHook(gca_atlas_conn_id).get_haystack_context())
    if not decision.go:
        raise AirflowSkipException(f"nobody is asked, since the loop ends: {decision.detail}")
    return render_so_far(steps.load_run(as_state(state)))


@step()
def answer(state: Json, said: Json, gca_atlas_conn_id: str) -> Json:
    """The state with what the person said; where nobody said a thing it stays."""
    from gca_core.haystack import steps
    from gca_core.haystack.feedback import STOP, read_answer

    words = {name: str((said.get("params_input") or {}).get(name) or "") for name in FORM}
    stop = STOP in said["chosen_options"]
    if not stop and not any(words.values()):
        log.info("go on, without a remark")
        return as_state(state).model_dump(mode="json")
    context = AtlasHook(gca_atlas_conn_id).get_haystack_context()
    by = (said.get("responded_by_user") or {}).get("name") or ""
    feedback = read_answer(steps.load_run(as_state(state)), context, stop=stop, by=by, **words)
    for note in feedback.notes:
        log.warning("%s", note)
    return dump(steps.answer(as_state(state), feedback, context))


@step(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
def finalize(states: Sequence[Json | None], gca_atlas_conn_id: str, asset_alias: str | None = None) -> Json:
    """The best iteration of all as AnnData, HTML and JSON, and the run row closed."""
    from gca_core.haystack import steps

    last = [state for state in states if state is not None][-1]
    context = AtlasHook(gca_atlas_conn_id).get_haystack_context()
    outputs = dump(steps.finalize(as_state(last), context))
    if asset_alias is not None:
        figures = {name: outputs[name] for name in FIGURES}
        files = {name: uri for name in ("h5ad", "html") if (uri := outputs[f"{name}_uri"])}
        note_assets(get_current_context(), asset_alias, (), files, figures)
    return outputs


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
