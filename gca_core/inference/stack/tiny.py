"""A small checkpoint, trained through arc-stack on simulated responses, for tests and demonstrations."""

import contextlib
import logging
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from gca_core import io
from gca_core.errors import ConfigurationError, InferenceError
from gca_core.inference.stack.checkpoint import load_model, require_stack
from gca_core.inference.stack.generate import as_cells, generate
from gca_core.inference.stack.genes import write_pickled
from gca_core.matrix.compare import log_fold_change, pearson

log = logging.getLogger(__name__)

CHECKPOINT, GENES, GATE = "model.ckpt", "genes.json", "gate.json"
CONTROL = "CTRL"
WINDOW = 64
N_TRAINED, N_HELD_OUT = 24, 4
CELLS_PER_GROUP = 32
# measured: 40 epochs (280 steps) took the held-out difference to 0.6, and 20 to 0.5
EPOCHS = 40
MIN_DIFFERENCE = 0.2
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TinyWorld:
    """Simulated cells: a perturbation moves two of six gene programs up or down, each type in its own strength.

    Held-out perturbations are those from ``N_TRAINED`` on.
    """

    seed: int = 0
    n_types: int = 4
    n_genes: int = 200
    types: Array = field(init=False)
    responses: Array = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        n_programs, size = 6, self.n_genes // 10
        types = rng.normal(0, 1.0, self.n_genes) + rng.normal(0, 0.6, (self.n_types, self.n_genes))
        programs = np.zeros((n_programs, self.n_genes))
        for k, genes in enumerate(np.split(rng.permutation(self.n_genes)[: n_programs * size], n_programs)):
            programs[k, genes] = rng.choice([-1, 1], size) * rng.uniform(1, 2, size)
        loads = np.zeros((N_TRAINED + N_HELD_OUT, n_programs))
        for load in loads:
            load[rng.choice(n_programs, 2, replace=False)] = rng.uniform(0.7, 1.3, 2) * rng.choice([-1, 1], 2)
        strength = rng.uniform(0.6, 1.4, (self.n_types, n_programs))
        object.__setattr__(self, "types", types)
        object.__setattr__(self, "responses", np.einsum("pk,tk,kg->ptg", loads, strength, programs))

    @property
    def genes(self) -> list[str]:
        """Names of the genes."""
        return [f"G{i:03d}" for i in range(self.n_genes)]

    def draw(self, n: int, cell_type: int, perturbation: int | None, rng: np.random.Generator) -> sp.csr_matrix:
        """Counts of ``n`` cells of a type, at rest where the perturbation is None."""
        rates = np.exp(self.types[cell_type] + (0 if perturbation is None else self.responses[perturbation, cell_type]))
        libraries = rng.lognormal(np.log(2000), 0.25, (n, 1))
        noise = rng.gamma(20, 1 / 20, (n, self.n_genes))
        return sp.csr_matrix(rng.poisson(libraries * rates / rates.sum() * noise).astype(np.float32))

    def prompt(self, without: int, perturbation: int | None, rng: np.random.Generator, n: int = 40) -> sp.csr_matrix:
        """Counts of ``n`` cells of each type but one."""
        parts = [self.draw(n, t, perturbation, rng) for t in range(self.n_types) if t != without]
        return sp.csr_matrix(sp.vstack(parts))


def train_tiny(
    folder: str | Path, *, epochs: int = EPOCHS, seed: int = 0, world: TinyWorld | None = None
) -> dict[str, float]:
    """Train, judge on held-out perturbations, and write checkpoint, gene list and the figures of the judgement.

    A checkpoint can ignore its prompt at unchanged losses. So the change predicted from cells under the asked
    perturbation has to correlate with the true one better than that from cells under another, by ``MIN_DIFFERENCE``.

    Args:
        folder: a new or empty one.
        epochs: passes over 3,584 cells.
        seed: of simulation and training.
        world: what is simulated; made by the seed where None.

    Raises:
        ConfigurationError: the folder holds something; arc-stack isn't installed.
        InferenceError: the checkpoint ignores its prompt; nothing is written.
    """
    target = io.as_path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"{str(folder)!r} exists and isn't empty; name a new folder")
    require_stack("stack.finetune.lightning")
    world = world or TinyWorld(seed)
    with io.staged(target) as made, contextlib.redirect_stdout(sys.stderr):
        made.mkdir()
        _train(world, made / CHECKPOINT, epochs, seed)
        model = load_model(made / CHECKPOINT, world.n_genes, CHECKPOINT)
        figures = judge(model, world)
        difference = figures["direct"] - figures["random"]
        log.info("held-out perturbations: %s", ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))
        if not difference >= MIN_DIFFERENCE:
            raise InferenceError(
                f"the checkpoint ignores its prompt and is thrown away: prompts of the asked perturbation reach "
                f"{figures['direct']:.2f} (Pearson of the change), of another {figures['random']:.2f}; at least "
                f"{MIN_DIFFERENCE:g} between them are needed. Train longer, or with another seed"
            )
        io.write_json(made / GENES, world.genes)
        io.write_json(made / GATE, {**figures, "difference": difference, "needed": MIN_DIFFERENCE, "epochs": epochs})
    return figures


