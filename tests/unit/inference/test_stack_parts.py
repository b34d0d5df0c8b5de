import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gca_core.cli.main import app
from gca_core.errors import DataValidationError, InferenceError, MemoryExhaustedError, MissingModelError
from gca_core.inference.job import exit_code, failure_kind
from gca_core.inference.models import InferenceResult, InferenceStatus, JobResults
from gca_core.inference.stack.generate import with_halving
from gca_core.inference.stack.genes import convert_pickled, read_gene_list
from gca_core.inference.stack.predictor import StackPredictor, draw_by_weight

ROOT = Path(__file__).resolve().parents[3]


def test_prompt_cells_are_drawn_in_proportion_to_the_weights_of_their_pairs():
    pairs = np.array(["a"] * 5 + ["b"] * 50 + ["c"] * 20)
    rows = draw_by_weight(pairs, {"a": 3.0, "b": 1.0}, 100, np.random.default_rng(0))
    assert {name: int((pairs[rows] == name).sum()) for name in "abc"} == {"a": 75, "b": 25, "c": 0}
    # none is repeated before all were used
    assert sorted(np.unique(rows[pairs[rows] == "a"], return_counts=True)[1]) == [15] * 5
    assert len(set(rows[pairs[rows] == "b"])) == 25
    equal = draw_by_weight(pairs, {}, 100, np.random.default_rng(0))
    assert sorted((pairs[equal] == name).sum() for name in "abc") == [33, 33, 34]


@pytest.mark.parametrize("text", ['["cd3e", "LYZ"]', "cd3e\n\nLYZ\n"])
def test_a_gene_list_is_json_or_text(tmp_path, text):
    (tmp_path / "genes").write_text(text)
    assert read_gene_list(str(tmp_path / "genes")) == ("CD3E", "LYZ")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("g.pkl", "", "gca stack genes g.pkl"),
        ("g", "[1]", "no list of gene symbols"),
        ("g", "", "no list of gene symbols"),
        ("g", "[", "no JSON"),
        ("g", "A\na", "twice: A"),
    ],
)
def test_what_is_no_gene_list_is_refused(tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataValidationError, match=complaint):
        read_gene_list(str(tmp_path / name))


@pytest.mark.parametrize(
    "genes", [["CD3E", "lyz"], ("CD3E", "lyz"), np.array(["CD3E", "lyz"]), np.array(["CD3E", "lyz"], object)]
)
def test_a_pickled_list_is_converted(tmp_path, genes, caplog):
    (tmp_path / "g.pkl").write_bytes(pickle.dumps(genes))
    assert convert_pickled(str(tmp_path / "g.pkl"), str(tmp_path / "g.json")) == 2
    assert json.loads((tmp_path / "g.json").read_text()) == ["CD3E", "LYZ"]
    assert "is a pickle" in caplog.text


class Runs:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("made", ["touch", "system", "number", "empty", "noise"])
def test_a_pickle_that_is_no_list_of_texts_does_nothing(tmp_path, made):
    import os

    mark = tmp_path / "ran"
    content = {"touch": Runs(Path.touch, mark), "system": Runs(os.system, f"touch {mark}"), "number": [1], "empty": []}
    (tmp_path / "g.pkl").write_bytes(b"noise" if made == "noise" else pickle.dumps(content[made]))
    with pytest.raises(DataValidationError):
        convert_pickled(str(tmp_path / "g.pkl"), str(tmp_path / "g.json"))
    assert not mark.exists()
    assert not (tmp_path / "g.json").exists()


@pytest.mark.parametrize("code", ["import socket; socket.socket()", "open('x', 'w')", "import os; os.system('true')"])
def test_the_process_that_reads_pickles_can_reach_nothing(tmp_path, code):
    hook = "import sys; from gca_core.inference.stack.unpickle import _refuse; sys.addaudithook(_refuse); "
    done = subprocess.run(
        [sys.executable, "-c", hook + code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "PermissionError: it tries" in done.stderr


def test_out_of_memory_halves_the_batch_down_to_one():
    tried = []

    def attempt(size):
        tried.append(size)
        if size > limit:
            raise torch.cuda.OutOfMemoryError("no room")
        return size

    limit = 2
    assert with_halving(attempt, 9) == (2, 2)
    assert tried == [9, 4, 2]
    limit = 0
    with pytest.raises(MemoryExhaustedError):
        with_halving(attempt, 4)


KINDS = [
    (DataValidationError("x"), 2),
    (MemoryExhaustedError("x"), 3),
    (MemoryError(), 3),
    (MissingModelError("x"), 4),
    (ConnectionError("x"), 5),
    (InferenceError("x"), 1),
]


@pytest.mark.parametrize(("error", "code"), KINDS)
def test_exit_codes_tell_the_kind_of_failure(error, code):
    failed = InferenceResult(
        candidate_id="a", status=InferenceStatus.FAILED, error="x", failure=failure_kind(error), backend="stack"
    )
    done = InferenceResult(candidate_id="b", status=InferenceStatus.SUCCEEDED, backend="stack")
    other = failed.model_copy(update={"failure": failure_kind(DataValidationError("") if code != 2 else MemoryError())})
    assert exit_code(JobResults(job_id="j", results=(failed, failed))) == code
    assert exit_code(JobResults(job_id="j", results=(failed, done))) == 1
    assert exit_code(JobResults(job_id="j", results=(failed, other))) == 1
    assert exit_code(JobResults(job_id="j", results=(done,))) == 0


def test_infer_makes_a_job_of_its_flags(make_request):
    request = make_request()
    files = [w for n in ("prompt", "query", "control", "output") for w in (f"--{n}", getattr(request, f"{n}_uri"))]
    done = CliRunner().invoke(app, ["stack", "infer", *files, "--backend", "shift", "--seeds", "1,2"])
    assert done.exit_code == 0
    assert Path(request.output_uri).exists()
    (job,) = Path(request.output_uri).parent.rglob("job.json")
    again = CliRunner().invoke(app, ["stack", "infer", str(job)])
    assert again.exit_code == 0


def test_stack_without_a_checkpoint_names_both_options(make_request):
    with pytest.raises(MissingModelError, match="--model and --genelist"):
        StackPredictor().validate(make_request(backend="stack"))


def test_the_requirements_of_the_image_are_current():
    script = ROOT / "scripts" / "export_requirements.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0
    assert "airflow" not in (ROOT / "docker" / "stack" / "requirements.txt").read_text()
