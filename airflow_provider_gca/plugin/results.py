"""What a run came to, out of the log that it wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_gca.plugin.models import Result
from gca_core.errors import GcaError
from gca_core.grounding.models import GroundingScore
from gca_core.io import read_json

if TYPE_CHECKING:
    from gca_core.runs.models import RunRow

TOP = 20


def read_result(row: RunRow, files: str) -> Result | None:
    """The result; None where the run recorded none, or its log can't be read.

    Args:
        row: the run's record.
        files: address under which its files are sent, by kind.
    """
    uri = row.outputs.get("json")
    if uri is None:
        return None
    try:
        log = read_json(uri, what="log of a run")["canonical"]
        outputs, evaluation = log["outputs"], _best(log)
    except (GcaError, KeyError, TypeError):
        return None
    score = GroundingScore.model_validate(evaluation["grounding"]) if evaluation.get("grounding") else None
    genes = evaluation.get("top_genes") or (outputs.get("measured") or {}).get("top_genes") or ()
    return Result(
        run_id=row.run_id,
        status=row.status,
        verdict=outputs["verdict"],
        verdict_detail=outputs["verdict_detail"],
        grounding_score=outputs["best_score"],
        expected=outputs.get("expected"),
        forecast=outputs.get("forecast"),
        measured=outputs.get("measured"),
        termination_reason=outputs["termination_reason"],
        n_de_genes=score.n_de_up + score.n_de_down if score else 0,
        n_de_up=score.n_de_up if score else 0,
        n_de_down=score.n_de_down if score else 0,
        top_up=[gene for gene in genes if gene["change"] > 0][:TOP],
        top_down=[gene for gene in genes if gene["change"] < 0][:TOP],
        pathways=list(score.enriched_pathways) if score else [],
        transcription_factors=log.get("transcription_factors") or [],
        downloads={kind: f"{files}/{kind}" for kind in row.outputs},
    )


def _best(log: dict[str, Any]) -> dict[str, Any]:
    """The evaluation of the prediction that was taken; empty where there is none."""
    wanted = log["outputs"]["best_candidate_id"]
    found = (e for record in log["run"]["iterations"] for e in record["evaluations"])
    return next((e for e in found if e["candidate"]["candidate_id"] == wanted), {})
