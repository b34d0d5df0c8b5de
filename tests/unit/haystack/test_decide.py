from collections.abc import Callable

import pytest

from gca_core.haystack.decide import best_of, decide, is_plateau, preference, verdict
from gca_core.haystack.models import HaystackRun, IterationConfig, Measurement, TerminationReason, Verdict
from gca_core.responses.models import Expected
from tests.helpers.haystack_atlas import evaluation

MakeRun = Callable[..., HaystackRun]


def test_a_run_begins(run_with: MakeRun) -> None:
    assert decide(run_with()).go


@pytest.mark.parametrize(
    ("scores", "options", "reason"),
    [
        ([7.0], {}, TerminationReason.THRESHOLD),
        ([5.0, 5.2, 5.1, 5.3], {}, TerminationReason.PLATEAU),
        ([5.0, 6.2], {"max_iterations": 2}, TerminationReason.MAX_ITERATIONS),
        ([5.0, 6.2], {"max_evaluations": 2}, TerminationReason.BUDGET),
        ([5.0, 6.2], {"budget_seconds": 1.5}, TerminationReason.BUDGET),
        ([5.0, []], {}, TerminationReason.EMPTY_PROPOSAL),
        ([None, None, None, None], {}, TerminationReason.PLATEAU),
    ],
)
def test_a_run_stops_and_says_why(run_with, scores, options, reason):
    decision = decide(run_with(*scores, **options))
    assert not decision.go
    assert decision.reason is reason
    assert decision.detail


@pytest.mark.parametrize("scores", [[6.9], [5.0, 5.2, 5.1], [3.0, 3.5, 4.0, 4.2]])
def test_a_run_goes_on(run_with: MakeRun, scores: list[float]) -> None:
    assert decide(run_with(*scores)).go


def test_cancelled_comes_first(run_with: MakeRun) -> None:
    assert decide(run_with(9.0), cancelled=True).reason is TerminationReason.CANCELLED


def test_what_was_measured_is_predicted_only_when_asked(run_with: MakeRun) -> None:
    held = {"measured": Measurement(n_groups=2, n_cells=300, agreement=0.8)}
    decision = decide(run_with().model_copy(update=held))
    assert decision.reason is TerminationReason.MEASURED and "2 groups of 300 cells" in decision.detail
    assert decide(run_with(predict_anyway=True).model_copy(update=held)).go


def test_a_plateau_needs_a_full_window_after_the_first() -> None:
    config = IterationConfig(plateau_window=2, min_improvement=0.5)
    assert not is_plateau([5.0, 5.1], config)
    assert is_plateau([5.0, 5.1, 5.4], config)
    assert not is_plateau([5.0, 5.1, 5.5], config)


def test_what_agrees_with_the_reference_goes_before_what_is_grounded() -> None:
    tried = [("a", 9.0, 0.31), ("b", 6.0, 0.804), ("c", 7.0, 0.796), ("d", 9.5, None)]
    found = [evaluation(name, score).model_copy(update={"agreement": share}) for name, score, share in tried]
    assert [e.candidate.candidate_id for e in sorted(found, key=preference)] == ["c", "b", "a", "d"]


def test_the_accuracy_to_expect_goes_before_agreement_and_score() -> None:
    expected = Expected(value=0.5, low=0.3, high=0.7)
    found = [
        evaluation("a", 9.0).model_copy(update={"agreement": 0.9, "expected": expected}),
        evaluation("b", 2.0).model_copy(
            update={"agreement": 0.7, "expected": expected.model_copy(update={"value": 0.6})}
        ),
    ]
    assert best_of(found) is found[1]


@pytest.mark.parametrize(
    ("score", "low", "found"),
    [
        (7.0, 0.1, Verdict.GROUNDED),
        (7.0, None, Verdict.GROUNDED),
        (6.9, 0.1, Verdict.NOT_GROUNDED),
        (9.0, -0.1, Verdict.NOT_GROUNDED),
        (None, 0.1, Verdict.UNGROUNDABLE),
    ],
)
def test_a_prediction_is_grounded_by_its_score_and_the_accuracy_to_expect(run_with, score, low, found):
    run = run_with(score)
    expected = None if low is None else Expected(value=low + 0.2, low=low, high=low + 0.4)
    (record,) = run.iterations
    (own,) = record.evaluations
    record = record.model_copy(update={"evaluations": (own.model_copy(update={"expected": expected}),)})
    assert verdict(run.model_copy(update={"iterations": (record,)}))[0] is found


def test_a_run_says_where_there_is_no_prediction_and_where_the_answer_was_measured(run_with: MakeRun) -> None:
    assert verdict(run_with())[0] is Verdict.NO_PREDICTION
    held = {"measured": Measurement(n_groups=2, n_cells=300)}
    assert verdict(run_with().model_copy(update=held))[0] is Verdict.MEASURED


def test_the_best_is_the_best_of_all_and_not_the_last() -> None:
    best = best_of([evaluation("a", 5.0), evaluation("b", 8.0), evaluation("c", 6.0)])
    assert best.candidate.candidate_id == "b"


def test_equal_scores_go_by_relevance_and_then_by_id() -> None:
    near, far = evaluation("z", 7.51, relevance=0.9), evaluation("a", 7.53, relevance=0.2)
    assert best_of([far, near]) is near
    twins = [evaluation("b", 7.5), evaluation("a", 7.5)]
    best = best_of(twins)
    assert best is twins[1]
    assert best_of(twins[::-1]) is best


def test_ungroundable_comes_last_and_failed_never() -> None:
    ungroundable = evaluation("a", None)
    assert best_of([ungroundable, evaluation("b", 1.0)]) is not ungroundable
    assert best_of([ungroundable, evaluation("c", None, failed=True)]) is ungroundable
    assert best_of([evaluation("c", None, failed=True)]) is None
