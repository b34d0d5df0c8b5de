"""A prediction beside measured cells."""

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from typer.testing import CliRunner

from gca_core.cli.main import app
from gca_core.errors import DataValidationError
from gca_core.haystack.results import compare
from gca_core.haystack.results.compare import INSTALL, Truth, compare_run, compare_with_truth

N = 40


@pytest.fixture(autouse=True)
def without_cell_eval(monkeypatch: Any) -> None:
    """Its import takes seconds."""
    monkeypatch.setattr(compare, "find_spec", lambda _: None)


def cells(*raised: int, n_genes: int = 60, seed: int = 0) -> ad.AnnData:
    """Control cells, and as many in which the first genes are raised, of types a and b; a third kind raises others."""
    rng = np.random.default_rng(seed)
    condition = np.repeat(["ctrl", "stim", "other"], N)
    rates = np.full((3 * N, n_genes), 2.0)
    rates[np.ix_(condition == "stim", raised or range(5))] = 12.0
    rates[condition == "other", 30:36] = 12.0
    obs = pd.DataFrame({"condition": condition, "type": ["a", "b"] * (3 * N // 2)}, dtype="category")
    obs.index = obs.index.astype(str)
    counts = sp.csr_matrix(rng.poisson(rates).astype(np.float32))
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


def result_in(folder: Path, found: ad.AnnData, genes: list[int] | slice = slice(None)) -> str:
    """A result whose prediction is the stimulated cells."""
    own = found[(found.obs["condition"] != "other").to_numpy(), genes].copy()
    own.obs["haystack"] = ["prediction" if c == "stim" else "control" for c in own.obs["condition"]]
    own.write_h5ad(folder / "x_predictions.h5ad")
    return str(folder / "x_predictions.h5ad")


def truth_in(folder: Path, found: ad.AnnData, **given: str) -> Truth:
    found.write_h5ad(folder / "truth.h5ad")
    asked = {"perturbation_column": "condition", "control_value": "ctrl", "perturbation": "stim", **given}
    return Truth(uri=str(folder / "truth.h5ad"), **asked)


@pytest.mark.parametrize("genes", [slice(None), list(range(59, 9, -1)) + list(range(5))], ids=["all", "some, reversed"])
def test_a_perfect_prediction_agrees_with_the_truth(tmp_path: Path, genes: list[int] | slice) -> None:
    found = cells()
    compared = compare_run(str(Path(result_in(tmp_path, found, genes)).parent), truth_in(tmp_path, found))
    assert compared.pearson_lfc == pytest.approx(1.0, abs=0.01) and compared.de_overlap_50 >= 0.8
    assert (compared.n_true_cells, compared.n_control_cells) == (N, N)
    assert compared.n_de_shared >= 5 and compared.direction_agreement >= 0.9 and compared.n_perturbations == 2
    assert compared.discrimination is None and compared.discrimination_note == INSTALL


@pytest.mark.slow
def test_a_perfect_prediction_is_told_from_other_perturbations(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.undo()
    found = cells()
    compared = compare_run(result_in(tmp_path, found), truth_in(tmp_path, found))
    assert compared.discrimination == 1.0 and not compared.discrimination_note


def test_another_response_agrees_less_and_cells_of_the_type_alone_count(tmp_path: Path) -> None:
    given = result_in(tmp_path, cells(), slice(None))
    other = compare_run(given, truth_in(tmp_path, cells(*range(30, 36), seed=1)))
    assert other.pearson_lfc < 0.3 and other.de_recall < 0.5
    of_type = compare_run(given, truth_in(tmp_path, cells(seed=1), cell_type_column="type", cell_type="a"))
    assert (of_type.n_true_cells, of_type.n_control_cells) == (N // 2, N // 2) and of_type.pearson_lfc > 0.5
    one = cells(seed=1)
    one = one[(one.obs["condition"] != "other").to_numpy()].copy()
    alone = compare_with_truth(given, one[N:].copy(), one[:N].copy())
    assert alone.discrimination is None and "another perturbation" in alone.discrimination_note
    unnamed = truth_in(tmp_path, one).model_copy(update={"perturbation": None})
    assert compare_run(given, unnamed).pearson_lfc == pytest.approx(alone.pearson_lfc)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"perturbation_column": "state"}, "no column 'state'; it has condition, type"),
        ({"control_value": "none"}, "there is no 'none'; it holds ctrl, other, stim"),
        ({"perturbation": "drug"}, "there is no 'drug'"),
        ({"cell_type": "a"}, "without the column"),
        ({"cell_type_column": "type", "cell_type": "T"}, "there is no 'T'; it holds a, b"),
        ({"cell_type_column": "type"}, "several values, name the one"),
        ({"layer": "raw"}, "there is no raw"),
    ],
)
def test_what_the_truth_lacks_is_said(tmp_path: Path, given: dict[str, str], message: str) -> None:
    with pytest.raises(DataValidationError, match=message):
        compare_run(result_in(tmp_path, cells()), truth_in(tmp_path, cells(), **given))


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    found = cells()
    truth = truth_in(tmp_path, found)
    with pytest.raises(DataValidationError, match="holds 0 files of predictions"):
        compare_run(str(tmp_path), truth)
    with pytest.raises(DataValidationError, match=r"obs\['haystack'\]"):
        compare_run(truth.uri, truth)
    given = result_in(tmp_path, found)
    found.var_names = [f"h{i}" for i in range(60)]
    with pytest.raises(DataValidationError, match=r"share 0 genes.*\(g0, g1, g2, ...\), and found h0, h1, h2"):
        compare_run(given, truth_in(tmp_path, found))
    found.X = found.X * 0.5
    with pytest.raises(DataValidationError, match="raw counts are needed"):
        compare_run(given, truth_in(tmp_path, found))


def test_the_command_says_it_in_words_and_as_json(tmp_path: Path) -> None:
    found = cells()
    result = result_in(tmp_path, found)
    truth = truth_in(tmp_path, found)
    words = ["haystack", "compare", result, "--truth", truth.uri, "--perturbation-column", "condition"]
    words += ["--control-value", "ctrl", "--perturbation", "stim"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0 and "Pearson with the truth        1.000 over 60 genes" in shown.output
    assert "discrimination" in shown.output
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert told == compare_run(result, truth).model_dump()
