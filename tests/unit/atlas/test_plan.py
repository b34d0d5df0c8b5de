"""Groups and their controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from gca_core.atlas.models import CellGroup, IngestConfig, make_group_id
from gca_core.atlas.plan import make_plan, match_controls
from gca_core.errors import DataValidationError

TYPES = {"T cell": "CL:0000084", "T cells": "CL:0000084", "B cell": "CL:0000236"}


def config(**changes: Any) -> IngestConfig:
    options = {
        "input_uri": "cells.h5ad",
        "dataset": "d",
        "perturbation_column": "condition",
        "control_value": "ctrl",
        "cell_type_column": "cell_type",
    }
    return IngestConfig.model_validate(options | changes)


def table(rows: list[tuple[Any, Any, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["condition", "cell_type", "donor"])


def group(name: str, *, control: bool, donor: str | None = None, cell_type: str = "T", n: int = 10) -> CellGroup:
    return CellGroup(
        group_id=name,
        dataset="d",
        perturbation="ctrl" if control else "x",
        is_control=control,
        cell_type_id=cell_type,
        cell_type=cell_type,
        donor=donor,
        n_cells=n,
    )


def test_cells_go_to_the_group_of_their_values() -> None:
    rows = [("ctrl", "T cell", 1), ("stim", "T cells", 1), ("stim", "T cell", 2), ("stim", None, 1), ("ctrl", "odd", 1)]
    plan = make_plan(table(rows), config(donor_column="donor"), TYPES.get)
    assert [plan.groups[code].perturbation for code in plan.codes[:3]] == ["ctrl", "stim", "stim"]
    assert [plan.groups[code].donor for code in plan.codes[:3]] == ["1", "1", "2"]
    assert plan.codes[3:].tolist() == [-1, -1]
    assert (plan.n_unlabelled, plan.unmapped) == (1, {"odd": 1})
    assert plan.cell_types == {"CL:0000084": "T cell"}
    assert [g.group_id for g in plan.groups] == sorted(g.group_id for g in plan.groups)


def test_a_cell_without_a_perturbation_is_counted_and_left_out() -> None:
    rows = [("ctrl", "T cell", 1), ("stim", "T cell", 1), (np.nan, "T cell", 1), (" nan ", "B cell", 1)]
    plan = make_plan(table(rows), config(), TYPES.get)
    assert plan.n_without_perturbation == 2
    assert plan.codes[2:].tolist() == [-1, -1]
    assert {g.donor for g in plan.groups} == {None}


def test_the_label_of_the_ontology_is_stored_when_asked_for() -> None:
    rows = [("ctrl", "T cells", 1), ("stim", "T cells", 1)]
    plan = make_plan(table(rows), config(), TYPES.get, label_of={"CL:0000084": "T cell"}.__getitem__)
    assert {g.cell_type for g in plan.groups} == {"T cell"}


def test_an_id_that_is_given_goes_before_the_label() -> None:
    obs = table([("ctrl", "T cell", 1), ("stim", "T cell", 1), ("stim", None, 1)])
    obs["cl"] = ["CL:0000624", None, "CL:0000624"]
    plan = make_plan(obs, config(cell_type_id_column="cl"), TYPES.get)
    assert [plan.groups[code].cell_type_id for code in plan.codes] == ["CL:0000624", "CL:0000084", "CL:0000624"]
    assert plan.n_unlabelled == 0


def test_ids_are_unambiguous() -> None:
    assert make_group_id("a", "b|c", "t", None) != make_group_id("a|b", "c", "t", None)
    assert make_group_id("a", "b", "t", None) != make_group_id("a", "b", "t", "None")
    assert make_group_id("a", "b", "t", "x") == make_group_id("a", "b", "t", "x")
    assert len(make_group_id("a", "b", "t", None)) == 14


def test_a_control_of_the_same_donor_goes_before_a_larger_one() -> None:
    groups = [
        group("p1", control=False, donor="1"),
        group("p2", control=False, donor="9"),
        group("p3", control=False, cell_type="B"),
        group("c1", control=True, donor="1", n=3),
        group("c2", control=True, donor="2", n=50),
        group("c3", control=True, donor="3", n=50),
    ]
    found = {g.group_id: (g.control_group_id, g.control_match) for g in match_controls(groups)}
    assert found["p1"] == ("c1", "type_and_donor")
    assert found["p2"] == ("c2", "type")
    assert found["p3"] == (None, None)
    assert found["c2"] == (None, None)


def test_without_donors_the_match_is_by_type() -> None:
    groups = match_controls([group("p", control=False), group("c", control=True)])
    assert (groups[0].control_group_id, groups[0].control_match) == ("c", "type")


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([("ctrl", "odd", 1), ("stim", "odd", 1)], {}, "no cell of cells.h5ad can be used.*'odd'"),
        ([("ctrl", "T cell", 1)], {}, "holds 'ctrl' only"),
        (
            [("ctrl", "T cell", 1), ("a", "T cell", 1), ("b", "T cell", 1)],
            {"perturbation_names": {"a": "b"}},
            "one name",
        ),
    ],
)
def test_tables_that_make_no_sense_are_refused(rows: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataValidationError, match=message):
        make_plan(table(rows), config(**changes), TYPES.get)
