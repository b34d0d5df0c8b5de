from pathlib import Path

import numpy as np
import pytest

from gca_core.errors import DataValidationError
from gca_core.grounding.regulons import read_regulons, regulator_activity
from gca_core.matrix.differential import differential_expression


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source\ttarget\tweight\nA\tg1\t-0.5\n\nA\tg2\t1\nB\tg1\t2\n", {"A": {"g1": -0.5, "g2": 1}, "B": {"g1": 2}}),
        ("TF,Gene\nA,g1\n", {"A": {"g1": 1}}),
        ("mor,source,target\n-1,A,g1\n", {"A": {"g1": -1}}),
        ("A\tof somebody\tg2\tg1\n", {"A": {"g1": 1, "g2": 1}}),
    ],
)
def test_tables_and_gmt_are_read(text: str, expected: dict, tmp_path: Path) -> None:
    (tmp_path / "r").write_text(text)
    assert read_regulons(str(tmp_path / "r")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source\ttarget\tweight\nA\tg1\tmuch\n", "line 2 of .* no transcription factor"),
        ("source,target,weight\nA,g1,nan\n", "line 2"),
        ("source,target\nA\n", "line 2"),
        ("source,target\n", "holds no targets"),
        ("", "holds no gene set"),
    ],
)
def test_what_is_no_table_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r").write_text(text)
    with pytest.raises(DataValidationError, match=message):
        read_regulons(str(tmp_path / "r"))


def test_the_factor_whose_targets_move_is_active_and_few_targets_say_nothing() -> None:
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(60)]
    control, treated = rng.random((2, 40, 60))
    treated[:, :6] += 2
    found = differential_expression(treated, control, genes)
    regulons = {
        "quiet": dict.fromkeys(genes[20:30], 1.0),
        "on": dict.fromkeys(genes[:6], 1.0),
        "off": dict.fromkeys(genes[:5], -1.0),
        "few": {"g1": 1.0},
    }
    on, off, quiet = regulator_activity(found, regulons, 5)
    assert (on.name, off.name, quiet.name) == ("on", "off", "quiet")
    assert on.t > 10 and off.t < -5 and quiet.padj > 0.05 and on.n_targets == 6
    assert regulator_activity(found, {"few": {"g1": 1.0}}, 5) == []
