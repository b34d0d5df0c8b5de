from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.haystack.steps import predicted_change
from gca_core.inference.models import InferenceRequest
from gca_core.inference.prediction import average, write_prediction
from gca_core.inference.predictor import require_backend
from gca_core.inference.shift import ShiftPredictor, paired_shift
from gca_core.matrix.compare import log_fold_change, pearson
from gca_core.matrix.normalise import log_normalise
from tests.helpers.inference_requests import make_cells, with_pairs

MakeRequest = Callable[..., InferenceRequest]


def test_a_prediction_carries_the_prompts_response(make_request: MakeRequest) -> None:
    request = make_request()
    metrics = ShiftPredictor().predict(request)
    predicted, query = ad.read_h5ad(request.output_uri), ad.read_h5ad(request.query_uri)
    prompt, control = ad.read_h5ad(request.prompt_uri), ad.read_h5ad(request.control_uri)
    wanted = paired_shift(prompt, control, {})
    assert pearson(log_fold_change(predicted.X, query.X), wanted) > 0.98
    assert metrics["realised_pearson"] > 0.98
    assert (predicted.X.data == np.rint(predicted.X.data)).all()


def test_a_prediction_is_of_the_querys_cells_and_averages_its_seeds_in_log_space(make_request: MakeRequest) -> None:
    logs = []
    for seeds in ((3,), (4,), (3, 4)):
        request = make_request(seeds=seeds)
        ShiftPredictor().predict(request)
        predicted = ad.read_h5ad(request.output_uri)
        logs.append(predicted.layers["log1p"].toarray())
    query = ad.read_h5ad(request.query_uri)
    assert predicted.obs_names.equals(query.obs_names)
    assert predicted.var_names.equals(query.var_names)
    assert np.allclose(logs[2], (logs[0] + logs[1]) / 2, atol=1e-6)
    assert np.allclose(log_normalise(predicted.X).toarray(), logs[0], atol=1e-6)
    assert predicted.uns["gca"]["backend"] == "shift"
    assert predicted.uns["gca"]["control"] == "query"
    assert predicted.uns["gca"]["model"].startswith("mean-shift")


def test_the_change_is_taken_against_the_control_that_a_backend_generated(make_request: MakeRequest) -> None:
    request = make_request()
    query = ad.read_h5ad(request.query_uri)
    raised, none = (make_cells(150, 3, raised=slice(0, width)).X for width in (20, 0))
    drawn = [average([X]) for X in (raised, none)]
    genes = np.ones(query.n_vars, dtype=bool)
    write_prediction(query, drawn[0], request, genes=genes, record={}, control=drawn[1])
    change, _ = predicted_change(request.output_uri, "/nowhere/query.h5ad")
    assert np.allclose(change, log_fold_change(raised, none), atol=1e-5)


def test_the_same_request_gives_the_same_bytes(make_request: MakeRequest, tmp_path: Path) -> None:
    first, second = make_request(), make_request(output_uri=str(tmp_path / "again.h5ad"))
    for request in (first, second):
        ShiftPredictor().predict(request)
    assert Path(first.output_uri).read_bytes() == Path(second.output_uri).read_bytes()


def test_the_shift_is_taken_within_pairs() -> None:
    # pair b holds other cells than pair a, in other numbers on the two sides; nothing responds in either
    a, b = make_cells(600, 1), make_cells(600, 2, raised=slice(0, 60))
    b.obs_names = [f"{name}-b" for name in b.obs_names]

    def side(n_a: int, n_b: int) -> ad.AnnData:
        cells = ad.concat([a[:n_a], b[-n_b:]])
        cells.obs["pair"] = ["a"] * n_a + ["b"] * n_b
        return cells

    prompt, control = side(500, 100), side(100, 500)
    pooled = log_fold_change(prompt.X, control.X)
    assert np.abs(paired_shift(prompt, control, {})).mean() < 0.25 * np.abs(pooled).mean()


def test_pair_weights_decide_each_pairs_share() -> None:
    prompt = with_pairs(make_cells(100, 1, raised=slice(0, 10)), ["a", "b"])
    control = with_pairs(make_cells(100, 2), ["a", "b"])
    only_a = paired_shift(prompt[prompt.obs["pair"] == "a"], control[control.obs["pair"] == "a"], {})
    assert np.allclose(paired_shift(prompt, control, {"a": 1.0, "b": 0.0}), only_a)


def test_genes_that_the_prompt_lacks_stay_as_they_are(make_request: MakeRequest) -> None:
    request = make_request()
    query = ad.read_h5ad(request.query_uri)
    query.var_names = [f"other-{name}" if i < 60 else name for i, name in enumerate(query.var_names)]
    query.write_h5ad(request.query_uri)
    metrics = ShiftPredictor().predict(request)
    assert metrics["n_genes_shared"] == 60


@pytest.mark.parametrize("name", ["prompt", "control", "query"])
def test_a_missing_file_is_named(make_request: MakeRequest, name: str) -> None:
    request = make_request(**{f"{name}_uri": "/nowhere/cells.h5ad"})
    with pytest.raises(DataValidationError, match=rf"{name} file '/nowhere/cells.h5ad'"):
        ShiftPredictor().validate(request)


def test_scaled_values_are_refused(make_request: MakeRequest) -> None:
    request = make_request()
    cells = ad.read_h5ad(request.query_uri)
    cells.X = cells.X.toarray() - 0.5
    cells.write_h5ad(request.query_uri)
    with pytest.raises(DataValidationError, match="raw counts are needed"):
        ShiftPredictor().validate(request)


def test_unmatched_pairs_are_refused(make_request: MakeRequest) -> None:
    request = make_request()
    control = with_pairs(make_cells(50, 2), ["a"])
    control.write_h5ad(request.control_uri)
    with pytest.raises(DataValidationError, match="one side only: b"):
        ShiftPredictor().validate(request)


def test_a_file_that_is_no_h5ad_is_refused(make_request: MakeRequest) -> None:
    request = make_request()
    Path(request.prompt_uri).write_text("no cells here")
    with pytest.raises(DataValidationError, match="can't be read as h5ad"):
        ShiftPredictor().validate(request)


def test_a_prediction_that_fails_leaves_no_file(make_request: MakeRequest) -> None:
    request = make_request(pair_weights={"a": 0.0, "b": 0.0})
    with pytest.raises(DataValidationError, match="positive weight"):
        ShiftPredictor().predict(request)
    assert not Path(request.output_uri).exists()


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no inference backend 'nonsense'"):
        require_backend("nonsense")


def test_an_empty_query_is_refused(make_request: MakeRequest) -> None:
    request = make_request()
    ad.AnnData(sp.csr_matrix((0, 120), dtype=np.float32)).write_h5ad(request.query_uri)
    with pytest.raises(DataValidationError, match="0 cells"):
        ShiftPredictor().validate(request)
