"""Which cells train, which watch the training, and which are kept out of it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core.errors import DataValidationError
from gca_core.latent.config import LatentConfig

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Sorted indices of the cells of each part.

    Args:
        train: the weights are fitted to these.
        validation: watched by early stopping.
        test: seen by nothing but the evaluation; may be empty.
    """

    train: IntArray
    validation: IntArray
    test: IntArray


def split_cells(obs: pd.DataFrame, strata: IntArray, config: LatentConfig) -> Split:
    """Split as the configuration says: test cells by batch or by chance, then validation cells by chance.

    Args:
        obs: annotation of the cells.
        strata: (cells,) codes of the batches; each gives the same share to chance splits.
        config: names the test batches and the shares.

    Raises:
        DataValidationError: a test batch isn't there, or nothing is left to train on.
    """
    cells = np.arange(len(obs))
    test = np.zeros(0, dtype=np.int64)
    if config.test_batches:
        test = np.flatnonzero(_in_test_batches(obs, config))
    elif config.test_fraction:
        _, test = stratified_split(strata, config.test_fraction, config.seed + 1)
    rest = np.setdiff1d(cells, test)
    if len(rest) < 2:
        raise DataValidationError(f"{len(test)} of {len(cells)} cells are test cells; leave some for training")
    train, validation = stratified_split(strata[rest], config.validation_fraction, config.seed)
    return Split(rest[train], rest[validation], test)


def stratified_split(strata: IntArray, fraction: float, seed: int) -> tuple[IntArray, IntArray]:
    """Split cells into a larger and a held-out part, each stratum by the same share.

    A stratum of one cell goes to the larger part. At least one cell is held out.

    Args:
        strata: (cells,) codes, here those of the batches: labels have no part in it.
        fraction: share held out.
        seed: decides which cells.

    Returns:
        Sorted indices of the larger part and of the cells held out.
    """
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(strata == code)) for code in np.unique(strata)]
    held_out = [cells[: min(round(len(cells) * fraction), len(cells) - 1)] for cells in members]
    if not any(len(cells) for cells in held_out):
        held_out = [max(members, key=len)[:1]]
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(strata)), validation), validation


def _in_test_batches(obs: pd.DataFrame, config: LatentConfig) -> npt.NDArray[np.bool_]:
    key = config.split_column
    if key not in obs.columns:
        found = ", ".join(map(repr, obs.columns)) or "none"
        raise DataValidationError(f"obs has no column {key!r} for test_batches; found {found}")
    values = obs[key].astype(str).to_numpy(dtype=str)
    unknown = sorted(set(config.test_batches) - set(values))
    if unknown:
        raise DataValidationError(
            f"no cell of obs column {key!r} is of the test batch {', '.join(map(repr, unknown))}; found "
            + ", ".join(repr(str(value)) for value in sorted(set(values))[:20])
        )
    return np.isin(values, config.test_batches)
