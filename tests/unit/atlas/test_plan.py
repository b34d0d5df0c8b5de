"""Groups and their controls."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from gca_core.atlas.ingest.names import NameResolver, load_name_resolver
from gca_core.atlas.ingest.plan import make_plan, match_controls
from gca_core.atlas.models import CellGroup, IngestConfig, make_group_id
from gca_core.errors import DataValidationError

TYPES = {"T cell": "CL:0000084", "T cells": "CL:0000084", "B cell": "CL:0000236"}
WORDS = NameResolver(TYPES.get)
BUNDLED = load_name_resolver()
LABELLED = NameResolver(TYPES.get, label_cell_type={"CL:0000084": "T cell"}.__getitem__)


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
    plan = make_plan(table(rows), config(donor_column="donor"), WORDS)
    assert [plan.groups[code].perturbation for code in plan.codes[:3]] == ["ctrl", "stim", "stim"]
    assert [plan.groups[code].donor for code in plan.codes[:3]] == ["1", "1", "2"]
    assert plan.codes[3:].tolist() == [-1, -1]
    assert (plan.n_unlabelled, plan.unmapped) == (1, {"odd": 1})
    assert plan.cell_types == {"CL:0000084": "T cell"}
    assert [g.group_id for g in plan.groups] == sorted(g.group_id for g in plan.groups)


def test_a_cell_without_a_perturbation_is_counted_and_left_out() -> None:
    rows = [("ctrl", "T cell", 1), ("stim", "T cell", 1), (np.nan, "T cell", 1), (" nan ", "B cell", 1)]
    plan = make_plan(table(rows), config(), WORDS)
    assert plan.n_without_perturbation == 2
    assert plan.codes[2:].tolist() == [-1, -1]
    assert {g.donor for g in plan.groups} == {None}


def test_the_label_of_the_ontology_is_stored_when_asked_for() -> None:
    rows = [("ctrl", "T cells", 1), ("stim", "T cells", 1)]
    plan = make_plan(table(rows), config(), LABELLED)
    assert {g.cell_type for g in plan.groups} == {"T cell"}


def test_an_id_that_is_given_goes_before_the_label() -> None:
    obs = table([("ctrl", "T cell", 1), ("stim", "T cell", 1), ("stim", None, 1)])
    obs["cl"] = ["CL:0000624", None, "CL:0000624"]
    plan = make_plan(obs, config(cell_type_id_column="cl"), WORDS)
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
        make_plan(table(rows), config(**changes), WORDS)


def test_perturbations_take_the_catalogues_name_but_never_each_others() -> None:
    known = {"IFN-beta": "interferon beta", "IFNB1": "interferon beta", "TNFa": "TNF", "PBS": "saline"}
    words = NameResolver(
        TYPES.get, resolve_perturbation=lambda text: known.get(text) or (text if text in known.values() else None)
    )
    obs = table([(value, "T cell", 1) for value in ("PBS", "IFN-beta", "IFNB1", "TNFa", "mystery")])
    plan = make_plan(obs, config(control_value="PBS", perturbation_names={"mystery": "XYZ"}), words)
    assert plan.perturbation_names == {
        "PBS": "PBS",
        "IFN-beta": "IFN-beta",
        "IFNB1": "IFNB1",
        "TNFa": "TNF",
        "mystery": "XYZ",
    }
    assert plan.unmapped_perturbations == ["XYZ"]
    assert ("perturbation", "TNFa", "TNF") in plan.aliases


SCREEN = {"non-targeting": "non-targeting", "TNF": "TNF knockout", "STAT1": "STAT1 knockout"}
GUIDES = {
    "NegCtrl0": "NegCtrl0",
    "TNF_sg1": "TNF knockout (TNF_sg1)",
    "sgTNF-2": "TNF knockout (sgTNF-2)",
    "STAT1_sg1": "STAT1 knockout",
    "INTERGENIC1": "INTERGENIC1",
}


@pytest.mark.parametrize(
    ("names", "kind", "guessed"),
    [
        (SCREEN, None, True),
        (SCREEN, "CRISPR-cas9", False),
        (GUIDES, None, True),
        ({"ctrl": "ctrl", "TNF": "TNF CRISPRa", "KLF1+X": "KLF1+X CRISPRa", "X9": "X9 CRISPRa"}, "CRISPRa", False),
        ({"ctrl": "ctrl", "KLF1+ctrl": "KLF1 knockout", "KLF1+BAK1": "KLF1+BAK1 knockout"}, None, True),
        ({"PBS": "PBS", "TNF": "tumor necrosis factor", "IL1B+TNF": "IL1B+TNF", "TNF-/-": "TNF knockout"}, None, False),
        ({"non-targeting": "non-targeting", "TNF": "tumor necrosis factor"}, "cytokine", False),
        ({"ctrl": "ctrl", "sgTNF": "TNF knockout", "LPS": "lipopolysaccharide", "X9": "X9"}, None, False),
    ],
)  # fmt: skip
def test_a_gene_that_was_changed_is_not_the_cytokine(names: dict[str, str], kind: str | None, guessed: bool) -> None:
    obs = table([(value, "T cell", 1) for value in names])
    control = next(iter(names))
    plan = make_plan(
        obs, config(control_value=control, perturbation_kind=kind), replace(BUNDLED, resolve_cell_type=TYPES.get)
    )
    assert plan.perturbation_names == names
    assert bool(plan.notes) is guessed
    assert ("perturbation", "TNF", "TNF knockout") not in plan.aliases
    assert {"TNF knockout", "STAT1 knockout", "tumor necrosis factor"}.isdisjoint(plan.unmapped_perturbations)


def test_the_kind_may_differ_from_value_to_value_but_not_within_one() -> None:
    obs = table([(value, "T cell", 1) for value in ("ctrl", "IFNG", "TNF", "TNF")])
    obs["type"] = ["none", "cytokines", "CRISPRi", "CRISPRi"]
    asked = config(perturbation_kind_column="type")
    names = make_plan(obs, asked, BUNDLED).perturbation_names
    assert names == {"ctrl": "ctrl", "IFNG": "interferon gamma", "TNF": "TNF CRISPRi"}
    with pytest.raises(DataValidationError, match="several kinds for 'TNF'"):
        make_plan(obs.assign(type=["none", "cytokine", "CRISPRi", "drug"]), asked, BUNDLED)


@pytest.mark.parametrize(
    ("values", "control"),
    [
        (["None", "LPS", None], "None"),
        (["NA", "LPS", np.nan], "NA"),
        (["nan", "LPS", None], "nan"),
        ([0, 1, None], "0"),
        ([False, True, None], "False"),
    ],
)
def test_a_control_is_taken_as_it_is_written(values: list[Any], control: str) -> None:
    obs = table([(value, "T cell", 1) for value in values])
    plan = make_plan(obs.astype({"condition": object}), config(control_value=control), WORDS)
    assert {g.perturbation for g in plan.groups if g.is_control} == {control}
    assert (len(plan.groups), plan.n_without_perturbation) == (2, 1)


def test_a_file_without_perturbations_is_all_controls() -> None:
    plan = make_plan(
        table([("x", "T cell", 1), ("y", "B cell", 1)]), config(perturbation_column=None, control_value=None), WORDS
    )
    assert {(g.perturbation, g.is_control) for g in plan.groups} == {("unperturbed", True)}


def test_tissues_part_groups_and_choose_controls() -> None:
    rows = [("ctrl", "T cell", 1), ("ctrl", "T cell", 1), ("stim", "T cell", 1), ("ctrl", "T cell", 1)]
    obs = table(rows).assign(organ=["Blood", "Blood", "Lung", "Lung"])
    words = NameResolver(TYPES.get, resolve_tissue={"Blood": "UBERON:0000178", "Lung": "UBERON:0002048"}.get)
    plan = make_plan(obs, config(tissue_column="organ"), words)
    by_tissue = {(g.perturbation, g.tissue): g for g in plan.groups}
    assert set(by_tissue) == {("ctrl", "Blood"), ("ctrl", "Lung"), ("stim", "Lung")}
    assert by_tissue["stim", "Lung"].control_group_id == by_tissue["ctrl", "Lung"].group_id


def test_a_tissue_that_is_not_known_is_said_and_its_cells_stay() -> None:
    obs = table([("ctrl", "T cell", 1), ("stim", "T cell", 1)]).assign(organ="the moon")
    plan = make_plan(obs, config(tissue_column="organ"), NameResolver(TYPES.get, resolve_tissue={}.get))
    assert plan.unmapped_tissues == {"the moon": 2}
    assert [g.tissue_id for g in plan.groups] == [None, None]


def test_a_column_of_long_texts_is_refused() -> None:
    rows = [("ctrl", "T cell", 1), ("x" * 501, "T cell", 1)]
    with pytest.raises(DataValidationError, match="up to 501 characters"):
        make_plan(table(rows), config(), WORDS)


@pytest.mark.parametrize(
    "changes",
    [
        {"cell_type_column": None},
        {"control_value": None},
        {"preset": "other"},
        {"dataset": "x" * 501},
        {"perturbation_kind": "magic"},
        {"perturbation_kind": "KO", "perturbation_kind_column": "x"},
    ],
)
def test_a_configuration_that_says_too_little_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**changes)
