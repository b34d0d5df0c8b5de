"""What is wrong with a command line is told before anything that reads or computes is imported."""

import json
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest

HEAVY = {"scanpy", "anndata", "torch", "matplotlib", "pandas", "scipy", "sklearn", "zarr", "psycopg", "streamlit"}
SCRIPT = """
import json, os, sys
from gca_core.cli.main import main
# each command line in a process of its own, as if it alone had been given
for i, words in enumerate(json.loads(sys.argv[1])):
    if not os.fork():
        sys.stderr = open(f"{sys.argv[2]}/{i}.log", "w")
        sys.argv, code = ["gca", *words], 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        print("ended", i, code, *sorted({name.partition('.')[0] for name in sys.modules}), flush=True)
        sys.stderr.close()
        os._exit(0)
    os.wait()
"""
CASES = [
    (("scanpy", "annotate", "{}/none.h5ad"), "none.h5ad' does not exist"),
    (("scanpy", "annotate", "{}/cells.h5ad", "--cluster-key", "nope"), "no cluster column 'nope' in obs; found"),
    (("scanpy", "annotate", "{}/cells.zarr", "--label-column", "nope"), "found 'leiden'"),
    (("scanpy", "annotate", "{}/cells.h5ad", "--layer", "nope"), "no layer 'nope'; found 'counts'"),
    (("scanpy", "annotate", "{}/cells.zarr", "--layer", "nope"), "no layer 'nope'; found 'counts'"),
    (("scanpy", "annotate", "{}/cells.h5ad", "--output", "{}/cells.h5ad/x"), "can't be a folder"),
    (("scanpy", "validate", "{}/cells.h5ad", "--label-column", "nope"), "no label column 'nope'"),
    (("annotate", "{}/none.csv"), "none.csv' does not exist"),
    (("annotate", "--nope"), "No such option"),
    (("dashboard", "{}/none.h5ad"), "none.h5ad' does not exist"),
    (("vae", "train", "{}/none.h5ad"), "none.h5ad' does not exist"),
    (("vae", "train", "{}/cells.h5ad", "--batch-column", "nope"), "no batch column 'nope'"),
    (("vae", "map", "{}/run", "{}/cells.h5ad"), "run/model' does not exist"),
    (("atlas", "ingest", "{}/none.h5ad", "--dataset", "d", "--cell-type-column", "nope"), "does not exist"),
    (("atlas", "ingest", "{}/cells.h5ad", "--dataset", "d", "--cell-type-column", "nope"), "no cell type column"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    cells = ad.AnnData(np.ones((4, 3), np.float32), obs=pd.DataFrame({"leiden": list("aabb")}, index=list("wxyz")))
    cells.layers["counts"] = cells.X
    cells.write_h5ad(folder / "cells.h5ad")
    cells.write_zarr(folder / "cells.zarr")
    return folder


@pytest.fixture(scope="module")
def answers(files) -> list[tuple[int, set[str], str]]:
    """Exit code, what was loaded, and what was said of ``--help`` and then of each case."""
    lines = [["--help"], *([word.format(files) for word in arguments] for arguments, _ in CASES)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(lines), files], capture_output=True, text=True, check=True
    )
    ended = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ended ")]
    return [(int(code), set(loaded), (files / f"{i}.log").read_text()) for i, code, *loaded in ended]


def test_help_names_every_command_and_loads_none(answers):
    code, loaded, _ = answers[0]
    assert code == 0
    assert not loaded & (HEAVY | {"numpy", "pydantic", "upath", "jinja2", "structlog"})


@pytest.mark.parametrize(("case", "told"), [(i, told) for i, (_, told) in enumerate(CASES, start=1)])
def test_what_is_wrong_is_told_at_once(answers, case, told):
    code, loaded, log = answers[case]
    assert code == 2
    assert told in " ".join(log.split())
    assert not loaded & HEAVY
