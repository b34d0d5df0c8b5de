"""Ask a person about flagged clusters in Airflow's form, and go on with the corrections applied."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.sdk import Param, TaskGroup, XComArg, get_current_context, task

from airflow_provider_gca.utils.failures import fails_as_task
from airflow_provider_gca.utils.fields import as_flag
from gca_core.errors import ConfigurationError

log = logging.getLogger(__name__)

CORRECT, LEAVE = "Take this label", "Leave it as it is"
MOST_CLUSTERS = 100
Json = dict[str, Any]


@task(multiple_outputs=False)
@fails_as_task
def find(where: Any, asks: Any) -> list[Json]:
    """The flagged clusters; none where nobody is to be asked."""
    from gca_core.annotation.review.form import cluster_questions

    if not as_flag("review_clusters", "asks", asks):
        log.info("nobody is asked")
        return []
    found = cluster_questions(where, at_most=MOST_CLUSTERS)
    log.info("%d clusters are up for review", len(found))
    return [question.model_dump(mode="json") for question in found]


@task(multiple_outputs=False)
def shown(questions: Any) -> list[Json]:
    """The questions as the form takes them."""
    return [{"subject": question["subject"], "body": question["body"]} for question in questions]


@task(trigger_rule="none_failed", multiple_outputs=False)
@fails_as_task
def apply(where: Any, questions: Any, said: Any) -> Json:
    """Label the cells of the runs again with the labels that people gave."""
    from airflow_provider_gca.utils.summary import results_folder
    from gca_core.annotation.review.form import ClusterAnswer, apply_answers
    from gca_core.io import join_uri

    answers = []
    for question, one in zip(questions, list(said[:]) if said else (), strict=bool(said)):
        if CORRECT in one["chosen_options"]:
            words = one.get("params_input") or {}
            who = (one.get("responded_by_user") or {}).get("name") or "Airflow"
            label, reason = str(words.get("label") or ""), str(words.get("reason") or "")
            answers.append(ClusterAnswer(question=question, label=label, reason=reason, who=who))
    dag_run = get_current_context()["dag_run"]
    folder = join_uri(results_folder(dag_run.dag_id, dag_run.run_id), "review")
    return apply_answers(answers, where, folder).model_dump(mode="json")


@dataclass(frozen=True)
class ClusterReview:
    """A review that was added to a DAG.

    Attributes:
        group: the task group, to put other tasks before and after.
        outcome: what became of the answers: ``applied``, labels by run; ``refused``, answers that could not be used
            and why; ``flagged``, clusters that still are.
    """

    group: TaskGroup
    outcome: XComArg


def review_clusters(
    where: str | XComArg, *, asks: bool | str | XComArg = True, wait: timedelta = timedelta(days=7),
    group_id: str = "review",
) -> ClusterReview:  # fmt: skip
    """Add a stop for a reviewer to the DAG that is being built, behind the tasks that annotate.

    Each flagged cluster is a question in Airflow's form, largest first and 100 at most: the reviewer gives a label of
    the Cell Ontology and a reason, or leaves the cluster as it is. Then the cells of the runs are labelled again with
    the corrections, as ``gca review --apply`` does, and the summary of a cohort is written anew.

    Args:
        where: folder of the results, of one file or of a cohort. Templated.
        asks: whether anybody is asked. Templated.
        wait: how long a reviewer may take; then the clusters stay as they are.
        group_id: id of the task group.

    Raises:
        ConfigurationError: the time is none.
    """
    from airflow.providers.standard.operators.hitl import HITLOperator

    if wait <= timedelta(0):
        raise ConfigurationError(f"review_clusters: wait has to be longer than nothing, found {wait}")
    form = {
        "label": Param("", type=["string", "null"], title="Label", description="Name or id of the Cell Ontology."),
        "reason": Param("", type=["string", "null"], format="multiline", title="Reason"),
    }
    with TaskGroup(group_id=group_id) as group:
        questions = find(where=where, asks=asks)
        asked = HITLOperator.partial(
            task_id="ask",
            options=[CORRECT, LEAVE],
            defaults=LEAVE,
            params=form,
            response_timeout=wait,
            map_index_template="{{ task.subject }}",
        ).expand_kwargs(shown(questions=questions))
        outcome = apply(where=where, questions=questions, said=asked.output)
    return ClusterReview(group, outcome)
