"""A real embedded PostgreSQL for the tests of this folder: one per test process, with a new database per module."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from gca_core.atlas import Atlas, IngestConfig, IngestReport, open_atlas
from gca_core.atlas.ingest import ingest
from gca_core.config import Settings, load_settings
from gca_core.llm.embeddings import HashedTextEmbeddings
from gca_core.store import embedded
from gca_core.store.resolve import resolve_dsn

CELL_TYPES = {"CD4 T": "CL:0000624", "B": "CL:0000236", "NK": "CL:0000623"}
GENES = [f"gene{number:02d}" for number in range(40)]


@pytest.fixture(scope="module")
def gca_home(server_home: Path) -> Path:
    """The GCA_HOME that the tests of a module share."""
    return server_home


@pytest.fixture(scope="module")
def settings(gca_home: Path) -> Settings:
    """Settings that lead to the embedded server of this test process."""
    return load_settings(home=gca_home)


@pytest.fixture(scope="module")
def embedded_dsn(settings: Settings) -> str:
    """The connection string of the role app; the schema is current."""
    return resolve_dsn(settings, "app")


@pytest.fixture(scope="module")
def admin_dsn(settings: Settings) -> str:
    """The connection string of the role admin."""
    return resolve_dsn(settings, "admin")


@pytest.fixture(scope="module")
def agent_dsn(settings: Settings) -> str:
    """The connection string of the role agent."""
    return resolve_dsn(settings, "agent")


@pytest.fixture(scope="module")
def admin_atlas(settings: Settings) -> Atlas:
    """The atlas with the right to ingest."""
    return open_atlas(settings, role="admin")


@pytest.fixture(scope="module")
def atlas(settings: Settings) -> Atlas:
    """The atlas as tasks see it."""
    return open_atlas(settings)


def make_cells(seed: int = 0, n_cells: int = 240) -> ad.AnnData:
    """Small counts in which the perturbation and the cell type show; two donors, NK without donor d2's controls.

    The last ten cells carry no label, the five before them one that is no cell type.
    """
    rng = np.random.default_rng(seed)
    types = rng.choice(list(CELL_TYPES), size=n_cells).astype(object)
    condition = rng.choice(["ctrl", "stim"], size=n_cells)
    donor = rng.choice(["d1", "d2"], size=n_cells)
    condition[(types == "NK") & (donor == "d2")] = "stim"
    rates = np.full((n_cells, len(GENES)), 2.0)
    for place, name in enumerate(CELL_TYPES):
        rates[types == name, place * 5 : place * 5 + 5] = 10.0
    rates[condition == "stim", 30:35] = 12.0
    types[-10:] = None
    types[-15:-10] = "mystery"
    obs = pd.DataFrame(
        {"condition": condition, "cell_type": types, "donor": donor}, index=[f"cell{i}" for i in range(n_cells)]
    )
    counts = sp.csr_matrix(rng.poisson(rates).astype(np.float32))
    return ad.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=GENES))


def ingest_config(path: Path, dataset: str, **changes: object) -> IngestConfig:
    """How the cells of :func:`make_cells` are ingested."""
    options: dict[str, object] = {
        "input_uri": str(path),
        "dataset": dataset,
        "perturbation_column": "condition",
        "control_value": "ctrl",
        "perturbation_names": {"stim": "interferon beta"},
        "cell_type_column": "cell_type",
        "donor_column": "donor",
    }
    return IngestConfig.model_validate(options | changes)


@pytest.fixture
def take_in(admin_atlas: Atlas) -> Callable[[IngestConfig], IngestReport]:
    """Ingest with the small cell-type table of these tests."""

    def run(config: IngestConfig) -> IngestReport:
        embeddings = HashedTextEmbeddings()
        return ingest(config, admin_atlas, embed=embeddings.embed_documents, resolve_cell_type=CELL_TYPES.get)

    return run


@pytest.fixture
def fresh_home() -> Iterator[Path]:
    """An empty GCA_HOME of one test; a server started in it is ended."""
    home = Path(tempfile.mkdtemp(prefix="gca-"))
    yield home
    for server in embedded.status():
        if server.home == home and server.pid is not None:
            os.kill(server.pid, signal.SIGQUIT)
    (home / "postgres" / "owner.json").unlink(missing_ok=True)
    embedded.remove(home)
    shutil.rmtree(home, ignore_errors=True)


def in_python(code: str, *args: str) -> subprocess.Popen[str]:
    """A Python process in a process group of its own."""
    import sys

    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
