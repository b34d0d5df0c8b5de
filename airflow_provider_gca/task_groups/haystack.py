"""The HAYSTACK loop as a task group: iterations are unrolled when the DAG is built and gated when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow.sdk import TaskGroup, TriggerRule, XComArg, task

from airflow_provider_gca.operators.inference import DEFAULT_TIMEOUT_SECONDS, StackBatchOperator
from airflow_provider_gca.task_groups import steps
from airflow_provider_gca.utils.fields import check_literals, is_literal, require_text
from gca_core.errors import ConfigurationError

MAX_BOUND = 10
DEFAULT_CONNECTION = "gca_atlas_default"

# where the functions take values the tasks take the outputs of other tasks, which their types can't say
_QUIET: dict[str, Any] = {"multiple_outputs": False, "show_return_value_in_logs": False}
understand: Any = task(multiple_outputs=False)(steps.understand)
start: Any = task(multiple_outputs=True)(steps.start)
gate: Any = task(multiple_outputs=False, trigger_rule=TriggerRule.NONE_FAILED)(steps.gate)
propose: Any = task(**_QUIET)(steps.propose)
collect: Any = task(**_QUIET, trigger_rule=TriggerRule.ALL_DONE)(steps.collect)
evaluate: Any = task(**_QUIET, map_index_template="{{ task.op_kwargs['result']['candidate_id'] }}")(steps.evaluate)
record: Any = task(multiple_outputs=False, trigger_rule=TriggerRule.ALL_DONE)(steps.record)
finalize: Any = task(multiple_outputs=False, trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)(steps.finalize)
notify: Any = task(steps.notify)
cancel_leftovers: Any = task(steps.cancel_leftovers)


@dataclass(frozen=True)
class HaystackLoop:
    """A loop that was added to a DAG.

    Attributes:
        group: the task group, to put other tasks before and after.
        outputs: what ``finalize`` returns: URIs of h5ad, HTML and JSON, best score and iteration, and why it ended.
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
    gca_atlas_conn_id: str = DEFAULT_CONNECTION,
    execution: str = "local",
    job_timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    infer_arguments: Mapping[str, Any] | None = None,
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
        execution: how :class:`StackBatchOperator` runs jobs.
        job_timeout_seconds: a job is ended after that time.
        infer_arguments: arguments for every ``infer`` task, such as ``pool``, ``queue``, ``retries``.

    Raises:
        ConfigurationError: a literal is out of its range.
    """
    asked = {"question": question, "cell_type": cell_type, "perturbation": perturbation, "kind": kind}
    _check(iterations, max_iterations, asked, config)
    common = {"gca_atlas_conn_id": gca_atlas_conn_id}
    infer = {"execution": execution, "timeout_seconds": job_timeout_seconds, **(infer_arguments or {})}
    with TaskGroup(group_id=group_id) as group:
        query = understand(**asked, dataset=dataset, **common)
        started = start(
            query=query,
            group_id=group.group_id,
            bound=iterations,
            max_iterations=max_iterations,
            config=dict(config or {}),
            results_uri=results_uri,
            **common,
        )
        states, must_not_fail = [started], [started]
        for index in range(iterations):
            state, watched = _iteration(index, states[-1], infer, common)
            states.append(state)
            must_not_fail += watched
        outputs = finalize(states=states, **common)
        must_not_fail >> outputs
        told = notify(outputs=outputs)
        stopped = cancel_leftovers(group_id=group.group_id, **common)
        told >> stopped.as_teardown()
    return HaystackLoop(group=group, outputs=outputs, run_id=started["run_id"])


def _iteration(
    index: int, state: XComArg, infer: Mapping[str, Any], common: Mapping[str, Any]
) -> tuple[XComArg, list[XComArg]]:
    """One unrolled iteration; its record, and the tasks whose failure must fail the run."""
    with TaskGroup(group_id=f"iteration_{index}"):
        decision = gate(state=state, iteration=index, **common)
        jobs = propose(decision=decision, **common)
        predicted = StackBatchOperator.partial(
            task_id="infer", fail_when="never", map_index_template="{{ task.job_id }}", **infer
        ).expand_kwargs(jobs)
        results = collect(decision=decision, jobs=jobs, answers=predicted.output)
        evaluations = evaluate.partial(decision=decision, **common).expand(result=results)
        recorded = record(decision=decision, results=results, evaluations=evaluations, **common)
    return recorded, [decision, jobs, results, recorded]


def _check(
    iterations: int, max_iterations: int | str | None, asked: Mapping[str, Any], config: Mapping[str, Any] | None
) -> None:
    name = "haystack_loop"
    if isinstance(iterations, bool) or not isinstance(iterations, int) or not 1 <= iterations <= MAX_BOUND:
        raise ConfigurationError(
            f"{name}: iterations has to be a whole number from 1 to {MAX_BOUND}, found {iterations!r}"
        )
    if max_iterations is not None and is_literal(max_iterations):
        steps.checked_bound(max_iterations, iterations)
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
