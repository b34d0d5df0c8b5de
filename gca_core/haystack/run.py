"""The plain loop: the same steps that the DAG drives, one after the other in this process."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from gca_core import io
from gca_core.config import Settings, load_settings
from gca_core.errors import RunCancelledError
from gca_core.haystack import steps
from gca_core.haystack.context import HaystackContext, open_context
from gca_core.haystack.models import HaystackOutputs, IterationConfig
from gca_core.haystack.results.files import RESULT
from gca_core.inference.local import DEFAULT_TIMEOUT, run_local_job
from gca_core.inference.models import InferenceJob, InferenceResult
from gca_core.inference.predictor import require_backend
from gca_core.locks import check_earlier
from gca_core.observability import bind_run
from gca_core.runs.cancelling import until_cancelled
from gca_core.runs.models import AskedBy, Claim, make_run_id
from gca_core.runs.state import StateRef
from gca_core.runs.store import BEAT_SECONDS

log = logging.getLogger(__name__)

STALE_AFTER_SECONDS = int(6 * BEAT_SECONDS)


def run_haystack(
    question: str | None = None,
    *,
    cell_type: str | None = None,
    perturbation: str | None = None,
    kind: str | None = None,
    config: IterationConfig | None = None,
    settings: Settings | None = None,
    run_id: str | None = None,
    results_uri: str | None = None,
    overwrite: bool = True,
    dataset: str | None = None,
    context: HaystackContext | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    asked_by: AskedBy | None = None,
) -> HaystackOutputs:
    """Answer a question: understand, then propose, infer, evaluate and record until the gate stops, then finalize.

    What is asked is a question in plain words, or a cell type and a perturbation by name. All that comes in (settings,
    database, knowledge, names) is read and checked before anything is written.

    Args:
        question: one human cell type and one perturbation; None where they are named.
        cell_type: name or id of the Cell Ontology.
        perturbation: name of a cytokine, drug, stimulus, gene or genetic perturbation.
        kind: what is done: ``knockout``, ``CRISPRi``, ``cytokine``, ``drug``, ...; by the name where None.
        config: bounds of the run and its backend.
        settings: settings; read from the environment where None.
        run_id: identity of the run; made from the day, what is asked, the config and place of the results where None,
            so that the same call gives the same run on the same day.
        results_uri: folder of the results; ``<results root>/haystack/<run id>`` where None.
        overwrite: replace earlier results; or else refuse to.
        dataset: restricts the run to one dataset of the atlas.
        context: opened from the settings where None.
        timeout: seconds that one inference job may take.
        asked_by: who asks, for the run's record; this machine's user where None.

    Raises:
        QueryParsingError: what is asked can't be read, or is asked in both ways.
        ConfigurationError: there is no such kind, or the backend can't run here.
        DataValidationError: there are earlier results that are not to be replaced.
        CellRetrievalError: the atlas lacks what the question needs.
        InferenceError: every inference of an iteration failed.
        StoreError: the same run, or another with this folder of results, is at work; the database can't be reached.
    """
    settings = settings or load_settings()
    config = config or IterationConfig(seed=settings.seed)
    require_backend(config.backend, config.checkpoint, config.gene_list_uri)
    context = context or open_context(settings)
    query = steps.understand(
        question, context, cell_type=cell_type, perturbation=perturbation, kind=kind, dataset=dataset
    )
    place = None if results_uri is None else io.as_uri(results_uri)
    asked = (query.question, config.model_dump(mode="json"), dataset, place)
    run_id = run_id or make_run_id(datetime.now(UTC).date(), *asked)
    uri = results_uri or io.join_uri(settings.results_root(), "haystack", io.safe_name(run_id))
    check_earlier(uri, RESULT, overwrite=overwrite)
    claim = Claim(stale_after_seconds=STALE_AFTER_SECONDS)
    state = steps.start_run(
        query, run_id=run_id, results_uri=uri, config=config, context=context, claim=claim, asked_by=asked_by
    )
    begun = time.monotonic()
    store = context.require_runs()
    with store.alive(run_id, claim.owner) as check, bind_run(run_id):
        try:
            with until_cancelled(store, run_id):
                while steps.gate(state, state.iteration, context).go:
                    with bind_run(run_id, state.iteration):
                        state = iterate(state, context, timeout=timeout, check=check)
                check()
                outputs = steps.finalize(state, context)
        except RunCancelledError as error:
            log.warning("%s; what it had found is kept", error)
            outputs = steps.finalize(state, context)
    log.info("finished in %.1f s: %s", time.monotonic() - begun, outputs.termination_reason)
    return outputs


def iterate(
    state: StateRef,
    context: HaystackContext,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    check: Callable[[], None] = lambda: None,
) -> StateRef:
    """One iteration after a state: propose, infer on this machine, evaluate and record.

    Args:
        state: the run so far.
        context: atlas, records and knowledge.
        timeout: seconds that one inference job may take.
        check: called between the steps; raises where the run was lost to another.
    """
    iteration = state.iteration
    jobs = steps.propose(state, iteration, context)
    results = [result for job in jobs for result in infer(job, timeout)]
    check()
    evaluations = [steps.evaluate(state, iteration, result, context) for result in results]
    check()
    return steps.record(state, iteration, evaluations, context)


def infer(job: InferenceJob, timeout: float = DEFAULT_TIMEOUT) -> list[InferenceResult]:
    """Run a proposed job in a subprocess on this machine."""
    return run_local_job(job.requests, job.job_uri, timeout=timeout, job_id=job.job_id)
