"""What a run came to, in words."""

from __future__ import annotations

from gca_core.haystack.decide import accuracy_of, preference
from gca_core.haystack.models import (
    Baseline,
    CandidateEvaluation,
    EvaluationStatus,
    HaystackOutputs,
    HaystackRun,
    ReferenceResponse,
    Verdict,
)
from gca_core.haystack.selection import REFERENCE
from gca_core.matrix.differential import NOT_REPLICATES
from gca_core.responses.models import Selection


def headline(verdict: Verdict, name: str) -> str:
    """The verdict as a sentence, on the perturbation of that name."""
    return {
        Verdict.MEASURED: "Measured: your atlas holds this response.",
        Verdict.GROUNDED: f"Grounded: the prediction shows what is known of {name}.",
        Verdict.NOT_GROUNDED: "No grounded prediction.",
        Verdict.UNGROUNDABLE: f"Ungroundable: too little is known of {name} to judge a prediction.",
        Verdict.NO_PREDICTION: "No prediction was made.",
    }[verdict]


def fates(run: HaystackRun, best: CandidateEvaluation | None) -> dict[str, str]:
    """Why each candidate was taken or not, by its id."""
    if best is None:
        return {e.candidate.candidate_id: _unusable(e) for e in run.evaluations()}
    usable = sorted((e for e in run.evaluations() if e.prediction_uri is not None), key=preference)
    found = {e.candidate.candidate_id: _unusable(e) for e in run.evaluations() if e.prediction_uri is None}
    found |= {e.candidate.candidate_id: f"not taken: {_behind(e, best)}" for e in usable}
    next_one = next((e for e in usable if e.candidate.candidate_id != best.candidate.candidate_id), None)
    ahead = "the only prediction" if next_one is None else _behind(next_one, best, ahead=True)
    return found | {best.candidate.candidate_id: f"taken: {ahead}"}


def _unusable(evaluation: CandidateEvaluation) -> str:
    if evaluation.status is EvaluationStatus.FAILED:
        return f"failed: {evaluation.error or 'no reason was given'}"
    return "no prediction"


def _behind(one: CandidateEvaluation, best: CandidateEvaluation, *, ahead: bool = False) -> str:
    """The first thing that tells the two apart, by what the best was chosen by."""
    pairs = zip(preference(one), preference(best), strict=True)
    first = next((i for i, (own, other) in enumerate(pairs) if own != other), 3)
    if first == 0:
        figures = _against(accuracy_of(one), accuracy_of(best), ahead, 2)
        what = "Pearson to expect" if best.expected else "agreement with the atlas's own estimate"
        return f"{'highest' if ahead else 'lower'} {what} ({figures})"
    if first == 1:
        more = "as accurate to expect and better" if ahead else "as accurate to expect, but less well"
        return f"{more} grounded ({_against(one.score, best.score, ahead, 1)})"
    if first == 2:
        return f"as good as another, and its prompt is {'more' if ahead else 'less'} relevant"
    return "as good as another, by order of their ids"


def _against(one: float | None, best: float | None, ahead: bool, digits: int) -> str:
    own, other = ("none" if value is None else f"{value:.{digits}f}" for value in (one, best))
    return f"{other}, next {own}" if ahead else f"{own} against {other}"


def choice(selection: Selection, threshold: float) -> list[str]:
    """How a prompt was chosen, what that is worth on left-out pairs, and what the score tells there."""
    compared = "" if selection.by_score is None else f", the highest grounding score alone {selection.by_score:.2f}"
    telling = " and ".join(f"{n} ({w:.2f})" for n, w in selection.weights.items() if w > 0 and n != REFERENCE)
    silent = ", ".join(name for name, weight in selection.weights.items() if weight == 0 and name != REFERENCE)
    found = [
        "The prediction with the highest Pearson to expect is taken. What is expected was learned on "
        f"{selection.n_prompts} prompts for {selection.n_pairs} pairs of your atlas, each left out: there this choice "
        f"reaches Pearson {selection.chosen:.2f}{compared}, the best prompt of all {selection.best:.2f}.",
        f"Beside the agreement with the atlas's own estimate, {telling or 'no part of the score'} tells how accurate a "
        f"prompt is here{f'; {silent}: no weight' if telling and silent else ''}.",
    ]
    if selection.at_threshold is not None:
        found.append(f"A grounding score of {threshold:g} goes with Pearson {selection.at_threshold} on these pairs.")
    return found


def caveats(run: HaystackRun, outputs: HaystackOutputs, baseline: Baseline, reference: ReferenceResponse) -> list[str]:
    """What a reader of this run has to bear in mind."""
    found = []
    if outputs.h5ad_uri is not None:
        found.append(f"{NOT_REPLICATES[0].upper()}{NOT_REPLICATES[1:]}.")
        found.append(
            "A high score says that the prediction shows the programme expected of the perturbation. It does not say "
            "that each gene is right, nor how much the target resembles the cells of the prompt."
        )
    better = baseline.grounding.score if baseline.grounding else None
    if better is not None and outputs.best_score is not None and better >= outputs.best_score:
        found.append(
            f"The mean shift of all other types scores {better:.1f}, no less than the prediction: an averaged response "
            "is cleaner, which the score likes and which need not be nearer to the truth."
        )
    if reference.forecast is None and outputs.h5ad_uri is not None:
        found.append("The atlas holds too few measured pairs to say how accurate an answer will be.")
    elif reference.forecast is not None and reference.forecast.n_pairs < 20:
        few = reference.forecast.n_pairs
        found.append(f"The accuracy to expect stands on {few} pairs, so its interval is a little narrow.")
    if not run.query.in_catalogue:
        found.append(f"The catalogue doesn't know {run.query.perturbation}, so nothing is expected of it.")
    return found + list(run.query.ambiguities) + list(run.query.notes)
