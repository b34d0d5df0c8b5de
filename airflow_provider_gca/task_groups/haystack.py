"""The HAYSTACK loop as a task group: iterations are unrolled when the DAG is built and gated when it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.sdk import AssetAlias, BaseNotifier, TaskGroup, XComArg

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.hooks.llm import LlmHook
from airflow_provider_gca.operators.batch import on_batch
from airflow_provider_gca.task_groups.loop.around import Json
from airflow_provider_gca.task_groups.loop.ends import LOOP_LABEL, cancelling_leftovers, loop_label, notifying
from airflow_provider_gca.task_groups.loop.infer import InferOperator
from airflow_provider_gca.task_groups.loop.steps import (
    FORM,
    answer,
    checked_bound,
    collect,
    evaluate,
    finalize,
    gate,
    propose,
    record,
    show,
    start,
    understand,
)
from airflow_provider_gca.utils.fields import as_mapping, check_literals, is_literal, require_text
from gca_core.errors import ConfigurationError

MAX_BOUND = 10


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
    llm_model: str | None = None,
    execution: str | None = None,
    batch: Mapping[str, Any] | None = None,
    gcp_conn_id: str | None = None,
    job_timeout_seconds: float | None = None,
    infer_arguments: Mapping[str, Any] | None = None,
    notifiers: BaseNotifier | Sequence[BaseNotifier] = (),
    feedback: timedelta | None = None,
    asks: bool | str = True,
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
        llm_model: another model of that connection's provider. Templated.
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
        asks: with ``feedback``, whether this run asks. Templated.
        asset_alias: name of an alias under which predictions and report become asset events, with verdict, score and
            the other figures as their extra; None means none.

    Raises:
        ConfigurationError: a literal is out of its range.
    """
    asked = {"question": question, "cell_type": cell_type, "perturbation": perturbation, "kind": kind}
    _check(iterations, max_iterations, asked, config)
    common = {"gca_atlas_conn_id": gca_atlas_conn_id}
    asking = {**common, "gca_llm_conn_id": gca_llm_conn_id, "llm_model": llm_model}
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
            wait = feedback if index + 1 < iterations else None
            latest, watched = _iteration(index, latest, infer, common, asking, wait, asks)
            states += latest
            must_not_fail += watched
        outlets = [] if asset_alias is None else [AssetAlias(asset_alias)]
        outputs = finalize.override(outlets=outlets)(states=states, asset_alias=asset_alias, **common)
        must_not_fail >> outputs
        told = notifying(tellers)(outputs=outputs, **common)
        # a task before the loop that fails has the question told, too, where no task is to say it
        words = {key: value for key, value in {**asked, "results_uri": results_uri}.items() if isinstance(value, str)}
        words.pop("kind", None)
        stopped = cancelling_leftovers(tellers)(group_id=name, asked=words, **cloud, **common)
        told >> stopped.as_teardown(on_failure_fail_dagrun=True)
    return HaystackLoop(group=group, outputs=outputs, run_id=started["run_id"])


def _iteration(
    index: int,
    before: Sequence[XComArg],
    infer: Mapping[str, Any],
    common: Mapping[str, Any],
    asking: Mapping[str, Any],
    feedback: timedelta | None,
    asks: bool | str,
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
        shown = show(state=recorded, iteration=index, asks=asks, **common)
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
