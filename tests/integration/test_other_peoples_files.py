"""Files as other programs leave them give annotation, latent models and the atlas what a file of today gives."""

import gzip
import logging
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.io import mmwrite

from gca_core.annotation.adata.expression import read_expression
from gca_core.annotation.adata.files import open_data
from gca_core.annotation.adata.ranking import stored_markers, stored_ranking
from gca_core.atlas.ingest.source import CountSource, read_header
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.latent.config import make_config
from gca_core.latent.data.sources import open_source
from gca_core.matrix.cells import check_name, open_cells, write_cells
from gca_core.matrix.genes import gene_rows, unique_symbols, without_genome
from gca_core.matrix.normalise import log_normalise
from tests.helpers.blood import database, simulated

pytestmark = pytest.mark.slow

__all__ = ["database", "simulated"]

TEXT = h5py.string_dtype()
N = 60


@pytest.fixture
def cells(simulated: ad.AnnData) -> ad.AnnData:
    """Sixty cells of counts with two columns of words, one of which lacks some."""
    found = simulated[::5].copy()
    found.X = sp.csr_matrix(found.X)
    found.obs["donor"] = pd.Categorical(np.where(np.arange(N) % 2, "dA", "dB"))
    found.obs["condition"] = pd.Categorical([None if i % 7 == 0 else ("ctrl" if i % 2 else "stim") for i in range(N)])
    return found


@pytest.fixture
def seen(database: Any) -> Callable[..., dict[str, tuple[list[str], np.ndarray, pd.DataFrame]]]:
    """What each of the three systems sees of a file: genes, counts (or logs of them), and columns of cells."""

    def look(path: Path, layer: str | None = None, columns: tuple[str, ...] = ("truth", "donor", "condition")) -> Any:
        found = {}
        for backed in (False, True) if path.suffix in {".h5ad", ".zarr"} else (False,):
            with open_data(str(path), backed=backed) as data:
                expression = read_expression(data.adata, database, layer=layer)
                obs = data.adata.obs[list(columns)].reset_index(drop=True)
                found[f"annotation, backed {backed}"] = (list(expression.genes), expression.matrix.toarray(), obs)
        options = {"input_uri": str(path), "output_uri": "out", "counts_layer": layer}
        with open_source(make_config(options)) as source:
            counts = np.vstack([chunk.toarray() for chunk in source.chunks()])
            found["vae"] = (list(source.genes), counts, source.obs[list(columns)].reset_index(drop=True))
        with open_cells(str(path)) as file:
            ingested = CountSource(file, layer)
            counts = np.vstack([block.toarray() for _, block in ingested.blocks()])
            found["atlas"] = (ingested.genes, counts, ingested.table(columns))
        return found

    return look


def same_as_today(found: dict[str, Any], cells: ad.AnnData) -> None:
    """Genes in their order, values, and the words of every cell."""
    counts = np.asarray(cells.X.todense())
    for system, (genes, values, obs) in found.items():
        expected = log_normalise(counts).toarray() if system.startswith("annotation") else counts
        assert genes == list(cells.var_names), system
        np.testing.assert_allclose(values, expected, rtol=2e-3, err_msg=system)
        for name in obs:
            words = [None if pd.isna(word) else str(word) for word in cells.obs[name]]
            assert [None if pd.isna(word) else str(word) for word in obs[name]] == words, (system, name)


def codes_beside(path: Path, cells: ad.AnnData) -> None:
    """Anndata 0.7 and SeuratDisk: codes in the column, words in __categories; R's missing value is the least one."""
    cells.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        obs = file["obs"]
        for name in ("truth", "donor", "condition"):
            column = cells.obs[name].cat
            del obs[name]
            codes = column.codes.to_numpy().astype("i4")
            obs[name] = np.where(codes < 0, np.iinfo("i4").min if name == "condition" else -1, codes)
            obs.create_dataset(f"__categories/{name}", data=list(column.categories), dtype=TEXT)
            obs[name].attrs["categories"] = obs[f"__categories/{name}"].ref
        obs.attrs["encoding-version"] = "0.1.0"


