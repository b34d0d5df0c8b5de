"""What an atlas has measured: the response of cell types to perturbations, and how alike both are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gca_core.errors import DataValidationError

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

VARIABLE_GENES = 1000
# Kang 2018: 1 - Pearson of the control profiles of two types grows by this much with a step between them
DISTANCE_PER_STEP = 0.03
FARTHEST = 2.0
# Kang 2018, median over types: the share of a cell's variance in its response that lies between donors
DONOR_SHARE = 0.002


@dataclass(frozen=True)
class Measured:
    """Measured responses, one row for each pair of perturbation and cell type.

    Attributes:
        perturbations: names; one without a row can be asked about.
        cell_types: ids; one without a row can be asked about.
        perturbation: (n_pairs,) position of each row's perturbation.
        cell_type: (n_pairs,) position of each row's cell type.
        responses: (n_pairs, n_genes) perturbed minus control, on a log scale.
        likeness: (n_perturbations, n_perturbations) how alike two act as far as is known beforehand, -1 to 1; NaN
            where nothing is known.
        distances: (n_types, n_types) how far apart two types are, from 0; see :func:`type_distances`.
        n_cells: (n_pairs,) cells, the smaller number of both sides; None where that isn't known.
        n_donors: (n_pairs,) donors; one each where None.

    Raises:
        DataValidationError: shapes that don't fit, a pair that comes twice, or responses that aren't finite.
    """

    perturbations: Sequence[str]
    cell_types: Sequence[str]
    perturbation: Indices
    cell_type: Indices
    responses: npt.NDArray[np.floating]
    likeness: Array
    distances: Array
    n_cells: Array | None = None
    n_donors: Array | None = None

    def __post_init__(self) -> None:
        n, p, t = len(self.responses), len(self.perturbations), len(self.cell_types)
        shapes = {
            "perturbation": (self.perturbation.shape, (n,)),
            "cell_type": (self.cell_type.shape, (n,)),
            "likeness": (self.likeness.shape, (p, p)),
            "distances": (self.distances.shape, (t, t)),
        }
        for name, (found, expected) in shapes.items():
            if found != expected:
                raise DataValidationError(f"{name} has the shape {found}; expected {expected}")
        if len(set(zip(self.perturbation.tolist(), self.cell_type.tolist(), strict=True))) < n:
            raise DataValidationError("a pair of perturbation and cell type comes twice; average it first")
        if not np.isfinite(self.responses).all():
            raise DataValidationError("the responses hold values that are not finite")

    def __len__(self) -> int:
        return len(self.responses)

    def take(self, rows: Indices, perturbation: int | None = None, cell_type: int | None = None) -> Measured:
        """Some rows, with the perturbations and types that are in them or asked about."""
        asked = [[] if position is None else [position] for position in (perturbation, cell_type)]
        names = np.unique([*self.perturbation[rows], *asked[0]]).astype(np.int64)
        types = np.unique([*self.cell_type[rows], *asked[1]]).astype(np.int64)
        return Measured(
            perturbations=[self.perturbations[i] for i in names],
            cell_types=[self.cell_types[i] for i in types],
            perturbation=np.searchsorted(names, self.perturbation[rows]),
            cell_type=np.searchsorted(types, self.cell_type[rows]),
            responses=self.responses[rows],
            likeness=self.likeness[np.ix_(names, names)],
            distances=self.distances[np.ix_(types, types)],
            n_cells=None if self.n_cells is None else self.n_cells[rows],
            n_donors=None if self.n_donors is None else self.n_donors[rows],
        )

    @cached_property
    def shrinkage(self) -> Array:
        """(n_pairs,) 1 / the number of independent cells that a response counts as; 0 where it isn't known."""
        if self.n_cells is None:
            return np.zeros(len(self))
        donors = np.ones(len(self)) if self.n_donors is None else np.maximum(self.n_donors, 1)
        return np.asarray(1.0 / np.maximum(self.n_cells, 1) + DONOR_SHARE / donors)


def pool_groups(
    perturbations: Sequence[str],
    cell_types: Sequence[str],
    groups: Sequence[tuple[str, str]],
    changes: npt.NDArray[np.floating],
    likeness: Array,
    distances: Array,
    n_cells: Array | None = None,
    donors: Sequence[object] | None = None,
) -> Measured:
    """One response for each pair of perturbation and cell type: the mean of its groups, by their cells.

    Args:
        perturbations: names, in the order of ``likeness``.
        cell_types: ids, in the order of ``distances``.
        groups: (n_groups,) perturbation and cell type of each.
        changes: (n_groups, n_genes) perturbed minus control, on a log scale.
        likeness: see :class:`Measured`.
        distances: see :class:`Measured`.
        n_cells: (n_groups,) the smaller number of both sides.
        donors: (n_groups,) whose cells they are.
    """
    pairs = sorted({(list(perturbations).index(p), list(cell_types).index(t)) for p, t in groups})
    place = {(perturbations[p], cell_types[t]): row for row, (p, t) in enumerate(pairs)}
    rows = np.array([place[group] for group in groups], dtype=np.int64)
    weight = np.ones(len(groups)) if n_cells is None else np.maximum(np.asarray(n_cells, dtype=np.float64), 1)
    total = np.asarray(np.bincount(rows, weight, len(pairs)), dtype=np.float64)
    responses = np.zeros((len(pairs), changes.shape[1]), dtype=changes.dtype)
    np.add.at(responses, rows, changes * (weight / total[rows])[:, None].astype(changes.dtype))
    of_pair: list[set[object]] = [set() for _ in pairs]
    for row, donor in zip(rows, donors or (), strict=False):
        of_pair[row].add(donor)
    return Measured(
        perturbations=perturbations,
        cell_types=cell_types,
        perturbation=np.array([p for p, _ in pairs], dtype=np.int64),
        cell_type=np.array([t for _, t in pairs], dtype=np.int64),
        responses=responses,
        likeness=likeness,
        distances=distances,
        n_cells=None if n_cells is None else total,
        n_donors=None if donors is None else np.array([float(len(found)) for found in of_pair]),
    )


def type_distances(profiles: Array | None, steps: Array) -> Array:
    """How far apart cell types are: 1 - Pearson of their control profiles, else by the Cell Ontology.

    Args:
        profiles: (n_types, n_genes) mean log expression of unperturbed cells; a row of NaN where there are none.
        steps: (n_types, n_types) between two types in the Cell Ontology; NaN where they are unrelated.

    Returns:
        (n_types, n_types), 0 to 2.
    """
    found = np.clip(np.nan_to_num(DISTANCE_PER_STEP * steps, nan=FARTHEST), 0, FARTHEST)
    known = np.zeros(len(steps), dtype=bool) if profiles is None else np.isfinite(profiles).all(axis=1)
    if profiles is not None and known.sum() > 1:
        spread = profiles[known].var(axis=0)
        variable = np.argsort(-spread, kind="stable")[:VARIABLE_GENES]
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.corrcoef(profiles[known][:, variable])
        found[np.ix_(known, known)] = np.clip(1 - np.nan_to_num(correlation), 0, FARTHEST)
    np.fill_diagonal(found, 0)
    return found