def judge(model: Any, world: TinyWorld, *, n_types: int = 2, steps: int = 2) -> dict[str, float]:
    """Mean Pearson correlation of predicted and true change over held-out perturbations and types.

    Returns:
        ``direct``: prompted with the same perturbation in other types; ``random``: with another perturbation;
        ``mean_shift``: no model, the mean change of the direct prompt's cells.
    """
    found: dict[str, list[float]] = {"direct": [], "random": [], "mean_shift": []}
    for perturbation in range(N_TRAINED, N_TRAINED + N_HELD_OUT):
        for cell_type in range(n_types):
            rng = np.random.default_rng([world.seed, perturbation, cell_type])
            query = world.draw(WINDOW, cell_type, None, rng)
            control = world.prompt(cell_type, None, rng)
            truth = log_fold_change(
                world.draw(400, cell_type, perturbation, rng), world.draw(400, cell_type, None, rng)
            )
            prompts = {
                "direct": world.prompt(cell_type, perturbation, rng),
                "random": world.prompt(cell_type, int(rng.choice(N_TRAINED)), rng),
            }
            found["mean_shift"].append(pearson(log_fold_change(prompts["direct"], control), truth))
            made = {
                name: generate(
                    model, world.genes, as_cells(cells, world.genes), as_cells(query, world.genes), steps=steps
                )
                for name, cells in {**prompts, "control": control}.items()
            }
            for name in prompts:
                found[name].append(pearson(log_fold_change(made[name], made["control"]), truth))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _training_cells(world: TinyWorld) -> ad.AnnData:
    rng = np.random.default_rng([world.seed, 1])
    groups = [(p, t) for p in (None, *range(N_TRAINED)) for t in range(world.n_types)]
    # controls stand in for every perturbation's cells, so there are more of them
    parts = [world.draw(CELLS_PER_GROUP * (4 if p is None else 1), t, p, rng) for p, t in groups]
    conditions = np.repeat([CONTROL if p is None else f"P{p}" for p, _ in groups], [part.shape[0] for part in parts])
    types = np.repeat([f"T{t}" for _, t in groups], [part.shape[0] for part in parts])
    # arc-stack cuts windows from neighbouring rows
    order = rng.permutation(len(types))
    obs = pd.DataFrame(
        {"condition": pd.Categorical(conditions[order]), "cell_type": pd.Categorical(types[order])},
        index=[f"c{i}" for i in range(len(order))],
    )
    return ad.AnnData(sp.csr_matrix(sp.vstack(parts))[order], obs=obs, var=pd.DataFrame(index=world.genes))


def _train(world: TinyWorld, checkpoint: Path, epochs: int, seed: int) -> None:
    pl, lightning = require_stack("pytorch_lightning"), require_stack("stack.finetune.lightning")
    data, datasets = require_stack("stack.finetune.datamodule"), require_stack("stack.finetune.datasets")
    for name in ("pytorch_lightning", "lightning", "stack"):
        logging.getLogger(name).setLevel(logging.ERROR)
    pl.seed_everything(seed, verbose=False)
    with tempfile.TemporaryDirectory(prefix="gca-tiny-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = _training_cells(world)
        (Path(folder) / "cells").mkdir()
        cells.write_h5ad(Path(folder) / "cells" / "cells.h5ad")
        config = datasets.DatasetConfig(
            path=str(Path(folder) / "cells"),
            type="drug",
            filter_organism=False,
            condition_col="condition",
            cell_line_col="cell_type",
            control_condition=CONTROL,
        )
        module = data.FinetuneDataModule(
            [config],
            str(write_pickled(world.genes, Path(folder))),
            sample_size=WINDOW,
            replacement_ratio=0.5,
            min_cells_per_group=WINDOW,
            test_ratio=0.0,
            val_ratio=0.0,
            batch_size=8,
            num_workers=0,
            pin_memory=False,
            random_state=seed,
        )
        module.setup("fit")
        cache = module.train_dataset.metadata_cache
        # reading rows from the file for each window takes two thirds of the time
        dense = cache.load_expression_data(np.arange(cells.n_obs))
        cache.load_expression_data = lambda rows: dense[rows]
        model = lightning.LightningFinetunedModel(
            {
                "n_cells": WINDOW,
                "n_genes": world.n_genes,
                "n_hidden": 16,
                "token_dim": 8,
                "n_layers": 2,
                "n_heads": 4,
                "dropout": 0.0,
                "sw_weight": 0.1,
            },
            learning_rate=3e-3,
            n_kept_cell=WINDOW // 2,
        )
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            precision="32-true",
            max_epochs=epochs,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        begun = time.monotonic()
        trainer.fit(model, train_dataloaders=module.train_dataloader())
        log.info("trained %d epochs on %d cells in %.0f s", epochs, cells.n_obs, time.monotonic() - begun)
        trainer.save_checkpoint(checkpoint, weights_only=True)