def compound(path: Path, cells: ad.AnnData) -> None:
    """Anndata 0.6: a table is one dataset, its categories lie in uns, and raw's names have dots."""
    names = ("truth", "donor", "condition")
    records = np.zeros(N, dtype=[("index", "S12"), *((name, "i1") for name in names)])
    records["index"] = [name.encode() for name in cells.obs_names]
    with h5py.File(path, "w") as file:
        for name in names:
            records[name] = cells.obs[name].cat.codes
            file.create_dataset(f"uns/{name}_categories", data=list(cells.obs[name].cat.categories), dtype=TEXT)
        file["obs"] = records
        file["var"] = np.array([(name.encode(),) for name in cells.var_names], dtype=[("index", "S30")])
        for key in ("data", "indices", "indptr"):
            file[f"X/{key}"] = getattr(cells.X, key)
        file["X"].attrs["h5sparse_format"], file["X"].attrs["h5sparse_shape"] = b"csr", cells.shape


def nullable(path: Path, cells: ad.AnnData) -> None:
    strings = cells.copy()
    for table in (strings.obs, strings.var):
        table.index = pd.Index(pd.array(table.index, dtype="string"))
    for name in ("truth", "donor", "condition"):
        strings.obs[name] = cells.obs[name].astype("string")
    strings.obs["number"] = pd.array([None if i % 9 == 0 else i for i in range(N)], dtype="Int64")
    strings.obs["kind"] = pd.Categorical(strings.obs["truth"])
    strings.uns["words"] = pd.array(["a", None], dtype="string")
    with ad.settings.override(allow_write_nullable_strings=True):
        strings.write_zarr(path) if path.suffix == ".zarr" else strings.write_h5ad(path)


def reserved(path: Path, cells: ad.AnnData) -> None:
    """A column called _index in each table, as SeuratDisk leaves it."""
    with_raw = cells.copy()
    with_raw.raw = cells.copy()
    with_raw.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for table in ("obs", "var", "raw/var"):
            file[table].attrs["column-order"] = np.array([*file[table].attrs["column-order"], "_index"], dtype=object)


def half(path: Path, cells: ad.AnnData) -> None:
    cells.X = cells.X.toarray().astype(np.float16)
    cells.layers["half"] = cells.X.copy()
    cells.write_zarr(path) if path.suffix == ".zarr" else cells.write_h5ad(path)
    cells.X = sp.csr_matrix(cells.X.astype(np.float32))


def sparse_half(path: Path, cells: ad.AnnData) -> None:
    cells.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        values = file["X/data"][:].astype(np.float16)
        del file["X/data"]
        file["X/data"] = values


def slashed(path: Path, cells: ad.AnnData) -> None:
    """Keys with a slash lie in folders; one of the entries is no matrix at all."""
    cells.obsm["X_umap"] = np.zeros((N, 2))
    cells.layers["counts"] = cells.X.copy()
    cells.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file.move("layers/counts", "layers/raw counts/all")
        file["obsm/X_pca/harmony"] = np.zeros((N, 3))
        file["uns/broken"] = 1.0
        file["uns/broken"].attrs["encoding-type"], file["uns/broken"].attrs["encoding-version"] = "odd", "9"


def zipped(path: Path, cells: ad.AnnData, top: str = "") -> None:
    store = path.parent / "in" / top
    cells.write_zarr(store)
    shutil.make_archive(str(path.with_suffix("")), "zip", path.parent / "in")


def loom(path: Path, cells: ad.AnnData) -> None:
    with h5py.File(path, "w") as file:
        file["matrix"] = cells.X.toarray().T
        file.create_dataset("row_attrs/Gene", data=list(cells.var_names), dtype=TEXT)
        file.create_dataset("col_attrs/CellID", data=list(cells.obs_names), dtype=TEXT)
        for name in ("truth", "donor"):
            file.create_dataset(f"col_attrs/{name}", data=[[str(word)] for word in cells.obs[name]], dtype=TEXT)


