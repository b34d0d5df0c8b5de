"""Small checkpoints for what is said of STACK: simulated responses in the genes and resting types of an atlas.

Run with ``PYTHONPATH=. .venv-stack/bin/python benchmarks/tiny_checkpoint.py kang FOLDER``, or ``simulated`` for that
of :mod:`haystack_simulated`. The programs and responses that it learns from are drawn anew, so that it never saw a
perturbed cell of what it is judged on.

1. kang: 200 genes, those of Hallmark's immune sets that Kang's control cells express most; the four largest types.
2. simulated: all genes of the atlas; its first four types.
"""

import sys
from dataclasses import dataclass, field

import anndata as ad
import numpy as np
import numpy.typing as npt
from bench_inference import KANG
from haystack_simulated import MAIN, TYPES, World

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
class AtlasWorld(TinyWorld):
    """The simulated world with the genes and the resting types of an atlas."""

    names: list[str] = field(default_factory=list)
    # (n_types, n_genes), mean counts at rest
    means: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "types", np.log(self.means + 1e-3))

    @property
    def genes(self) -> list[str]:
        """Names of the genes."""
        return self.names


def kang_world(n_genes: int = 200, n_types: int = 4) -> AtlasWorld:
    cells = ad.read_h5ad(KANG)
    cells = cells[(cells.obs["condition"] == "ctrl").to_numpy() & cells.obs["cell_type"].notna().to_numpy()]
    known = cells.var_names.isin(set().union(*(find_gene_set(name) or () for name in SETS)))
    total = np.asarray(cells.X.sum(axis=0)).ravel()
    chosen = np.sort(np.argsort(np.where(known, -total, 0.0), kind="stable")[:n_genes])
    types = cells.obs["cell_type"].astype(str)
    largest = types.value_counts().index[:n_types]
    means = [np.asarray(cells[(types == t).to_numpy()].X[:, chosen].mean(axis=0)).ravel() for t in largest]
    return AtlasWorld(n_genes=n_genes, names=cells.var_names[chosen].astype(str).tolist(), means=np.array(means))


def simulated_world(n_types: int = 4) -> AtlasWorld:
    world = World(MAIN)
    rng = np.random.default_rng(0)
    means = [world.draw(200, "control", t, 0, rng).toarray().mean(axis=0) for t in list(TYPES)[:n_types]]
    return AtlasWorld(n_genes=len(world.genes), names=world.genes, means=np.array(means))


if __name__ == "__main__":
    made = {"kang": kang_world, "simulated": simulated_world}[sys.argv[1]]()
    print(train_tiny(sys.argv[2], world=made))
