import numpy as np
import pytest

from gca_core.responses.selection import learn

RNG = np.random.default_rng(0)
PAIR = np.repeat(np.arange(20), 6)
REFERENCE = RNG.uniform(0, 1, 120)
PART = RNG.uniform(0, 1, 120)
NOISE = RNG.normal(0, 0.02, 120)


def learned(accuracy: np.ndarray, part: np.ndarray = PART, pairs: int = 20):
    kept = pairs > PAIR
    values = (REFERENCE, part, accuracy, 1 + 9 * part)
    reference, part, accuracy, score = (value[kept] for value in values)
    return learn({"reference": reference, "pathway": part}, accuracy, PAIR[kept], score, 7.0)


def test_a_part_that_tells_accuracy_is_weighed() -> None:
    found = learned(0.8 * REFERENCE + 0.2 * PART + NOISE)
    assert found.weights == pytest.approx({"reference": 0.8, "pathway": 0.2}, abs=0.03)
    assert found.expect({"reference": 1.0, "pathway": 1.0}).value == pytest.approx(1.0, abs=0.03)
    assert found.best >= found.chosen > found.by_score


@pytest.mark.parametrize("part", [PART, np.full(120, np.nan), -REFERENCE], ids=["noise", "unknown", "against"])
def test_a_part_that_tells_nothing_has_no_weight(part: np.ndarray) -> None:
    found = learned(REFERENCE + NOISE, part)
    assert found.weights["pathway"] == 0
    assert found.expect({"reference": 0.5, "pathway": None}) == found.expect({"reference": 0.5})


def test_the_interval_holds_nine_in_ten() -> None:
    accuracy = 0.8 * REFERENCE + RNG.normal(0, 0.1, 120)
    found = learned(accuracy)
    fresh = RNG.uniform(0, 1, 500)
    expected = [found.expect({"reference": value}) for value in fresh]
    truth = np.clip(0.8 * fresh + RNG.normal(0, 0.1, 500), -1, 1)
    inside = np.mean([e.low <= value <= e.high for e, value in zip(expected, truth, strict=True)])
    assert 0.8 <= inside <= 0.99


def test_too_few_pairs_teach_nothing() -> None:
    assert learned(REFERENCE, pairs=4) is None
    assert learned(REFERENCE, pairs=5) is not None


def test_what_the_threshold_means_is_read_off_the_prompts() -> None:
    found = learned(PART + NOISE)
    assert found.at_threshold is not None and found.at_threshold.value == pytest.approx(6 / 9, abs=0.02)
