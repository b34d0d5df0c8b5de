"""A small checkpoint for the column stack of the Kang table: trained on simulated responses in Kang's genes and types.

Run with ``PYTHONPATH=. .venv-stack/bin/python benchmarks/kang_checkpoint.py FOLDER``. Its 200 genes are those of
Hallmark's immune sets that the control cells express most; the four largest types rest as the control cells do.
Programs and responses are simulated, so that it never saw a stimulated cell.
"""

import sys
from dataclasses import dataclass

import anndata as ad
import numpy as np
from bench_inference import KANG

from gca_core.inference.stack.tiny import TinyWorld, train_tiny
from gca_core.knowledge.bundled.gene_sets import find_gene_set

SETS = (
    "HALLMARK_INTERFERON_ALPHA_RESPONSE",
    "HALLMARK_INTERFERON_GAMMA_RESPONSE",
    "HALLMARK_TNFA_SIGNALING_VIA_NFKB",
    "HALLMARK_IL6_JAK_STAT3_SIGNALING",
    "HALLMARK_INFLAMMATORY_RESPONSE",
)


@dataclass(frozen=True)
class KangWorld(TinyWorld):
    """The simulated world with the genes and the resting types of Kang's control cells."""

    def __post_init__(self) -> None:
        super().__post_init__()
        cells = ad.read_h5ad(KANG)
        cells = cells[(cells.obs["condition"] == "ctrl").to_numpy() & cells.obs["cell_type"].notna().to_numpy()]
        known = cells.var_names.isin(set().union(*(find_gene_set(name) or () for name in SETS)))
        total = np.asarray(cells.X.sum(axis=0)).ravel()
        chosen = np.sort(np.argsort(np.where(known, -total, 0.0), kind="stable")[: self.n_genes])
        types = cells.obs["cell_type"].astype(str)
        largest = types.value_counts().index[: self.n_types]
        means = np.array(
            [np.asarray(cells[(types == t).to_numpy()].X[:, chosen].mean(axis=0)).ravel() for t in largest]
        )
        object.__setattr__(self, "types", np.log(means + 1e-3))
        object.__setattr__(self, "_names", cells.var_names[chosen].astype(str).tolist())

    @property
    def genes(self) -> list[str]:
        """Names of the genes."""
        return list(self._names)  # type: ignore[attr-defined]


if __name__ == "__main__":
    print(train_tiny(sys.argv[1], world=KangWorld()))