FILES: dict[str, tuple[str, Callable[[Path, ad.AnnData], None]]] = {
    "categories beside": ("x.h5ad", codes_beside),
    "compound": ("x.h5ad", compound),
    "nullable": ("x.h5ad", nullable),
    "nullable zarr": ("x.zarr", nullable),
    "reserved column": ("x.h5ad", reserved),
    "half": ("x.h5ad", half),
    "half zarr": ("x.zarr", half),
    "sparse half": ("x.h5ad", sparse_half),
    "slashed keys": ("x.h5ad", slashed),
    "zip": ("x.zarr.zip", zipped),
    "zip of a folder": ("x.zip", lambda path, cells: zipped(path, cells, "cells.zarr")),
    "loom": ("x.loom", loom),
}


@pytest.mark.parametrize("kind", FILES)
def test_three_systems_read_it_as_a_file_of_today_and_write_what_they_read(cells, seen, tmp_path, kind):
    name, write = FILES[kind]
    path = tmp_path / name
    write(path, cells)
    columns = ("truth", "donor") if kind == "loom" else ("truth", "donor", "condition")
    same_as_today(seen(path, columns=columns), cells)
    with open_data(str(path)) as data:
        data.adata.obs["label"] = "x"
        out = tmp_path / f"out.{data.output_format}"
        data.write(out, ["label"], {})
    again = ad.read_zarr(out) if out.suffix == ".zarr" else ad.read_h5ad(out)
    assert set(again.obs["label"]) == {"x"}
    assert [str(word) for word in again.obs["truth"]] == [str(word) for word in cells.obs["truth"]]


def test_a_layer_with_a_slash_is_found_by_its_name(cells: ad.AnnData, seen: Any, tmp_path: Path) -> None:
    slashed(tmp_path / "x.h5ad", cells)
    same_as_today(seen(tmp_path / "x.h5ad", "raw counts/all"), cells)
    with open_cells(str(tmp_path / "x.h5ad")) as file:
        assert read_header(file)["layers"] == ["raw counts/all"]
        found = file.read(extras=True)
        assert set(found.obsm) == {"X_umap", "X_pca/harmony"}
        found.layers["raw counts_all"] = np.zeros(found.shape)
        write_cells(found, tmp_path / "y.h5ad")
    again = ad.read_h5ad(tmp_path / "y.h5ad").layers
    assert again["raw counts_all"].sum() == 0 < again["raw counts_all_"].sum()


@pytest.mark.parametrize("where", ["X", "raw", "layer"])
@pytest.mark.parametrize("feature_column", ["feature_types", "feature_type"])
def test_rows_that_are_no_genes_are_left_out_and_told(cells, seen, tmp_path, caplog, where, feature_column):
    tags = np.zeros((N, 3), dtype=np.float32)
    tags[np.arange(N), np.arange(N) % 3] = 20_000
    kinds = ["Antibody Capture", "Multiplexing Capture", "CRISPR Guide Capture"]
    # one of them is called like a gene
    var = pd.DataFrame(
        {feature_column: [*kinds, *["Gene Expression"] * cells.n_vars]}, index=["HTO0", "CD19", "g1", *cells.var_names]
    )
    mixed = ad.AnnData(sp.csr_matrix(sp.hstack([tags, cells.X])), obs=cells.obs, var=var)
    if where == "raw":
        mixed.raw = mixed.copy()
        mixed.X = mixed.X.toarray() - 1.0
    elif where == "layer":
        mixed.layers["layer"] = mixed.X.copy()
    mixed.write_h5ad(tmp_path / "x.h5ad")
    with caplog.at_level(logging.WARNING):
        same_as_today(seen(tmp_path / "x.h5ad", where), cells)
    told = [record.getMessage() for record in caplog.records if "no genes and left out" in record.getMessage()]
    assert len(told) == 4
    assert all("3 rows" in line and all(f"1 {kind}" in line for kind in kinds) for line in told)


def test_genes_of_a_10x_folder_keep_their_names_beside_antibodies_called_so(
    cells: ad.AnnData, seen: Any, tmp_path: Path
) -> None:
    kinds = ["Antibody Capture", *["Gene Expression"] * cells.n_vars]
    features = pd.DataFrame({"id": range(len(kinds)), "name": ["CD19", *cells.var_names], "kind": kinds})
    features.to_csv(tmp_path / "features.tsv.gz", sep="\t", header=False, index=False)
    pd.Series(cells.obs_names).to_csv(tmp_path / "barcodes.tsv.gz", header=False, index=False)
    with gzip.open(tmp_path / "matrix.mtx.gz", "wb") as file:
        mmwrite(file, sp.coo_matrix(sp.hstack([np.full((N, 1), 300), cells.X]).T.astype(int)))
    same_as_today(seen(tmp_path, columns=()), cells)


