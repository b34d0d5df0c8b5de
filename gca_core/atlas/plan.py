"""Which cells of a file go to which group, and each group's control."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core.atlas.models import CellGroup, IngestConfig, make_group_id
from gca_core.errors import DataValidationError

ResolveCellType = Callable[[str], str | None]
_CL_ID = re.compile(r"CL:\d{7}")
_MISSING = {"", "nan", "none", "na", "n/a"}


@dataclass(frozen=True)
class IngestPlan:
    """Where every cell goes.

    Attributes:
        groups: in the order of the store, which is that of their ids.
        codes: (cells of the file,) index into ``groups``; -1 for a cell that is left out.
        n_unlabelled: cells without a cell type.
        n_without_perturbation: cells with a cell type and no perturbation.
        unmapped: cell types that couldn't be resolved, with their numbers of cells.
        cell_types: label by Cell Ontology id.
    """

    groups: list[CellGroup]
    codes: npt.NDArray[np.int64]
    n_unlabelled: int
    n_without_perturbation: int
    unmapped: dict[str, int]
    cell_types: dict[str, str]


def make_plan(
    obs: pd.DataFrame,
    config: IngestConfig,
    resolve_cell_type: ResolveCellType,
    label_of: Callable[[str], str] | None = None,
) -> IngestPlan:
    """Assign cells to groups and groups to controls.

    Args:
        obs: the file's cell table.
        config: the columns.
        resolve_cell_type: from a label to a Cell Ontology id, or None.
        label_of: from an id to the label to store; without, the file's first label in alphabetical order.

    Raises:
        DataValidationError: a column or the control value is missing, or no cell can be used.
    """
    check_columns(obs, config)
    perturbations = _texts(obs[config.perturbation_column])
    names = _perturbation_names(perturbations, config)
    labels = _texts(obs[config.cell_type_column])
    ids, unmapped = _cell_type_ids(labels, obs, config, resolve_cell_type)
    donors = _texts(obs[config.donor_column]) if config.donor_column else np.full(len(obs), None, dtype=object)
    has_label, has_type, has_perturbation = _there(labels), _there(ids), _there(perturbations)
    usable = has_type & has_perturbation
    if not usable.any():
        raise DataValidationError(
            f"no cell of {config.input_uri} can be used: {int((~has_label).sum())} of {len(obs)} have no value in "
            f"{config.cell_type_column!r}, and these labels aren't known cell types: {_listing(unmapped)}"
        )
    groups, codes = _groups(config, names, perturbations, ids, donors, usable)
    label_by_id = _labels(labels, ids, usable, label_of)
    groups = [group.model_copy(update={"cell_type": label_by_id[group.cell_type_id]}) for group in groups]
    return IngestPlan(
        groups=match_controls(groups),
        codes=codes,
        n_unlabelled=int((~has_label & ~has_type).sum()),
        n_without_perturbation=int((has_type & ~has_perturbation).sum()),
        unmapped=unmapped,
        cell_types=label_by_id,
    )


def check_columns(obs: pd.DataFrame, config: IngestConfig) -> None:
    """Check that the columns and the values named are there.

    Raises:
        DataValidationError: one isn't; lists what is.
    """
    wanted = {
        "perturbation column": config.perturbation_column,
        "cell type column": config.cell_type_column,
        "cell type id column": config.cell_type_id_column,
        "donor column": config.donor_column,
    }
    for what, name in wanted.items():
        if name is not None and name not in obs.columns:
            raise DataValidationError(
                f"the {what} {name!r} is not in {config.input_uri}; found {_listing(obs.columns)}"
            )
    found = {str(value) for value in _texts(obs[config.perturbation_column]) if value is not None}
    for value in (config.control_value, *config.perturbation_names):
        if value not in found:
            raise DataValidationError(
                f"{value!r} is not a value of {config.perturbation_column!r} in {config.input_uri}; "
                f"found {_listing(sorted(found))}"
            )


def match_controls(groups: list[CellGroup]) -> list[CellGroup]:
    """Give each perturbed group its control: same type and donor, else the largest of the type.

    Of equally large ones the first by id is taken. Groups of a type without controls keep none.
    """
    controls: dict[str, list[CellGroup]] = {}
    for group in groups:
        if group.is_control:
            controls.setdefault(group.cell_type_id, []).append(group)
    return [
        group if group.is_control else _with_control(group, controls.get(group.cell_type_id, [])) for group in groups
    ]


def _with_control(group: CellGroup, candidates: list[CellGroup]) -> CellGroup:
    if not candidates:
        return group
    same_donor = [c for c in candidates if c.donor == group.donor] if group.donor is not None else []
    best = min(same_donor or candidates, key=lambda c: (-c.n_cells, c.group_id))
    match = "type_and_donor" if same_donor else "type"
    return group.model_copy(update={"control_group_id": best.group_id, "control_match": match})


def _perturbation_names(values: npt.NDArray[np.object_], config: IngestConfig) -> dict[str, str]:
    """The name to store for every value; two values must not become one."""
    found = sorted({value for value in values if value is not None})
    names = {value: config.perturbation_names.get(value, value) for value in found}
    taken = Counter(names.values())
    twice = [value for value, name in names.items() if taken[name] > 1]
    if twice:
        raise DataValidationError(f"the values {_listing(twice)} would get one name; name each of them differently")
    if len(found) == 1:
        raise DataValidationError(
            f"{config.perturbation_column!r} holds {found[0]!r} only; expected controls and perturbed cells"
        )
    return names


def _cell_type_ids(
    labels: npt.NDArray[np.object_], obs: pd.DataFrame, config: IngestConfig, resolve: ResolveCellType
) -> tuple[npt.NDArray[np.object_], dict[str, int]]:
    """The Cell Ontology id of every cell, and the labels that have none."""
    resolved = {label: resolve(label) for label in sorted({label for label in labels if label is not None})}
    ids = np.array([None if label is None else resolved[label] for label in labels], dtype=object)
    if config.cell_type_id_column:
        given = _texts(obs[config.cell_type_id_column])
        wrong = sorted({value for value in given if value is not None and not _CL_ID.fullmatch(value)})
        if wrong:
            raise DataValidationError(
                f"{config.cell_type_id_column!r} holds {_listing(wrong)}; expected Cell Ontology ids like CL:0000084"
            )
        ids = np.where(_there(given), given, ids)
    unmapped = Counter(label for label, its_id in zip(labels, ids, strict=True) if label is not None and its_id is None)
    return ids, dict(sorted(unmapped.items()))


def _groups(
    config: IngestConfig,
    names: dict[str, str],
    perturbations: npt.NDArray[np.object_],
    ids: npt.NDArray[np.object_],
    donors: npt.NDArray[np.object_],
    usable: npt.NDArray[np.bool_],
) -> tuple[list[CellGroup], npt.NDArray[np.int64]]:
    """The groups by id, and each cell's place among them; O(cells)."""
    keys: list[tuple[str, str, str | None] | None] = [
        (perturbation, cell_type, donor) if use else None
        for perturbation, cell_type, donor, use in zip(perturbations, ids, donors, usable, strict=True)
    ]
    counts = Counter(key for key in keys if key is not None)
    by_id: dict[str, tuple[str, str, str | None]] = {}
    for key in counts:
        group_id = make_group_id(config.dataset, names[key[0]], key[1], key[2])
        if group_id in by_id:
            raise DataValidationError(f"two groups share the id {group_id}; rename the dataset")
        by_id[group_id] = key
    groups = [
        CellGroup(
            group_id=group_id,
            dataset=config.dataset,
            perturbation=names[perturbation],
            is_control=perturbation == config.control_value,
            cell_type_id=cell_type,
            cell_type=cell_type,
            donor=donor,
            n_cells=counts[by_id[group_id]],
        )
        for group_id, (perturbation, cell_type, donor) in sorted(by_id.items())
    ]
    place = {by_id[group.group_id]: index for index, group in enumerate(groups)}
    return groups, np.array([-1 if key is None else place[key] for key in keys], dtype=np.int64)


def _labels(
    labels: npt.NDArray[np.object_],
    ids: npt.NDArray[np.object_],
    usable: npt.NDArray[np.bool_],
    label_of: Callable[[str], str] | None,
) -> dict[str, str]:
    pairs = {(str(ids[i]), str(ids[i] if labels[i] is None else labels[i])) for i in np.flatnonzero(usable)}
    given: dict[str, str] = {}
    for its_id, label in sorted(pairs):
        given.setdefault(its_id, label)
    return {its_id: label_of(its_id) if label_of else label for its_id, label in given.items()}


def _texts(column: pd.Series) -> npt.NDArray[np.object_]:
    """The values as trimmed text, None where there is none."""
    values = [None if pd.isna(value) else str(value).strip() for value in column.astype(object)]
    cleaned = [None if value is None or value.lower() in _MISSING else value for value in values]
    return np.array(cleaned, dtype=object)


def _there(values: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
    return np.array([value is not None for value in values], dtype=np.bool_)


def _listing(names: object, limit: int = 12) -> str:
    found = [repr(str(name)) for name in names]  # type: ignore[attr-defined]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return (", ".join(found[:limit]) or "nothing") + more
