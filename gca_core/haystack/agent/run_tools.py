"""Tools that look into the predictions of a run: what the evaluation computes, for one candidate at a time.

They read what the run wrote and nothing else: a model names a candidate of the run, never a file, and figures come from
the functions that score a prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from gca_core.errors import EvaluationError
from gca_core.grounding.components import Response, network_component, network_links, target_component
from gca_core.grounding.literature import search_literature
from gca_core.grounding.score import enriched_sets
from gca_core.haystack.agent.tooling import Limit, Text, Value, as_tools, cut, listed
from gca_core.haystack.decide import best_of, decide
from gca_core.haystack.models import CandidateEvaluation, HaystackRun
from gca_core.inference.prediction import differential_change, read_prediction
from gca_core.matrix.differential import DifferentialExpression

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from gca_core.grounding.models import GroundingComponent, Suggestion
    from gca_core.haystack.context import HaystackContext

RUN_TOOL_NAMES = (
    "extract_de_genes",
    "run_pathway_enrichment",
    "check_target_activation",
    "search_literature_evidence",
    "build_gene_network",
    "compute_grounding_score",
    "check_convergence",
)
KEPT = 4

FewGenes = Annotated[int, Field(ge=1, le=20, description="genes at most")]


def make_run_tools(current: Callable[[], HaystackRun], context: HaystackContext) -> list[BaseTool]:
    """The tools over the predictions of a run.

    Args:
        current: the run as it stands when a tool is called.
        context: knowledge; no database is asked.
    """
    return as_tools(RunToolbox(current, context), RUN_TOOL_NAMES)


class RunToolbox:
    """What the tools do; each method's name is the tool's, its docstring what a model reads of it."""

    def __init__(self, current: Callable[[], HaystackRun], context: HaystackContext) -> None:
        self._current, self._context = current, context
        self._change = lru_cache(maxsize=KEPT)(self._read_change)

    def extract_de_genes(self, candidate_id: Text, limit: Limit = 20) -> Value:
        """The differentially expressed genes of a tried prompt's prediction, strongest first, with log2 fold change and
        adjusted p; generated cells are no replicates, so effects count more than p."""
        found = self._change(candidate_id)
        place = {gene: i for i, gene in enumerate(found.genes)}

        def rows(genes: list[str]) -> list[Value]:
            return [
                {"gene": g, "lfc": round(float(found.lfc[i]), 3), "padj": _brief(found.padj[i])}
                for g in genes
                if (i := place[g]) >= 0
            ]

        up, down = rows(found.strongest("up")), rows(found.strongest("down"))
        return {"up": listed("genes", up, limit), "down": listed("genes", down, limit), "note": found.note}

    def run_pathway_enrichment(self, candidate_id: Text, limit: Limit = 20) -> Value:
        """Gene sets that a tried prompt's prediction moves, by the rank of all genes and by its differentially
        expressed genes, with direction and adjusted p-values."""
        table = enriched_sets(self._change(candidate_id), self._run.config.grounding)
        rows = [
            {
                "pathway": cut(str(row["name"])),
                "collection": cut(str(row["collection"])),
                "z": round(float(row["z"]), 2),
                **{name: _brief(row[name]) for name in ("padj", "padj_up", "padj_down")},
            }
            for row in table.head(limit).to_dict("records")
        ]
        return {"pathways": rows, "total": len(table), "truncated": len(table) > limit}

    def check_target_activation(self, candidate_id: Text) -> Value:
        """Whether a tried prompt's prediction shows what the perturbation is expected to do to its genes and signalling
        pathways, with direction."""
        part, actions = target_component(
            self._response(candidate_id),
            self._run.query.expectation,
            self._context.knowledge,
            self._run.config.grounding,
        )
        return {**_part(part), "suggestions": [_suggestion(s) for s in actions[:10]]}

    def search_literature_evidence(self, candidate_id: Text, limit: FewGenes = 5) -> Value:
        """What PubMed says of the strongest genes of a tried prompt's prediction with the perturbation: publications,
        those of the cell type, and those that say the same or the opposite direction."""
        query, names = self._run.query, self._context.literature_names(self._run.query)
        found = search_literature(self._change(candidate_id).strongest_of_both(limit), names, query.cell_type)
        if not found.evidence:
            return {
                "error": f"there is no literature evidence: {cut(found.reason)}. go on without it",
                "suggestions": [],
            }
        rows = [{**e.model_dump(mode="json"), "value": round(e.value, 3)} for e in found.evidence]
        return {**listed("genes", rows, limit), "note": found.reason}

    def build_gene_network(self, candidate_id: Text, limit: Limit = 20) -> Value:
        """How the differentially expressed genes of a tried prompt's prediction are linked with each other and with the
        targets by small sets of Reactome, strongest first, and whether that goes beyond chance."""
        asked = (self._response(candidate_id), self._run.query.expectation)
        bounds = (self._context.knowledge, self._run.config.grounding)
        rows = [link._asdict() for link in network_links(*asked, *bounds)]
        return {**listed("links", rows, limit), "beyond_chance": _part(network_component(*asked, *bounds)[0])}

    def compute_grounding_score(self, candidate_id: Text) -> Value:
        """The grounding score of a tried prompt with its parts and the numbers they came from, what it suggests, the
        agreement of the prediction with the atlas's own estimate, and the accuracy to expect from all of it."""
        tried = self._evaluation(candidate_id)
        score = tried.grounding
        return {
            "candidate_id": candidate_id,
            "status": tried.status.value,
            "agreement": tried.agreement,
            "expected_accuracy": None if tried.expected is None else round(tried.expected.value, 3),
            "score": tried.score,
            "parts": [_part(part) for part in score.components] if score else [],
            "reason": cut((score.reason if score else tried.error) or ""),
            "suggestions": [_suggestion(s) for s in score.improvement_suggestions[:20]] if score else [],
        }

    def check_convergence(self) -> Value:
        """Whether the search goes on by its rules, and why not; the best scores by iteration, and what is left of the
        bounds."""
        run, decision = self._run, decide(self._run)
        best, limit = best_of(run.evaluations()), run.config.max_evaluations
        return {
            "goes_on": decision.go,
            "why": decision.reason.value if decision.reason else "",
            "detail": cut(decision.detail),
            "best_score_by_iteration": [record.best_score for record in run.iterations],
            "best": best.candidate.candidate_id if best else None,
            "iterations_left": max(0, run.config.max_iterations - len(run.iterations)),
            "predictions_left": None if limit is None else max(0, limit - len(run.evaluations())),
        }

    @property
    def _run(self) -> HaystackRun:
        return self._current()

    def _evaluation(self, candidate_id: str) -> CandidateEvaluation:
        tried = {e.candidate.candidate_id: e for e in self._run.evaluations()}
        found = tried.get(candidate_id)
        if found is None:
            raise EvaluationError(f"{cut(candidate_id)!r} is no prompt that this run tried; it tried {list(tried)}")
        return found

    def _read_change(self, candidate_id: str) -> DifferentialExpression:
        tried = self._evaluation(candidate_id)
        if tried.prediction_uri is None or tried.query_uri is None:
            raise EvaluationError(f"{candidate_id} has no prediction: {tried.error}")
        config = self._run.config.grounding
        cells = read_prediction(tried.prediction_uri, tried.query_uri)
        return differential_change(*cells, min_lfc=config.min_lfc, max_padj=config.max_padj)

    def _response(self, candidate_id: str) -> Response:
        found = self._change(candidate_id)
        return Response.of(found.lfc, found.genes, found.is_de)


def _part(part: GroundingComponent) -> Value:
    figures = {cut(name): value for name, value in list(part.figures.items())[:20]}
    return {"part": part.name, "score": part.score, "figures": figures, "detail": cut(part.detail)}


def _suggestion(suggestion: Suggestion) -> Value:
    return {name: cut(value) for name, value in suggestion.model_dump(mode="json").items() if value}


def _brief(value: Any) -> float:
    return float(f"{float(value):.2g}")
