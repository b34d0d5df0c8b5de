"""What is wrong with a command line is told before anything that reads or computes is imported."""

import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest

HEAVY = {"scanpy", "anndata", "torch", "matplotlib", "pandas", "scipy", "sklearn", "zarr", "psycopg"}
SCRIPT = """
import sys
from gca_core.cli.main import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code
print(code, *sorted({name.partition('.')[0] for name in sys.modules}))
"""


def run(*arguments) -> tuple[int, set[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    code, *loaded = done.stdout.splitlines()[-1].split()
    return int(code), set(loaded), done.stderr


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    cells = ad.AnnData(np.ones((4, 3), np.float32), obs=pd.DataFrame({"leiden": list("aabb")}, index=list("wxyz")))
    cells.layers["counts"] = cells.X
    cells.write_h5ad(folder / "cells.h5ad")
    cells.write_zarr(folder / "cells.zarr")
    return folder


def test_help_names_every_command_and_loads_none():
    code, loaded, _ = run("--help")
    assert code == 0
    assert not loaded & (HEAVY | {"numpy", "pydantic", "upath", "jinja2", "structlog"})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("scanpy", "annotate", "{}/none.h5ad"), "none.h5ad' does not exist"),
        (("scanpy", "annotate", "{}/cells.h5ad", "--cluster-key", "nope"), "no cluster column 'nope' in obs; found"),
        (("scanpy", "annotate", "{}/cells.zarr", "--label-column", "nope"), "found 'leiden'"),
        (("scanpy", "annotate", "{}/cells.h5ad", "--layer", "nope"), "no layer 'nope'; found 'counts'"),
        (("scanpy", "annotate", "{}/cells.zarr", "--layer", "nope"), "no layer 'nope'; found 'counts'"),
        (("scanpy", "annotate", "{}/cells.h5ad", "--output", "{}/cells.h5ad/x"), "can't be a folder"),
        (("scanpy", "validate", "{}/cells.h5ad", "--label-column", "nope"), "no label column 'nope'"),
        (("annotate", "{}/none.csv"), "none.csv' does not exist"),
        (("annotate", "--nope"), "No such option"),
        (("vae", "train", "{}/none.h5ad"), "none.h5ad' does not exist"),
        (("vae", "train", "{}/cells.h5ad", "--batch-column", "nope"), "no batch column 'nope'"),
        (("vae", "map", "{}/run", "{}/cells.h5ad"), "run/model' does not exist"),
        (("atlas", "ingest", "{}/none.h5ad", "--dataset", "d", "--cell-type-column", "nope"), "does not exist"),
        (("atlas", "ingest", "{}/cells.h5ad", "--dataset", "d", "--cell-type-column", "nope"), "no cell type column"),
    ],
)
def test_what_is_wrong_is_told_at_once(files, arguments, told):
    code, loaded, log = run(*(word.format(files) for word in arguments))
    assert code == 2
    assert told in " ".join(log.split())
    assert not loaded & HEAVY
