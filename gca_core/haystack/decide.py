"""Pure decisions on the state of a run: go on or stop, and which candidate is best."""

from collections.abc import Sequence

from gca_core.haystack.models import (
    CandidateEvaluation,
    GateDecision,
    HaystackRun,
    IterationConfig,
    TerminationReason,
    Verdict,
)

# other cells of the same prompt move a score by 0.03 (standard deviation over ten bootstraps of the bundled cells),
# so that differences below a tenth say nothing
SCORE_DECIMALS = 1
ACCURACY_DECIMALS = 2
LOWEST = 1.0
STOPPED = {
    TerminationReason.THRESHOLD: "it is good enough",
    TerminationReason.PLATEAU: "further prompts brought nothing",
    TerminationReason.MAX_ITERATIONS: "all iterations have run",
    TerminationReason.BUDGET: "the budget is spent",
    TerminationReason.CANCELLED: "it was cancelled",
    TerminationReason.EMPTY_PROPOSAL: "nothing new is left to try",
    TerminationReason.MEASURED: "the answer is known",
    TerminationReason.FEEDBACK: "a person stopped it",
}


def decide(run: HaystackRun, *, cancelled: bool = False) -> GateDecision:
    """Whether another iteration runs after those of ``run``.

    In this order: cancelled, measured, a person, an empty proposal, the score threshold, a plateau, the budget, the
    number of iterations.
    """
    config, done = run.config, len(run.iterations)
    if cancelled:
        return _stop(TerminationReason.CANCELLED, "the run was cancelled")
    if run.measured is not None and not config.predict_anyway:
        return _stop(TerminationReason.MEASURED, f"the atlas holds the answer, {run.measured}")
    if run.feedback and run.feedback[-1].stop:
        by = f" by {run.feedback[-1].by}" if run.feedback[-1].by else ""
        return _stop(TerminationReason.FEEDBACK, f"stopped{by} after iteration {run.feedback[-1].iteration}")
    if done and not run.iterations[-1].evaluations:
        return _stop(TerminationReason.EMPTY_PROPOSAL, run.iterations[-1].empty_reason or "nothing was proposed")
    best = best_of(run.evaluations())
    if best is not None and best.score is not None and best.score >= config.score_threshold:
        return _stop(
            TerminationReason.THRESHOLD, f"the score {best.score:.2f} reaches the threshold {config.score_threshold:g}"
        )
    if is_plateau([record.best_score for record in run.iterations], config):
        return _stop(
            TerminationReason.PLATEAU,
            f"no gain of {config.min_improvement:g} over the last {config.plateau_window} iterations",
        )
    if over := _over_budget(run):
        return _stop(TerminationReason.BUDGET, over)
    if done >= config.max_iterations:
        return _stop(TerminationReason.MAX_ITERATIONS, f"{done} of {config.max_iterations} iterations have run")
    return GateDecision(go=True, detail=f"iteration {done} of at most {config.max_iterations}")


def is_plateau(scores: Sequence[float | None], config: IterationConfig) -> bool:
    """Whether the best of the last window is no better by ``min_improvement`` than the best before it.

    An iteration without a score counts as the lowest score.
    """
    values = [LOWEST if score is None else score for score in scores]
    if len(values) <= config.plateau_window:
        return False
    before, window = values[: -config.plateau_window], values[-config.plateau_window :]
    return max(window) - max(before) < config.min_improvement


def best_of(evaluations: Sequence[CandidateEvaluation]) -> CandidateEvaluation | None:
    """The evaluation with the highest accuracy to expect, then the best grounded, then by relevance and candidate id.

    Where no accuracy can be expected, the agreement with the reference stands for it. Both are compared to two
    decimals, scores to one. Evaluations without any come last, failed ones never.
    """
    usable = [e for e in evaluations if e.prediction_uri is not None]
    return min(usable, key=preference, default=None)


def preference(evaluation: CandidateEvaluation) -> tuple[float, float, float, str]:
    """The sort key of :func:`best_of`, best first."""
    found = accuracy_of(evaluation)
    accuracy = -1.0 if found is None else round(found, ACCURACY_DECIMALS)
    score = LOWEST - 1 if evaluation.score is None else round(evaluation.score, SCORE_DECIMALS)
    return -accuracy, -score, -evaluation.candidate.relevance, evaluation.candidate.candidate_id


def accuracy_of(evaluation: CandidateEvaluation) -> float | None:
    """The accuracy to expect of a prediction, else its agreement with the reference, else None."""
    return evaluation.expected.value if evaluation.expected else evaluation.agreement


def verdict(run: HaystackRun) -> tuple[Verdict, str]:
    """What a run came to, and why in words.

    A prediction is grounded if its score reaches the threshold and, where an accuracy can be expected, more than none
    is: the interval that holds nine in ten lies above 0.
    """
    best, config = best_of(run.evaluations()), run.config
    if run.measured is not None and not config.predict_anyway:
        return Verdict.MEASURED, f"the atlas holds the answer, {run.measured}"
    if best is None:
        return Verdict.NO_PREDICTION, "no prompt gave a prediction"
    if best.score is None:
        reason = best.grounding.reason if best.grounding else ""
        return Verdict.UNGROUNDABLE, reason or "too little is known to judge it by"
    scored = f"a grounding score of {best.score:.1f}, threshold {config.score_threshold:g}"
    words = scored if best.expected is None else f"{scored}; Pearson to expect {best.expected}"
    doubtful = best.expected is not None and best.expected.low <= 0
    return Verdict.NOT_GROUNDED if best.score < config.score_threshold or doubtful else Verdict.GROUNDED, words


def _over_budget(run: HaystackRun) -> str:
    config = run.config
    spent = sum(evaluation.duration_seconds for evaluation in run.evaluations())
    if config.max_evaluations is not None and len(run.evaluations()) >= config.max_evaluations:
        return f"{len(run.evaluations())} of {config.max_evaluations} predictions are spent"
    if config.budget_seconds is not None and spent >= config.budget_seconds:
        return f"{spent:.0f} of {config.budget_seconds:g} inference seconds are spent"
    return ""


def _stop(reason: TerminationReason, detail: str) -> GateDecision:
    return GateDecision(go=False, reason=reason, detail=detail)
