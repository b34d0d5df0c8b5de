"""What a run came to, small enough for a page: read back from its log."""

from __future__ import annotations

from pydantic import BaseModel

from gca_core import io
from gca_core.errors import DataValidationError
from gca_core.grounding.models import EnrichedPathway, RegulatorActivity
from gca_core.haystack.models import CandidateEvaluation, GeneChange, TerminationReason, Verdict
from gca_core.haystack.results.words import headline
from gca_core.responses.models import Expected

SHOWN = 20


class Digest(BaseModel, frozen=True):
    """A run's result.

    Attributes:
        verdict, headline, detail: what it came to, as a kind, as a sentence, and why.
        grounding_score: from 1 to 10; None where there is no prediction or too little is known.
        expected: the Pearson correlation to expect, with its interval.
        termination_reason: why it ended.
        n_de_up, n_de_down: differentially expressed genes of the prediction.
        de_genes_up, de_genes_down: the strongest of them.
        top_up, top_down: what of the 50 largest changes of mean log1p(CP10k) goes up and down, largest first: of the
            measurement where there is one, of the prediction otherwise.
        pathways: enriched gene sets, most significant first.
        transcription_factors: activities, where a table of regulons was configured.
    """

    verdict: Verdict
    headline: str
    detail: str
    grounding_score: float | None
    expected: Expected | None
    termination_reason: TerminationReason
    n_de_up: int = 0
    n_de_down: int = 0
    de_genes_up: tuple[str, ...] = ()
    de_genes_down: tuple[str, ...] = ()
    top_up: tuple[GeneChange, ...] = ()
    top_down: tuple[GeneChange, ...] = ()
    pathways: tuple[EnrichedPathway, ...] = ()
    transcription_factors: tuple[RegulatorActivity, ...] = ()


def read_digest(log_uri: str) -> Digest:
    """The result in a run's log.

    Raises:
        DataValidationError: the file is missing, or no log of a run.
    """
    try:
        log = io.read_json(log_uri, what="log of a run")["canonical"]
        run, outputs = log["run"], log["outputs"]
        tried = [e for record in run["iterations"] for e in record["evaluations"]]
        taken = [e for e in tried if e["candidate"]["candidate_id"] == outputs["best_candidate_id"]]
        best = CandidateEvaluation.model_validate(taken[0]) if taken else None
        genes = [GeneChange.model_validate(gene) for gene in (outputs["measured"] or {}).get("top_genes", ())]
        verdict = Verdict(outputs["verdict"])
        values = {
            "verdict": verdict,
            "headline": headline(verdict, run["query"]["perturbation"]),
            "detail": outputs["verdict_detail"],
            "grounding_score": outputs["best_score"],
            "expected": outputs["expected"],
            "termination_reason": outputs["termination_reason"],
            "transcription_factors": log["transcription_factors"][:SHOWN],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DataValidationError(f"{log_uri} is no log of a run: {type(error).__name__} at {error}") from None
    if best is not None and best.grounding is not None:
        values |= {
            "n_de_up": best.grounding.n_de_up,
            "n_de_down": best.grounding.n_de_down,
            "de_genes_up": best.grounding.de_genes_up[:SHOWN],
            "de_genes_down": best.grounding.de_genes_down[:SHOWN],
            "pathways": best.grounding.enriched_pathways[:SHOWN],
        }
    genes = genes or list(best.top_genes if best else ())
    up = tuple(gene for gene in genes if gene.change > 0)[:SHOWN]
    down = tuple(gene for gene in genes if gene.change < 0)[:SHOWN]
    return Digest.model_validate({**values, "top_up": up, "top_down": down})
