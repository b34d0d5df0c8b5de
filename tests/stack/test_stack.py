"""The backend stack, on a small checkpoint of the real arc-stack; run by make test-stack."""

import importlib.util
import json
import pickle
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

from gca_core.cli.main import main
from gca_core.errors import InferenceError, MemoryExhaustedError, MissingModelError
from gca_core.inference.local import run_local_job
from gca_core.inference.prediction import change, read_prediction
from gca_core.inference.stack.checkpoint import load_model
from gca_core.inference.stack.predictor import StackPredictor
from gca_core.inference.stack.tiny import N_TRAINED, TinyWorld, train_tiny
from gca_core.matrix.compare import log_fold_change, pearson
from gca_core.matrix.normalise import log_normalise


def predicted(request) -> ad.AnnData:
    StackPredictor().predict(request)
    return ad.read_h5ad(request.output_uri)


def predicted_change(request) -> np.ndarray:
    StackPredictor().predict(request)
    return change(*read_prediction(request.output_uri, request.query_uri))


def exit_code(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["stack", "infer", *words])
    return int(ended.value.code or 0)


def flags(request) -> list[str]:
    names = ("prompt", "query", "control", "output")
    files = [word for name in names for word in (f"--{name}", getattr(request, f"{name}_uri"))]
    return [*files, "--model", request.checkpoint, "--genelist", request.gene_list_uri, "--diffusion-steps", "2"]


def test_this_environment_has_no_airflow():
    assert importlib.util.find_spec("airflow") is None


def test_the_prompt_decides_the_predicted_change(make_request):
    world, rng = TinyWorld(), np.random.default_rng(9)
    truth = log_fold_change(world.draw(400, 0, N_TRAINED, rng), world.draw(400, 0, None, rng))
    direct, other = (pearson(predicted_change(make_request(p, seeds=(0, 1))), truth) for p in (N_TRAINED, 0))
    assert direct - other >= 0.2


def test_the_flags_a_job_file_in_a_subprocess_and_the_predictor_give_the_same(make_request):
    requests = [make_request(seeds=(0, 1)) for _ in range(3)]
    assert exit_code(*flags(requests[0]), "--seeds", "0,1") == 0
    (result,) = run_local_job([requests[1]], str(Path(requests[1].output_uri).parent / "job.json"))
    assert (result.status, result.failure) == ("succeeded", None)
    assert result.model.startswith("arc-stack ")
    files = [ad.read_h5ad(requests[0].output_uri), ad.read_h5ad(requests[1].output_uri), predicted(requests[2])]
    for found in files[1:]:
        for layer in ("log1p", "control", "control_log1p"):
            assert (found.layers[layer] != files[0].layers[layer]).nnz == 0
        assert (found.X != files[0].X).nnz == 0
    query = ad.read_h5ad(requests[0].query_uri)
    assert files[0].obs_names.equals(query.obs_names)
    assert files[0].var_names.equals(query.var_names)
    assert files[0].uns["gca"]["control"] == "synthetic"


def test_seeds_are_averaged_in_log_space_and_differ(make_request):
    one, two, both = (predicted(make_request(seeds=seeds)) for seeds in ((1,), (2,), (1, 2)))
    logs = [found.layers["log1p"].toarray() for found in (one, two)]
    assert not np.allclose(*logs)
    assert np.allclose(both.layers["log1p"].toarray(), np.mean(logs, axis=0), atol=1e-5)
    assert np.allclose(log_normalise(both.X).toarray(), logs[0], atol=1e-5)


@pytest.mark.parametrize("n_query", [1, 3, 23])
def test_queries_smaller_than_a_window_are_padded_and_trimmed(make_request, n_query):
    found = predicted(make_request(n_query=n_query))
    assert found.n_obs == n_query
    assert (found.X.sum(axis=1) > 0).all()


def test_genes_and_cells_that_the_model_would_drop_stay(make_request):
    request = make_request()
    query = ad.read_h5ad(request.query_uri)
    query.var_names = [f"other-{name}" if i % 2 else name for i, name in enumerate(query.var_names)]
    query.obs["organism"] = "Mus musculus"
    query.raw = query[:, :10].copy()
    query.write_h5ad(request.query_uri)
    found = predicted(request)
    assert found.var["predicted"].tolist() == [True, False] * 100
    assert (found[:, 1::2].X != query[:, 1::2].X).nnz == 0
    assert (found[:, ::2].X != query[:, ::2].X).nnz > 0


def test_batches_are_halved_until_they_fit(make_request, monkeypatch, caplog):
    from stack.models.core.inference import InferenceMixin

    real, tried = InferenceMixin.get_prediction, []

    def small_card(self, *args, batch_size, **options):
        tried.append(batch_size)
        if batch_size > limit:
            raise torch.cuda.OutOfMemoryError("no room")
        return real(self, *args, batch_size=batch_size, **options)

    monkeypatch.setattr(InferenceMixin, "get_prediction", small_card)
    limit = 1
    found = predicted(make_request(batch_size=4))
    assert tried[:3] == [4, 2, 1]
    assert set(tried[3:]) == {1}
    assert found.uns["gca"]["metrics"]["batch_size"] == 1
    limit = 0
    with pytest.raises(MemoryExhaustedError, match="one window"):
        StackPredictor().predict(make_request())
    request = make_request()
    assert exit_code(*flags(request)) == 3
    assert not Path(request.output_uri).exists()


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["zip", "pickle", "model"])
def test_a_hostile_checkpoint_runs_nothing(make_request, tmp_path, form, monkeypatch):
    # arc-stack names no mode, and this variable would let it run what it reads
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, path = tmp_path / "ran", tmp_path / ("evil.pt" if form == "model" else "evil.ckpt")
    content = {"hyper_parameters": {"model_config": {"n_genes": 200}}, "state_dict": {}, "x": Hostile(mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    assert exit_code(*flags(make_request(checkpoint=str(path)))) == 4
    assert not mark.exists()


def test_what_is_no_finetuned_checkpoint_is_told(trained, make_request, tmp_path):
    found = torch.load(trained / "model.ckpt", weights_only=True)
    with pytest.raises(MissingModelError, match="knows 200 genes and the gene list holds 3"):
        load_model(trained / "model.ckpt", 3, "tiny")
    del found["state_dict"]["model.query_pos_embedding"]
    torch.save(found, tmp_path / "pretrained.ckpt")
    with pytest.raises(MissingModelError, match="pretrained and not fine-tuned"):
        load_model(tmp_path / "pretrained.ckpt", 200, "tiny")
    assert exit_code(*flags(make_request(checkpoint=str(tmp_path / "none.ckpt")))) == 4
    assert exit_code(*flags(make_request(query_uri=str(tmp_path / "none.h5ad")))) == 2


def test_a_checkpoint_that_ignores_its_prompt_is_thrown_away(trained, tmp_path):
    gate = json.loads((trained / "gate.json").read_text())
    assert gate["direct"] - gate["random"] >= 0.2
    with pytest.raises(InferenceError, match="ignores its prompt"):
        train_tiny(tmp_path / "model", epochs=1)
    assert not (tmp_path / "model").exists()


def test_a_full_folder_is_left_alone(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "kept")
    with pytest.raises(SystemExit) as ended:
        main(["stack", "train-tiny", str(tmp_path / "kept")])
    assert ended.value.code == 2
    assert (tmp_path / "kept" / "model.ckpt").exists()
