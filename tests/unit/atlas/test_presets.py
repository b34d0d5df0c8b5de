"""Presets, on small files that name things as the published ones do."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from gca_core.atlas.ingest.names import NameResolver
from gca_core.atlas.ingest.plan import IngestPlan, make_plan
from gca_core.atlas.ingest.presets import apply_preset
from gca_core.atlas.ingest.source import CountSource, read_header
from gca_core.atlas.models import IngestConfig
from gca_core.errors import DataValidationError
from gca_core.matrix.cells import open_cells
from gca_core.matrix.normalise import log_normalise

N = 60
TYPES = ["CD14 Mono", "B Naive", "NK"]
IDS = {"CD14 Mono": "CL:0001054", "B Naive": "CL:0000788", "NK": "CL:0000623"}
TISSUES = {"bone marrow": "UBERON:0002371", "blood": "UBERON:0000178"}
WORDS = NameResolver(IDS.get, resolve_tissue=lambda text: TISSUES.get(text.lower()))


def counts(n_genes: int = 12) -> sp.csr_matrix:
    return sp.csr_matrix(np.random.default_rng(0).poisson(1.5, (N, n_genes)).astype(np.float32))


def table(**columns: Any) -> pd.DataFrame:
    cells = {name: (list(values) * N)[:N] for name, values in columns.items()}
    return pd.DataFrame(cells, index=[f"c{i}" for i in range(N)]).astype("category")


def parse_pbmc() -> ad.AnnData:
    """obs of Parse_10M_PBMC_cytokines.h5ad; X holds float32 counts, var is indexed by symbol."""
    obs = table(
        sample=["Donor1_PBS"],
        donor=["Donor1", "Donor2", "Donor10", "Donor12"],
        cytokine=["PBS", "4-1BBL", "IFN-beta", "PBS", "IL-4"],
        treatment=["cytokine"],
        cell_type=TYPES,
        species=["hg38"],
        bc1_well=["A1"],
    )
    obs["tscp_count"], obs["gene_count"], obs["pct_counts_MT"] = 900, 700, 2.5
    return ad.AnnData(X=counts(), obs=obs, var=pd.DataFrame({"n_cells": 9}, index=[f"GENE{i}" for i in range(12)]))


def openproblems() -> ad.AnnData:
    """obs of sc_counts.h5ad by the task's file description; counts lie in a layer."""
    obs = table(
        sm_name=["Dimethyl Sulfoxide", "Belinostat", "Dabrafenib", "Dimethyl Sulfoxide"],
        cell_type=TYPES,
        donor_id=["donor_0", "donor_1", "donor_2"],
        split=["control", "train"],
        plate_name=["plate_1"],
        well=["A1"],
        row=["A"],
        hashtag_id=["h1"],
        container_format=["96-well plate"],
        raw_cell_id=["x"],
        cell_id=["y"],
    )
    obs["dose_uM"], obs["timepoint_hr"], obs["col"] = 1, 24.0, 1
    cells = ad.AnnData(X=log_normalise(counts()), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(12)]))
    cells.layers["counts"] = counts()
    cells.obsm["X_pca"] = np.zeros((N, 2))
    return cells


def tabula_sapiens() -> ad.AnnData:
    """obs, var and layers of TabulaSapiens.h5ad (figshare, release 1)."""
    obs = table(
        organ_tissue=["Bone_Marrow", "Blood"],
        method=["10X"],
        donor=["TSP1", "TSP2", "TSP7"],
        anatomical_information=["nan"],
        cell_ontology_class=TYPES,
        free_annotation=TYPES,
        manually_annotated=["True"],
        compartment=["immune"],
        gender=["male"],
    )
    obs["n_counts_UMIs"], obs["n_genes"] = 100.0, 10
    names = [f"G{i}" for i in range(12)]
    var = pd.DataFrame({"gene_symbol": names, "feature_type": "Gene Expression", "ensemblid": names}, index=names)
    cells = ad.AnnData(X=log_normalise(counts()), obs=obs, var=var)
    cells.layers["raw_counts"] = counts()
    cells.layers["decontXcounts"] = counts() * 0.9
    return cells