def test_kinds_of_features_that_mean_other_things_leave_all_genes_and_none_but_others_is_refused() -> None:
    names = ["a", "b"]
    assert gene_rows(pd.DataFrame({"feature_type": ["protein_coding", "lncRNA"]}, index=names), "X") is None
    assert gene_rows(pd.DataFrame({"feature_types": ["gene_expression", None]}, index=names), "X") is None
    with pytest.raises(DataValidationError, match="X holds no genes: its rows are 2 Antibody Capture"):
        gene_rows(pd.DataFrame({"feature_types": ["Antibody Capture"] * 2}, index=names), "X")


def test_antibodies_of_a_ranking_that_the_data_brings_are_no_markers(cells: ad.AnnData, database: Any) -> None:
    cells.var["feature_types"] = ["Antibody Capture", *["Gene Expression"] * (cells.n_vars - 1)]
    names = np.rec.fromarrays(
        [np.array(cells.var_names[:6], dtype=object)] * 5, names=["b", "nk", "cd14", "cd16", "mega"]
    )
    cells.uns["r"] = {"names": names, "params": {"groupby": "truth"}}
    ranking = stored_ranking(cells, "r", cluster_key="truth")
    groups = cells.obs["truth"].cat.remove_unused_categories()
    found = stored_markers(ranking, cells, groups, database, species="human", gene_symbols=None, n_top=9)
    assert all(cells.var_names[0] not in {gene.gene for gene in cluster.genes} for cluster in found)
    assert len(found[0].genes) == 5


def not_finite(cells: ad.AnnData, bad: float) -> ad.AnnData:
    dense = cells.X.toarray()
    dense[3, 5] = bad
    return ad.AnnData(dense, obs=cells.obs, var=cells.var)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_matrix_with_nan_is_named_and_stops_no_other(cells, database, caplog, bad):
    data = not_finite(cells, bad)
    with pytest.raises(DataValidationError, match="no matrix to annotate on: X is not finite: it holds NaN"):
        read_expression(data, database)
    with pytest.raises(DataValidationError, match="X is not finite"):
        read_expression(data, database, layer="X")
    data.layers["velocity"] = data.X.copy()
    data.layers["counts"] = cells.X.copy()
    caplog.clear()
    assert read_expression(data, database).source.startswith("layer 'counts' (counts")
    named = [record.getMessage().split(":")[0] for record in caplog.records if "passed over" in record.getMessage()]
    assert named == ["X is not finite", "layer 'velocity' is not finite"]
    data.raw = cells
    for layer in (None, "raw"):
        assert read_expression(data, database, layer=layer).source.startswith("raw (counts")
    good = cells.copy()
    good.layers["velocity"] = data.X.copy()
    assert read_expression(good, database).source.startswith("X (counts")


IDS = [f"ENSG{i:011d}" for i in range(4000)]


@pytest.mark.parametrize(
    "index",
    [
        lambda names: [f"GRCh38_{name}" for name in names],
        lambda names: [f"GRCh38___{name}" for name in names],
        lambda names: [f"hg19_{name}" for name in names],
        lambda names: [str(i) for i in range(len(names))],
        lambda names: [str(100 + 7 * i) for i in range(len(names))],
    ],
    ids=["genome", "genome of a barnyard", "older genome", "row numbers", "Entrez ids"],
)
@pytest.mark.parametrize("column", ["feature_name", "gene_symbols", "Gene_Name", "_index"])
def test_symbols_are_found_behind_prefixes_and_beside_numbers(cells, seen, tmp_path, index, column):
    stored = ad.AnnData(cells.X, obs=cells.obs, var=pd.DataFrame({"s": list(cells.var_names)}))
    stored.var.index = index(list(cells.var_names))
    stored.write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        var = file["var"]
        if column == "_index":
            var.move("_index", "index")
            var.attrs["_index"] = "index"
        var.move("s", column)
        var.attrs["column-order"] = np.array([column], dtype=object)
    same_as_today(seen(tmp_path / "x.h5ad"), cells)


