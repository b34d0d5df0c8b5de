"""A small checkpoint, trained once and kept by the content of what makes it."""

import hashlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from gca_core.inference.models import InferenceRequest
from gca_core.inference.stack import checkpoint as checkpoint_module
from gca_core.inference.stack import generate, tiny
from gca_core.inference.stack.generate import as_cells
from gca_core.inference.stack.tiny import N_TRAINED, TinyWorld

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def trained() -> Path:
    parts = [Path(str(module.__file__)).read_bytes() for module in (tiny, generate, checkpoint_module)]
    parts += [metadata.version(name).encode() for name in ("arc-stack", "torch")]
    folder = ROOT / ".stack-cache" / hashlib.sha256(b"\n".join(parts)).hexdigest()[:12]
    if not folder.exists():
        subprocess.run(
            [sys.executable, "-P", "-m", "gca_core.cli.main", "stack", "train-tiny", str(folder)], check=True
        )
    return folder


def paired(counts: object, n: int) -> ad.AnnData:
    cells = as_cells(counts, TinyWorld().genes)
    cells.obs["pair"] = [f"T{i // n}" for i in range(cells.n_obs)]
    return cells


@pytest.fixture
def make_request(trained, tmp_path):
    """A request for a type under a held-out perturbation; ``prompted`` names another perturbation for the prompt."""

    def make(prompted: int = N_TRAINED, n_query: int = 64, **options: object) -> InferenceRequest:
        world, rng = TinyWorld(), np.random.default_rng(3)
        folder = tmp_path / f"cells-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        as_cells(world.draw(n_query, 0, None, rng), world.genes).write_h5ad(folder / "query.h5ad")
        paired(world.prompt(0, None, rng), 40).write_h5ad(folder / "control.h5ad")
        paired(world.prompt(0, prompted, rng), 40).write_h5ad(folder / "prompt.h5ad")
        fields = {
            "candidate_id": "c",
            **{f"{name}_uri": str(folder / f"{name}.h5ad") for name in ("prompt", "query", "control")},
            "output_uri": str(folder / "prediction.h5ad"),
            "backend": "stack",
            "checkpoint": str(trained / "model.ckpt"),
            "gene_list_uri": str(trained / "genes.json"),
            "diffusion_steps": 2,
        }
        return InferenceRequest.model_validate(fields | options)

    return make
