import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import gca_core
from gca_core.datasets import kang2018_mini, kang2018_mini_path, list_data_files, pbmc68k_reduced
from gca_core.errors import DataValidationError
from gca_core.io import ChecksumState
from gca_core.knowledge.bundled.ontology import load_ontology
from gca_core.matrix.kinds import MatrixKind
from gca_core.matrix.places import matrix_kinds

PACKAGE = Path(gca_core.__file__).parent


@pytest.fixture(scope="module")
def mini():
    return kang2018_mini()


def test_every_bundled_file_is_listed_with_its_checksum():
    listed = {f.path for f in list_data_files()}
    there = {p for p in PACKAGE.glob("*/data/**/*") if p.suffix not in {"", ".py", ".pyc", ".json"}}
    there |= set(PACKAGE.glob("*/data/*.json")) - set(PACKAGE.glob("*/data/manifest.json"))
    assert there
    assert {p.relative_to(PACKAGE) for p in there} == {p.relative_to(PACKAGE) for p in listed}
    assert [f.file for f in list_data_files() if f.checksum_state is not ChecksumState.OK] == []


def test_every_bundled_file_names_its_source_and_licence():
    assert [f.file for f in list_data_files() if not (f.source and f.licence and f.description)] == []


def manifest_in(root: Path, entry: dict[str, object]) -> None:
    folder = root / "room" / "data"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps([entry]))


ENTRY = {"file": "a.txt", "description": "", "source": "", "licence": "", "citation": "", "sha256": "0", "bytes": 1}


def test_a_missing_and_a_changed_file_are_told_apart(tmp_path):
    manifest_in(tmp_path, ENTRY)
    assert list_data_files(tmp_path)[0].checksum_state is ChecksumState.MISSING
    (tmp_path / "room" / "data" / "a.txt").write_text("x")
    assert list_data_files(tmp_path)[0].checksum_state is ChecksumState.CHANGED


def test_a_manifest_that_is_not_valid_is_refused(tmp_path):
    manifest_in(tmp_path, {"file": "a.txt"})
    with pytest.raises(DataValidationError, match="not valid"):
        list_data_files(tmp_path)


def test_kang2018_mini_is_small_and_holds_raw_counts(mini):
    assert kang2018_mini_path().stat().st_size <= 3_000_000
    assert isinstance(mini.X, sp.csr_matrix)
    assert matrix_kinds(mini) == {"X": MatrixKind.COUNTS}
    assert mini.n_vars >= 5000
    assert mini.obs_names.is_unique
    assert mini.var_names.is_unique


def test_kang2018_mini_holds_nothing_that_the_oldest_anndata_has_no_reader_for():
    with h5py.File(kang2018_mini_path()) as file:
        kinds = {file[name].attrs["encoding-type"] for name in file}
    assert kinds == {"csr_matrix", "dataframe", "dict"}


def test_kang2018_mini_has_every_main_type_in_both_conditions(mini):
    counts = mini.obs.groupby(["cell_type_ontology_id", "condition"], observed=False).size().unstack()
    assert set(counts.columns) == {"ctrl", "stim"}
    main = {
        "CL:0002057",
        "CL:0002396",
        "CL:0000624",
        "CL:0000625",
        "CL:0000623",
        "CL:0000236",
        "CL:0000451",
        "CL:0000556",
    }
    assert set(counts.index) == main
    assert (counts >= 25).all(axis=None)


def test_kang2018_mini_labels_are_ontology_terms_and_doubtful_cells_have_none(mini):
    labelled = mini.obs["cell_type"].notna()
    assert 0 < (~labelled).sum() < 0.1 * mini.n_obs
    assert (labelled == mini.obs["cell_type_ontology_id"].notna()).all()
    pairs = mini.obs.loc[labelled, ["cell_type", "cell_type_ontology_id"]].drop_duplicates()
    ontology = load_ontology()
    assert all(ontology.label(i) == label for label, i in pairs.itertuples(index=False))
    assert mini.obs["cell_type_margin"].between(0, 1).all()
    assert (mini.obs.loc[labelled, "cell_type_margin"] >= 0.5).all()


def test_kang2018_mini_carries_no_other_columns_and_says_who_labelled_it(mini):
    assert set(mini.obs) == {"condition", "cell_type", "cell_type_ontology_id", "cell_type_margin"}
    assert "annotate_cells" in mini.uns["gca"]["labelled_by"]
    assert "GSE96583" in mini.uns["gca"]["source"]


def test_stimulated_cells_respond_to_interferon(mini):
    stim = (mini.obs["condition"] == "stim").to_numpy()
    isg15 = mini[:, "ISG15"].X.toarray().ravel()
    assert np.mean(isg15[stim]) > 10 * np.mean(isg15[~stim])


def test_pbmc68k_reduced_comes_from_scanpy():
    adata = pbmc68k_reduced()
    assert adata.shape == (700, 765)
    assert "bulk_labels" in adata.obs
