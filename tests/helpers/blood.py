"""Simulated blood: counts in which five types express their markers."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.annotation.markers.load import load_marker_database

MIXTURE = {
    "b": "CL:0000236",
    "nk": "CL:0000623",
    "cd14": "CL:0002057",
    "cd16": "CL:0002396",
    "mega": "CL:0000556",
}
PARENTS = {"cd14": "CL:0000576", "cd16": "CL:0000576"}
N_PER_TYPE = 60


@pytest.fixture(scope="session")
def database() -> MarkerDatabase:
    return load_marker_database()


def simulate(database: MarkerDatabase, mixture: dict[str, str], n_per_type: int = N_PER_TYPE) -> ad.AnnData:
    """Poisson counts in which each type expresses its own markers twenty times as high, and its parent's six times."""
    rng = np.random.default_rng(0)
    genes = sorted(database.genes) + [f"HK{i}" for i in range(100)]
    column = {gene: j for j, gene in enumerate(genes)}
    base = np.full(len(genes), 0.05)
    base[-100:] = 2.0
    rows, names = [], []
    for name, identifier in mixture.items():
        mean = base.copy()
        for term, level in ((PARENTS.get(name, identifier), 0.3), (identifier, 1.0)):
            mean[[column[g] for g in database.get(term).positive]] = level
        cell_type = database.get(identifier)
        mean[[column[g] for g in cell_type.negative]] = 0.01
        rows.append(rng.poisson(mean, size=(n_per_type, len(genes))))
        names += [name] * n_per_type
    obs = pd.DataFrame({"truth": pd.Categorical(names)}, index=[f"c{i}" for i in range(len(names))])
    return ad.AnnData(X=np.vstack(rows).astype(np.float32), obs=obs, var=pd.DataFrame(index=genes))


@pytest.fixture(scope="session")
def simulated(database) -> ad.AnnData:
    return simulate(database, MIXTURE)


@pytest.fixture
def blood(simulated) -> ad.AnnData:
    return simulated.copy()
