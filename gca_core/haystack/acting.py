"""Tools that act on a run, for an agent of yours that drives one: predict, report, save.

Each calls the step that the loop calls. None takes a path, a backend or a bound: what is predicted the run proposes,
its configuration says with what and how often, and its settings say where results go. The loop's own sub-agents are not
given them, since there the loop acts.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from gca_core import io
from gca_core.errors import ConfigurationError
from gca_core.haystack import steps
from gca_core.haystack.agent.run_tools import make_run_tools
from gca_core.haystack.agent.tooling import Value, as_tools, cut
from gca_core.haystack.decide import best_of
from gca_core.haystack.run import iterate
from gca_core.inference.local import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from gca_core.haystack.context import HaystackContext
    from gca_core.haystack.models import HaystackOutputs
    from gca_core.runs.state import StateRef

ACTING_TOOL_NAMES = ("run_stack_inference", "generate_report", "save_results_to_gcs")


class RunActions:
    """One run and what may be done to it.

    Args:
        state: the run so far, as :func:`gca_core.haystack.steps.start_run` or a later step gave it.
        context: atlas, records and knowledge.
        timeout: seconds that one inference job may take.
    """

    def __init__(self, state: StateRef, context: HaystackContext, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.state = state
        self._context, self._timeout = context, timeout
        self._outputs: HaystackOutputs | None = None

    def tools(self) -> list[BaseTool]:
        """The tools that act, and those that look into the run as it then stands."""
        looking = make_run_tools(lambda: steps.load_run(self.state), self._context)
        return [*as_tools(self, ACTING_TOOL_NAMES), *looking]

    def run_stack_inference(self) -> Value:
        """Predict with the prompts that the run proposes next, on its own backend, and record their scores. Nothing is
        predicted once the run's bounds or its rules end it, or its report is written."""
        if self._outputs is not None:
            return {"predicted": [], "why": "the report is written, so the run has ended"}
        decision = steps.gate(self.state, self.state.iteration, self._context)
        if not decision.go:
            return {"predicted": [], "why": cut(f"{decision.reason}: {decision.detail}")}
        self.state = iterate(self.state, self._context, timeout=self._timeout)
        run = steps.load_run(self.state)
        best = best_of(run.evaluations())
        return {
            "predicted": [
                {
                    "candidate_id": e.candidate.candidate_id, "status": e.status.value, "score": e.score,
                    "agreement": e.agreement, "error": cut(e.error or ""),
                }
                for e in run.iterations[-1].evaluations
            ],
            "best_of_all": best.candidate.candidate_id if best else None,
            "why": "",
        }  # fmt: skip

    def generate_report(self) -> Value:
        """Write the predicted cells, the report and the log of the run's best iteration into its folder, and end it."""
        if self._outputs is None:
            self._outputs = steps.finalize(self.state, self._context)
        return self._outputs.model_dump(mode="json")

    def save_results_to_gcs(self) -> Value:
        """Copy the written results into the bucket of the settings, under the run's name; written there already, they
        stay where they are."""
        if self._outputs is None:
            raise ConfigurationError("there are no results yet; write them with generate_report first")
        folder = io.join_uri(self._context.settings.results_root(), "haystack", io.safe_name(self._outputs.run_id))
        written = [uri for uri in (self._outputs.h5ad_uri, self._outputs.html_uri, self._outputs.json_uri) if uri]
        saved = [uri if uri.startswith("gs://") else io.join_uri(folder, uri.rsplit("/", 1)[1]) for uri in written]
        if not all(uri.startswith("gs://") for uri in saved):
            raise ConfigurationError(
                "the settings name no bucket; a person has to set GCA_RESULTS_URI to a gs:// folder"
            )
        for source, target in zip(written, saved, strict=True):
            if source != target:
                with io.local_copy(source, what="result") as path, io.staged(target) as copy:
                    shutil.copyfile(path, copy)
        return {"saved": saved}
