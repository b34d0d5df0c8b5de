"""Answer many questions with HAYSTACK, within one budget, and write one table of the answers.

The questions are a CSV with the column `question`, or `cell_type` and `perturbation`, and where wanted `id`, `kind` and
`dataset`; or a JSON list of texts or objects. With no parameter set, three are asked about the bundled cells. Each
question is a mapped task that runs the whole loop, with its inference on the worker; one that fails leaves the others
as they are, and the table names it. The budget is shared: a run gets an equal part of what those before it left.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_gca.utils.failures import fails_as_task

OPTIONAL = ["null", "string"]
# questions that are worked on at a time, over all runs of the DAG
AT_A_TIME = 4
BUNDLED = (
    "How would CD14+ monocytes respond to interferon beta?",
    "How would B cells respond to interferon beta?",
    "How would natural killer cells respond to interferon beta?",
)


@dag(
    dag_id="gca_haystack_batch",
    schedule=None,
    catchup=False,
    tags=["gca", "haystack"],
    doc_md=__doc__,
    params={
        "questions_uri": Param(None, type=OPTIONAL, description="CSV or JSON; empty asks about the bundled cells."),
        "output_uri": Param(None, type=OPTIONAL, description="Folder for the results; empty takes one for each run."),
        "max_predictions": Param(None, type=["null", "integer"], minimum=1, description="Of all questions together."),
        "max_inference_seconds": Param(
            None, type=["null", "number"], exclusiveMinimum=0, description="Of all questions together."
        ),
        "max_iterations": Param(3, type="integer", minimum=1, maximum=10, description="Of each question at most."),
        "score_threshold": Param(7.0, type="number", minimum=1, maximum=10, description="A score that ends a run."),
        "ontology_distance": Param(
            2, type="integer", minimum=0, description="Steps in the Cell Ontology that are near."
        ),
        "seed": Param(0, type="integer", minimum=0, description="Seed of every random choice."),
        "max_failed": Param(
            0, type="integer", minimum=0, description="The run fails, after all is written, if more questions failed."
        ),
    },
)
def gca_haystack_batch() -> None:
    def place(dag_run: Any, params: Any) -> str:
        """The folder for the results of a DAG run."""
        from airflow_provider_gca.utils.summary import results_folder
        from gca_core.io import join_uri

        return params["output_uri"] or join_uri(results_folder(dag_run.dag_id, dag_run.run_id), "results")

    @task(multiple_outputs=False)
    @fails_as_task
    def plan(params: Any = None) -> list[dict[str, Any]]:
        """The questions, in their order."""
        from airflow_provider_gca.hooks.atlas import AtlasHook
        from airflow_provider_gca.utils.mapping import mappable
        from gca_core.haystack.questions import Question, read_questions

        if params["questions_uri"]:
            questions = read_questions(params["questions_uri"])
        else:
            from gca_core.haystack.demo.kang2018 import prepare_demo
            from gca_core.haystack.understand import understand

            context = AtlasHook().get_haystack_context()
            files = prepare_demo(understand(BUNDLED[0], context), context, context.settings)
            questions = [
                Question(id=f"q{place}", question=words, dataset=files.dataset)
                for place, words in enumerate(BUNDLED, start=1)
            ]
        return mappable([question.model_dump(mode="json") for question in questions], "questions")

    @task(
        map_index_template="{{ task.op_kwargs['question']['id'] }}",
        max_active_tis_per_dag=AT_A_TIME,
        multiple_outputs=False,
    )
    @fails_as_task
    def ask(question: dict[str, Any], planned: Any, dag_run: Any = None, params: Any = None) -> dict[str, Any]:
        """Run the loop for one question; what came of it also lies in a file, for the table."""
        from airflow_provider_gca.hooks.atlas import AtlasHook
        from airflow_provider_gca.utils.fields import make_model
        from gca_core.errors import GcaError
        from gca_core.haystack.models import IterationConfig
        from gca_core.haystack.questions import Answered, Budget, Question, answered, folder_of, share_of
        from gca_core.haystack.run import run_haystack
        from gca_core.io import as_path, join_uri, write_json
        from gca_core.runs.models import AskedBy, make_run_id

        asked = Question.model_validate(question)
        folder = folder_of(place(dag_run, params), asked)
        answer_uri = join_uri(folder, "answer.json")
        context = AtlasHook().get_haystack_context()
        runs = context.require_runs()
        run_id = make_run_id(dag_run.run_after.date(), dag_run.dag_id, dag_run.run_id, asked.id)
        config = make_model(
            dag_run.dag_id,
            IterationConfig,
            {name: params[name] for name in ("max_iterations", "score_threshold", "ontology_distance", "seed")},
        )
        # that of an earlier try is no answer to this one
        as_path(answer_uri).unlink(missing_ok=True)
        budget = Budget(predictions=params["max_predictions"], inference_seconds=params["max_inference_seconds"])
        try:
            others = [r for r in runs.list_runs(1000, dag_run=(dag_run.dag_id, dag_run.run_id)) if r.run_id != run_id]
            outputs = run_haystack(
                **asked.model_dump(exclude={"id"}),
                config=share_of(budget, config, others, len(planned)),
                run_id=run_id,
                results_uri=folder,
                context=context,
                asked_by=AskedBy(
                    user_name=getattr(dag_run, "triggering_user_name", None),
                    dag_id=dag_run.dag_id,
                    dag_run_id=dag_run.run_id,
                ),
            )
        except GcaError as error:
            failed = Answered(id=asked.id, question=asked.words, status="failed", run_id=run_id, error=str(error))
            write_json(answer_uri, failed)
            raise
        row = answered(asked, outputs, runs.get(run_id))
        write_json(answer_uri, row)
        return row.model_dump(mode="json")

    @task(trigger_rule="all_done", multiple_outputs=False)
    @fails_as_task
    def join(planned: list[dict[str, Any]] | None, dag_run: Any = None, params: Any = None) -> dict[str, Any]:
        """Write the table of all questions."""
        from airflow_provider_gca.utils.summary import write_summary
        from gca_core.errors import DataValidationError
        from gca_core.haystack.questions import Answered, Question, folder_of, write_questions_summary
        from gca_core.io import as_path, join_uri, read_json

        if not planned:
            raise DataValidationError("there is no list of questions; the log of the task before says why")
        rows, output = [], place(dag_run, params)
        for question in map(Question.model_validate, planned):
            uri = join_uri(folder_of(output, question), "answer.json")
            lost = Answered(id=question.id, question=question.words, status="failed", error="see the log of its task")
            rows.append(Answered.model_validate(read_json(uri, what="answer")) if as_path(uri).exists() else lost)
        uris = write_questions_summary(output, rows)
        scores = [row.score for row in rows if row.score is not None]
        metrics: dict[str, Any] = {
            "questions": len(rows),
            "failed": sum(row.error is not None for row in rows),
            "best score": max(scores, default="none"),
            "predictions": sum(row.predictions or 0 for row in rows),
            "inference seconds": sum(row.inference_seconds or 0.0 for row in rows),
        }
        write_summary(system="haystack", ran_on="a list of questions", metrics=metrics, files=uris)
        return {"failed": [row.id for row in rows if row.error], "n_questions": len(rows), "uris": uris}

    @task
    @fails_as_task
    def judge(joined: dict[str, Any], params: Any = None) -> None:
        """Fail the run where more questions failed than are tolerated."""
        from gca_core.errors import DataValidationError

        if len(joined["failed"]) > params["max_failed"]:
            raise DataValidationError(
                f"{len(joined['failed'])} of {joined['n_questions']} questions failed ({', '.join(joined['failed'])}), "
                f"tolerated are {params['max_failed']}; the answers to the others are written: {joined['uris']['html']}"
            )

    @task(trigger_rule="all_done")
    @fails_as_task
    def close_records(dag_run: Any = None, ti: Any = None) -> None:
        """End the records of runs whose tasks were killed; a run that was cancelled is no success."""
        from airflow_provider_gca.hooks.atlas import AtlasHook
        from gca_core.errors import RunCancelledError
        from gca_core.runs.models import RunStatus

        runs = AtlasHook().get_run_store()
        for row in runs.list_runs(1000, dag_run=(dag_run.dag_id, dag_run.run_id)):
            if not row.status.is_final:
                runs.close(row.run_id, RunStatus.CANCELLED, "cancelled")
        states = ti.get_task_states(dag_id=dag_run.dag_id, run_ids=[dag_run.run_id])
        if states[dag_run.run_id]["judge"] != "success":
            raise RunCancelledError("the run was cancelled, or one of its tasks failed")

    planned = plan()
    joined = join(planned)
    # [START howto_questions_mapped]
    ask.partial(planned=planned).expand(question=planned) >> joined
    # [END howto_questions_mapped]
    judge(joined) >> close_records().as_teardown(on_failure_fail_dagrun=True)


gca_haystack_batch()
