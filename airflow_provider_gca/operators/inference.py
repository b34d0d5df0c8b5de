"""The operator that runs inference jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_gca.operators.batch import BatchCommand, BatchOperator
from airflow_provider_gca.utils.failures import AirflowException
from airflow_provider_gca.utils.fields import check_literals, is_literal, make_model, require_choice, require_text
from gca_core.errors import BatchError, ConfigurationError, InferenceError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from gca_core.inference.local import LocalJob
    from gca_core.inference.models import InferenceRequest, InferenceResult

FAIL_MODES = ("all", "any", "never")


class StackBatchOperator(BatchOperator):
    """Predict perturbed cells: one inference job, a file of requests that one process works through.

    ``requests`` is a list with a mapping for each prediction, the fields of
    :class:`gca_core.inference.InferenceRequest`:

    | field | type | default | |
    |---|---|---|---|
    | `candidate_id` | text | | names the answer; different for each request |
    | `prompt_uri` | text | | h5ad of perturbed cells, raw counts, with `obs["pair"]` |
    | `control_uri` | text | | h5ad of the prompt's control cells, with the same pairs |
    | `query_uri` | text | | h5ad of unperturbed cells of the type that is asked about, raw counts |
    | `output_uri` | text | | where the predicted cells go |
    | `backend` | text | `shift` | `shift`, or `stack` where arc-stack is installed, as in the inference image |
    | `checkpoint` | text | none | weights of a model backend |
    | `gene_list_uri` | text | none | JSON or text list of the genes that the model knows |
    | `diffusion_steps` | 1 and more | 5 | generation steps T of a model backend |
    | `batch_size` | 1 and more | 32 | windows per forward pass of a model backend |
    | `seeds` | list of whole numbers | `[0]` | one prediction each |
    | `pair_weights` | mapping of pairs to numbers | equal | a pair's share in the averaged change |

    Four candidates of one question, each a job of its own on Google Batch; with all of them in one ``requests`` list,
    one machine would serve them one after the other:

    ```python
    folder = "gs://lab/results/monocytes-ifnb"
    candidates = ["direct", "ontology", "mechanistic", "semantic"]
    StackBatchOperator.partial(
        task_id="predict",
        gcp_conn_id="google_cloud_default",
        batch={
            "image": "us-east1-docker.pkg.dev/lab-project/gca/stack:0.1.0",
            "plan": [
                {"provisioning": "SPOT", "region": "us-east1"},
                {"provisioning": "STANDARD", "region": "us-central1"},
            ],
            "service_account": "gca-inference@lab-project.iam.gserviceaccount.com",
        },
    ).expand_kwargs(
        [
            {
                "job_uri": f"{folder}/{name}/job.json",
                "requests": [
                    {
                        "candidate_id": name,
                        "prompt_uri": f"{folder}/{name}/prompt.h5ad",
                        "control_uri": f"{folder}/{name}/control.h5ad",
                        "query_uri": f"{folder}/query.h5ad",
                        "output_uri": f"{folder}/{name}/prediction.h5ad",
                        "backend": "stack",
                        "checkpoint": "gs://lab/models/stack/model.ckpt",
                        "gene_list_uri": "gs://lab/models/stack/genes.json",
                        "seeds": [0, 1, 2],
                    }
                ],
            }
            for name in candidates
        ]
    )
    ```

    Returns a row per request, in the order of the requests:
    ``{"candidate_id", "status", "prediction_uri", "duration_seconds", "metrics", "error", "backend", "model"}``. The
    rows come from the file ``results.json`` beside the job file. A request that failed is a row with ``status`` and
    ``error``; a job that ends without any answer fails the task, whatever ``fail_when`` says.

    With ``execution="local"`` the job's entrypoint, the same that runs on a GPU machine, is a subprocess of
    the task (:mod:`gca_core.inference.local`). Its log lines appear in the task's log, and it ends with the
    task: when the task is cleared, marked or timed out, and also when the task's process is killed. ``gcp_conn_id``
    then opens the job's own file and results; the subprocess opens the cells with the worker's credentials.

    Args:
        requests: inference requests, as JSON.
        job_uri: where the job file goes; its results lie beside it.
        job_id: the job's name; by default a hash of what is asked.
        timeout_seconds: how long a job may take, then it is ended: half an hour where None; on Google Batch, with
            waiting for a machine and further attempts, six hours.
        fail_when: the task fails when ``all`` requests failed (the default), when ``any`` did, or ``never``.
    """

    output_field = "job_uri"
    template_fields_renderers: ClassVar[dict[str, str]] = {"requests": "json", "batch": "json"}
    ui_color = "#efe3d0"

    def __init__(
        self,
        *,
        requests: Sequence[Mapping[str, Any]],
        job_uri: str,
        job_id: str | None = None,
        fail_when: str = "all",
        **kwargs: Any,
    ) -> None:
        self.requests = requests
        self.job_uri = job_uri
        self.job_id = job_id
        self.fail_when = fail_when
        self._job: LocalJob | None = None
        self._known: dict[str, InferenceResult] = {}
        super().__init__(**kwargs)

    def _check(self) -> None:
        super()._check()
        name = type(self).__name__
        require_text(name, job_uri=self.job_uri)
        require_choice(name, FAIL_MODES, fail_when=self.fail_when)
        known = isinstance(self.requests, list | tuple) and is_literal(self.requests)
        for position, request in enumerate(self.requests if known else ()):
            from gca_core.inference.models import InferenceRequest

            check_literals(f"{name}: request {position}", InferenceRequest, request)

    def inputs(self) -> list[str]:
        """Cells of prompts, controls and queries."""
        return sorted({entry[name] for entry in self.requests for name in ("prompt_uri", "control_uri", "query_uri")})

    def outputs(self, result: Any) -> dict[str, str]:
        """The predicted cells by candidate."""
        return {row["candidate_id"]: row["prediction_uri"] for row in result if row["prediction_uri"]}

    def metrics(self, result: Any) -> dict[str, Any]:
        """How many requests succeeded."""
        return {"n_requests": len(result), "n_succeeded": len(self.outputs(result))}

    def on_kill(self) -> None:
        """End the job's whole process group, or cancel it on Google Batch."""
        if self._service is not None:
            super().on_kill()
        self._killed = True
        if self._job is not None:
            self._job.cancel()

    def work(self, context: Context) -> Any:
        """Run the job where it is to run, unless all of its predictions were made before."""
        from gca_core.inference.cache import take

        self._check()
        requests = self._requests()
        self._known = take(requests)
        if len(self._known) == len(requests):
            return self._judged([self._known[request.candidate_id] for request in requests])
        return super().work(context)

    def run_local(self, context: Context) -> list[InferenceResult]:  # noqa: ARG002
        """Run the job in a subprocess, for what is not known yet."""
        from gca_core.inference.local import DEFAULT_TIMEOUT, LocalJob, write_job

        requests = self._requests()
        write_job(self._left(), self.job_uri, job_id=self.job_id)
        self._job = LocalJob(self.job_uri, on_line=self.log.info)
        if not self._killed:
            self._job.start()
        if self._killed:
            self._job.cancel()
            raise AirflowException("the task was killed; so was its inference job")
        made = self._job.wait(float(self.timeout_seconds or DEFAULT_TIMEOUT))
        if self._killed:
            raise AirflowException("the task was killed; so was its inference job")
        found = self._known | {result.candidate_id: result for result in made}
        return self._judged([found[request.candidate_id] for request in requests])

    def carried(self) -> dict[str, Any]:
        """The answers that were known before: another worker may know others."""
        return {"known": [row.model_dump(mode="json") for row in self._known.values()]}

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Go on after what the trigger saw."""
        from gca_core.inference.models import InferenceResult

        rows = map(InferenceResult.model_validate, event["carried"].get("known", ()))
        self._known = {row.candidate_id: row for row in rows}
        return super().execute_complete(context, event)

    def _cancel_attempts(self, context: Context) -> None:
        from gca_core.inference.cache import take

        self._known = take(self._requests())
        super()._cancel_attempts(context)

    def command(self) -> BatchCommand:
        """The job's entrypoint in the image."""
        requests = self._left()
        asked = [request.model_dump(mode="json") for request in requests]
        named = {
            uri for r in requests for uri in (r.prompt_uri, r.control_uri, r.query_uri, r.checkpoint, r.gene_list_uri)
        }
        outputs = tuple(request.output_uri for request in requests)
        return BatchCommand(("stack", "infer"), self.job_uri, asked, tuple(sorted(filter(None, named))), outputs)

    def write_inputs(self) -> None:
        """Write the job file; results of an earlier attempt go."""
        from gca_core import io
        from gca_core.inference.job import results_uri
        from gca_core.inference.local import job_hash, write_job

        requests = self._left()
        names = ("prompt_uri", "control_uri", "query_uri", "output_uri", "checkpoint", "gene_list_uri")
        placed = [
            r.model_copy(update={name: self.place(uri) for name in names if (uri := getattr(r, name))})
            for r in requests
        ]
        job_uri = self.place(self.job_uri)
        io.as_path(results_uri(job_uri)).unlink(missing_ok=True)
        write_job(placed, job_uri, job_id=self.job_id or job_hash(requests))

    def collect(self) -> list[InferenceResult]:
        """The rows of ``results.json``, one per request."""
        return self._rows("the job succeeded, but its results.json lacks an answer", "")

    def give_up(self, reason: str) -> list[InferenceResult]:
        """The rows of ``results.json`` where some requests were answered before the job failed."""
        return self._rows(reason, f"; {reason}")

    def _rows(self, missing: str, reason: str) -> list[InferenceResult]:
        from gca_core.inference.local import job_hash, read_answers
        from gca_core.inference.models import InferenceResult, InferenceStatus

        left = self._left()
        job_id = self.job_id or job_hash(left)
        answers = self._fetched(left, job_id) or read_answers(self.job_uri, job_id)
        if not answers:
            raise BatchError(missing)
        if len(answers) < len(left):
            self.log.warning("%s", missing)
        answers = self._known | answers
        failed = {"status": InferenceStatus.FAILED, "error": missing}
        return self._judged(
            [
                answers.get(r.candidate_id) or InferenceResult(candidate_id=r.candidate_id, backend=r.backend, **failed)
                for r in self._requests()
            ],
            reason,
        )

    def _fetched(self, requests: Sequence[InferenceRequest], job_id: str) -> dict[str, InferenceResult]:
        """Answers in the staging folder, with their predictions' final places; kept beside the job's own file."""
        place = self.place(self.job_uri)
        if place == self.job_uri:
            return {}
        from gca_core import io
        from gca_core.inference.job import results_uri
        from gca_core.inference.local import read_answers
        from gca_core.inference.models import JobResults

        finals = {self.place(r.output_uri): io.as_uri(r.output_uri) for r in requests}
        answers = {
            name: row.model_copy(update={"prediction_uri": finals.get(row.prediction_uri or "")})
            for name, row in read_answers(place, job_id).items()
        }
        if answers:
            io.write_json(results_uri(self.job_uri), JobResults(job_id=job_id, results=tuple(answers.values())))
        return answers

    def _requests(self) -> list[InferenceRequest]:
        from gca_core.inference.models import InferenceRequest

        name = type(self).__name__
        if not isinstance(self.requests, Sequence) or isinstance(self.requests, str) or not self.requests:
            raise ConfigurationError(f"{name}: requests has to be a list with at least one request")
        return [make_model(f"{name}: request {i}", InferenceRequest, entry) for i, entry in enumerate(self.requests)]

    def _left(self) -> list[InferenceRequest]:
        """The requests whose answers were not known before."""
        return [request for request in self._requests() if request.candidate_id not in self._known]

    def _judged(self, results: Sequence[InferenceResult], reason: str = "") -> list[InferenceResult]:
        from gca_core.inference.cache import keep

        keep(self._requests(), results)
        failed = [result for result in results if result.status != "succeeded"]
        for result in failed:
            self.log.warning("%s %s: %s", result.candidate_id, result.status.value, result.error)
        if (self.fail_when == "any" and failed) or (self.fail_when == "all" and len(failed) == len(results)):
            first = failed[0]
            raise InferenceError(
                f"{len(failed)} of {len(results)} requests failed, the first, {first.candidate_id}, with: "
                f"{first.error}{reason}"
            )
        return list(results)