def discover() -> ad.AnnData:
    """A file of CELLxGENE Discover: Ensembl ids, log-normalised X, counts in raw.X."""
    obs = table(
        cell_type=["natural killer cell", "B cell", "unknown"],
        cell_type_ontology_term_id=["CL:0000623", "CL:0000236", "unknown"],
        tissue=["bone marrow", "blood", "cell culture"],
        tissue_ontology_term_id=["UBERON:0002371", "UBERON:0000178", "CL:0000236"],
        tissue_general=["bone marrow", "blood"],
        donor_id=["d1", "d2"],
        disease=["normal"],
        assay=["10x 3' v3"],
        is_primary_data=[True],
    )
    symbols = ["MT-CO1", "TBCE", "TBCE", *(f"G{i}" for i in range(9))]
    var = pd.DataFrame({"feature_name": pd.Categorical(symbols)}, index=[f"ENSG{i:011d}" for i in range(12)])
    cells = ad.AnnData(X=counts(), obs=obs, var=var)
    cells.raw = cells
    cells.X = log_normalise(counts())
    return cells


def census() -> ad.AnnData:
    """What cellxgene_census.get_anndata gives: counts in X, numbered rows, ids in var."""
    cells = discover()
    obs, var = cells.obs.reset_index(drop=True), cells.var.reset_index(names="feature_id")
    made = ad.AnnData(X=counts(), obs=obs.set_index(obs.index.astype(str)), var=var.set_index(var.index.astype(str)))
    made.obs["soma_joinid"] = np.arange(N)
    return made


def read(cells: ad.AnnData, folder: Path, **options: Any) -> tuple[IngestConfig, IngestPlan, list[str], np.ndarray]:
    path = folder / "cells.h5ad"
    cells.write_h5ad(path)
    config = IngestConfig(input_uri=str(path), dataset="d", **options)
    with open_cells(str(path)) as file:
        config = apply_preset(config, **read_header(file))
        source = CountSource(file, config.layer, config.gene_column)
        names = [name for name in config.columns().values() if name]
        plan = make_plan(source.table(names), config, WORDS)
        return config, plan, source.genes, np.vstack([block.toarray() for _, block in source.blocks()])


@pytest.mark.parametrize(
    ("preset", "cells", "control", "n_donors", "tissues"),
    [
        ("parse_pbmc", parse_pbmc, "PBS", 4, set()),
        ("openproblems", openproblems, "Dimethyl Sulfoxide", 3, set()),
        ("tabula_sapiens", tabula_sapiens, None, 3, {"UBERON:0002371", "UBERON:0000178"}),
        ("tabula_sapiens", discover, None, 2, {"UBERON:0002371", "UBERON:0000178"}),
        ("cellxgene_census", discover, None, 2, {"UBERON:0002371", "UBERON:0000178"}),
        ("cellxgene_census", census, None, 2, {"UBERON:0002371", "UBERON:0000178"}),
    ],
)
def test_a_preset_finds_everything_in_its_files(tmp_path, preset, cells, control, n_donors, tissues):
    config, plan, _, matrix = read(cells(), tmp_path, preset=preset)
    np.testing.assert_array_equal(matrix, counts().toarray())
    assert config.control_value == control
    assert {group.perturbation for group in plan.groups if group.is_control} == {control or "unperturbed"}
    assert all(group.is_control for group in plan.groups) is (control is None)
    assert len({group.donor for group in plan.groups}) == n_donors
    assert {group.tissue_id for group in plan.groups} - {None} == tissues
    assert plan.unmapped == {} or cells in {discover, census}


def test_symbols_are_the_genes_and_those_of_two_genes_stay_apart(tmp_path: Path) -> None:
    _, _, genes, _ = read(discover(), tmp_path, preset="cellxgene_census")
    assert genes[:4] == ["MT-CO1", "TBCE", "TBCE_ENSG00000000002", "G0"]


def test_what_is_unknown_there_is_said(tmp_path: Path) -> None:
    _, plan, _, _ = read(discover(), tmp_path, preset="cellxgene_census")
    assert plan.unmapped == {"unknown": 20}
    assert plan.cell_types == {"CL:0000236": "B cell", "CL:0000623": "natural killer cell"}
    # an id that is no tissue leaves the cell without one; here those cells have no known type either
    assert plan.unmapped_tissues == {"cell culture": 20}


def test_what_is_given_goes_before_the_preset(tmp_path: Path) -> None:
    cells = discover()
    cells.obs["disease"] = pd.Categorical((["normal", "influenza"] * N)[:N])
    config, plan, _, _ = read(
        cells,
        tmp_path,
        preset="cellxgene_census",
        perturbation_column="disease",
        control_value="normal",
        donor_column="assay",
    )
    assert (config.perturbation_column, config.donor_column) == ("disease", "assay")
    assert {group.perturbation for group in plan.groups} == {"normal", "influenza"}


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataValidationError, match=r"preset parse_pbmc.*no column 'cytokine'"):
        read(openproblems(), tmp_path, preset="parse_pbmc")
    with pytest.raises(DataValidationError, match="give the control value"):
        read(discover(), tmp_path, preset="cellxgene_census", perturbation_column="disease")