def test_names_without_symbols_beside_them_are_told_and_of_two_genomes_the_asked_species_counts(database: Any) -> None:
    var = pd.DataFrame(index=["1", "2"])
    assert unique_symbols(var, "x") == ["1", "2"]
    data = ad.AnnData(np.ones((5, 30), dtype=np.float32), var=pd.DataFrame(index=[str(i) for i in range(30)]))
    with pytest.raises(DataValidationError, match=r"the genes of X are numbers \(0, ...\) and no column of var"):
        read_expression(data, database)
    names = ["GRCh38_CD3D", "mm10___Cd3d", "GRCh38_MS4A1"]
    assert without_genome(names, "human") == ["CD3D", "mm10___Cd3d", "MS4A1"]
    assert without_genome(names) == ["CD3D", "Cd3d", "MS4A1"]
    assert without_genome(["mm10_Cd3d"], "human") == ["Cd3d"]
    assert without_genome(["gene_1", "gene_2"]) == ["gene_1", "gene_2"]
    assert unique_symbols(pd.DataFrame({"feature_name": ["A", "A"]}, index=IDS[:2]), "x") == ["A", f"A_{IDS[1]}"]
    assert unique_symbols(pd.DataFrame({"feature_name": ["A", "A"]}, index=IDS[:2]), "x", keep_ensembl=True) == IDS[:2]


def test_log2_data_is_told_by_its_sums_or_by_who_names_the_layer(cells, database, caplog):
    expected = log_normalise(cells.X, dtype=np.float64).toarray()
    logged = cells.copy()
    logged.X = expected / np.log(2)
    found = read_expression(logged, database)
    assert found.source == "X (log-normalised, base 2 turned into e)"
    np.testing.assert_allclose(found.matrix.toarray(), expected, rtol=1e-6)
    unclear = cells.copy()
    unclear.X = 17.0 / expected.max() * expected * np.linspace(0.5, 1.0, N)[:, None]
    unclear.X *= 17.0 / unclear.X.max()
    with pytest.raises(DataValidationError, match=r"X is ambiguous.*name the layer to use"):
        read_expression(unclear, database)
    with caplog.at_level(logging.INFO):
        assert "base 2" in read_expression(unclear, database, layer="X").source
        assert read_expression(logged, database, layer="X").source == found.source
    assert "base 2" in caplog.text


def test_the_format_is_told_by_what_is_in_a_file(cells: ad.AnnData, tmp_path: Path) -> None:
    loom(tmp_path / "x.h5", cells)
    cells.write_h5ad(tmp_path / "y.loom")
    for name, kind in (("x.h5", "loom"), ("y.loom", "h5ad")):
        with open_cells(str(tmp_path / name)) as file:
            assert file.format == kind
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file["matrix"] = np.ones((2, 2))
    with h5py.File(tmp_path / "m.h5mu", "w") as file:
        file["mod/rna/X"] = np.ones((2, 2))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    for name, match in (("z.h5", "no row_attrs"), ("m.h5mu", "MuData file of rna"), ("a.zip", "holds no zarr store")):
        with pytest.raises(DataValidationError, match=match), open_cells(str(tmp_path / name)):
            pass
    with pytest.raises(DataValidationError, match="is no file of cells by its name"):
        check_name("cells.csv")


def test_a_loom_file_is_read_whole_and_needs_gene_names(cells: ad.AnnData, tmp_path: Path) -> None:
    loom(tmp_path / "x.loom", cells)
    with (
        pytest.raises(ConfigurationError, match="convert it to h5ad"),
        open_data(str(tmp_path / "x.loom"), backed=True),
    ):
        pass
    with h5py.File(tmp_path / "x.loom", "r+") as file:
        file.move("row_attrs/Gene", "row_attrs/Chromosome")
    with (
        pytest.raises(DataValidationError, match="no gene names; found Chromosome, expected one of Gene"),
        open_data(str(tmp_path / "x.loom")),
    ):
        pass
