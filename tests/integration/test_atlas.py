"""The atlas on a real server: ingest, retrieval, search."""

import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from gca_core.atlas import Atlas, IngestConfig, IngestReport, open_atlas, reader
from gca_core.atlas.ingest import ingest
from gca_core.atlas.ingest.names import NameResolver
from gca_core.atlas.models import make_group_id
from gca_core.config import Settings
from gca_core.errors import CellRetrievalError, ConfigurationError, DataValidationError, StoreError
from gca_core.llm.embeddings import HashedTextEmbeddings
from gca_core.matrix.normalise import log_normalise
from gca_core.store.connect import connect
from tests.helpers.atlas_cells import CELL_TYPES, GENES, in_python, ingest_config, make_cells

TakeIn = Callable[[IngestConfig], IngestReport]
HOSTILE = "'; drop table cells; --"


@pytest.fixture(scope="module")
def cells_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    make_cells().write_h5ad(path)
    return path


@pytest.fixture
def small(cells_file: Path, take_in: TakeIn) -> IngestReport:
    return take_in(ingest_config(cells_file, "small"))


def contents(atlas: Atlas, dataset: str) -> tuple[object, ...]:
    groups = atlas.groups(dataset=dataset)
    means, genes = atlas.group_means([group.group_id for group in groups])
    return [info for info in atlas.datasets() if info.dataset == dataset], groups, means.tobytes(), genes


def test_the_report_says_what_was_taken_and_what_was_left_out(small: IngestReport) -> None:
    assert (small.n_cells_read, small.n_cells, small.n_unlabelled) == (240, 225, 10)
    assert small.unmapped_cell_types == {"mystery": 5}
    assert small.perturbations == ["ctrl", "interferon beta"]
    assert small.n_groups == 11
    assert small.n_control_groups == 5


def test_each_perturbed_group_knows_its_control(small: IngestReport, atlas: Atlas) -> None:
    by_id = {group.group_id: group for group in atlas.groups(dataset="small")}
    perturbed = [group for group in by_id.values() if not group.is_control]
    assert len(perturbed) == 6
    for group in perturbed:
        control = by_id[group.control_group_id or ""]
        assert control.is_control
        assert control.cell_type_id == group.cell_type_id
        assert group.group_id == make_group_id("small", "interferon beta", group.cell_type_id, group.donor)
        # the donor d2 has no NK controls
        alone = (group.cell_type, group.donor) == ("NK", "d2")
        assert (group.control_match, control.donor) == (("type", "d1") if alone else ("type_and_donor", group.donor))


def test_materialised_cells_are_those_of_the_file(small: IngestReport, atlas: Atlas, cells_file: Path) -> None:
    source = ad.read_h5ad(cells_file)
    groups = atlas.groups(dataset="small")
    found = atlas.materialise([group.group_id for group in groups])
    assert found.shape == (225, len(GENES))
    assert list(found.var_names) == GENES
    assert sp.isspmatrix_csr(found.X)
    expected = source[found.obs["cell_name"].tolist()]
    assert (found.X != expected.X).nnz == 0
    assert found.obs["donor"].tolist() == expected.obs["donor"].tolist()
    assert found.obs["is_control"].tolist() == (expected.obs["condition"] == "ctrl").tolist()
    assert found.obs["cell_type"].tolist() == expected.obs["cell_type"].tolist()
    assert found.obs["cell_group_id"].value_counts().to_dict() == {group.group_id: group.n_cells for group in groups}


def test_group_means_are_those_of_the_cells(small: IngestReport, atlas: Atlas) -> None:
    groups = atlas.groups(dataset="small")[::-1]
    means, genes = atlas.group_means([group.group_id for group in groups])
    assert genes == GENES == atlas.genes("small")
    for row, group in zip(means, groups, strict=True):
        cells = atlas.materialise([group.group_id])
        expected = np.asarray(log_normalise(cells.X, dtype=np.float64).mean(axis=0)).ravel()
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_a_cell_budget_is_shared_and_repeatable(small: IngestReport, atlas: Atlas) -> None:
    ids = [group.group_id for group in atlas.groups(dataset="small")[:4]]
    one, again, other = (atlas.materialise(ids, max_cells=20, seed=seed) for seed in (3, 3, 4))
    assert one.n_obs == 20
    assert one.obs["cell_group_id"].value_counts().tolist() == [5, 5, 5, 5]
    assert one.obs_names.is_unique
    assert list(one.obs_names) == list(again.obs_names)
    assert (one.X != again.X).nnz == 0
    assert list(one.obs_names) != list(other.obs_names)
    with pytest.raises(CellRetrievalError, match="at least one cell per group"):
        atlas.materialise(ids, max_cells=3)


def test_ingesting_the_same_again_changes_nothing(small, atlas, take_in, cells_file):
    before = contents(atlas, "small")
    again = take_in(ingest_config(cells_file, "small"))
    assert again.unchanged
    assert again.model_copy(update={"unchanged": False, "seconds": 0}) == small.model_copy(
        update={"unchanged": False, "seconds": 0}
    )
    assert contents(atlas, "small") == before


def test_other_content_replaces_a_dataset(take_in: TakeIn, atlas: Atlas, tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    stores = []
    for seed in (1, 2, 3):
        make_cells(seed, n_cells=200).write_h5ad(path)
        stores.append(Path(take_in(ingest_config(path, "replaced")).store_uri.removeprefix("file://")))
    [info] = [info for info in atlas.datasets() if info.dataset == "replaced"]
    assert info.n_cells == 185
    assert info.store_uri.endswith(stores[-1].name)
    assert [store.exists() for store in stores] == [False, True, True]
    groups = atlas.groups(dataset="replaced")
    assert sum(group.n_cells for group in groups) == 185
    with connect(atlas.dsn) as connection:
        query = "select count(*) from cells where dataset = 'replaced'"
        assert connection.execute(query).fetchone() == (185,)


def test_a_reader_whose_dataset_is_replaced_meanwhile_gets_the_old_cells(take_in, atlas, tmp_path, monkeypatch):
    path = tmp_path / "cells.h5ad"
    make_cells(1).write_h5ad(path)
    take_in(ingest_config(path, "moving"))
    ids = [group.group_id for group in atlas.groups(dataset="moving")]
    before = atlas.materialise(ids)
    open_stores = reader._open_stores

    def replace_first(*args: object) -> object:
        make_cells(2).write_h5ad(path)
        take_in(ingest_config(path, "moving"))
        return open_stores(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(reader, "_open_stores", replace_first)
    during = atlas.materialise(ids)
    monkeypatch.undo()
    assert (during.X != before.X).nnz == 0
    assert during.obs["cell_name"].tolist() == before.obs["cell_name"].tolist()
    after = atlas.materialise([group.group_id for group in atlas.groups(dataset="moving")])
    assert after.obs["cell_name"].tolist() != before.obs["cell_name"].tolist()


def test_a_lost_expression_store_is_made_again(take_in: TakeIn, atlas: Atlas, cells_file: Path) -> None:
    config = ingest_config(cells_file, "lost")
    report = take_in(config)
    shutil.rmtree(report.store_uri.removeprefix("file://"))
    with pytest.raises(StoreError, match="ingest the dataset again"):
        atlas.genes("lost")
    assert not take_in(config).unchanged
    assert atlas.genes("lost") == GENES


def test_hostile_names_are_only_names(take_in: TakeIn, atlas: Atlas, tmp_path: Path) -> None:
    cells = make_cells()
    cells.obs["donor"] = HOSTILE
    path = tmp_path / "hostile.h5ad"
    cells.write_h5ad(path)
    report = take_in(ingest_config(path, HOSTILE, perturbation_names={"stim": HOSTILE}))
    found = atlas.groups(dataset=HOSTILE, perturbation=HOSTILE)
    assert [group.donor for group in found] == [HOSTILE] * 3
    assert atlas.perturbations(HOSTILE) == [HOSTILE]
    cells = atlas.materialise([found[0].group_id])
    assert set(cells.obs["perturbation"]) == {HOSTILE}
    assert HOSTILE not in report.store_uri
    with connect(atlas.dsn) as connection:
        assert connection.execute("select count(*) > 0 from cells").fetchone() == (True,)
    with pytest.raises(CellRetrievalError, match="drop table"):
        atlas.get_groups([HOSTILE])


def test_search_is_exact_and_ordered(small: IngestReport, atlas: Atlas, agent_atlas: Atlas) -> None:
    embeddings = HashedTextEmbeddings()
    query = embeddings.embed_query("interferon-beta")
    hits = agent_atlas.semantic(query, kind="perturbation", limit=50)
    assert hits[0].id == "interferon beta"
    expected = sorted((1 - float(np.dot(query, embeddings.embed_query(hit.id))), hit.id) for hit in hits)
    assert [hit.id for hit in hits] == [name for _, name in expected]
    assert atlas.semantic(query, kind="perturbation", limit=50) == hits
    assert [hit.label for hit in atlas.semantic(embeddings.embed_query("B"), kind="cell_type", limit=1)] == ["B"]


def test_what_is_not_there_is_named(small: IngestReport, atlas: Atlas) -> None:
    with pytest.raises(CellRetrievalError, match="g-000000000000"):
        atlas.materialise(["g-000000000000"])
    with pytest.raises(CellRetrievalError, match=r"no dataset 'nothing'.*small"):
        atlas.genes("nothing")
    with pytest.raises(CellRetrievalError, match="no groups were asked for"):
        atlas.group_means([])
    assert atlas.groups(perturbation="no such thing") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perturbation_column": "treatment"}, "no perturbation column 'treatment' in obs; found 'condition'"),
        ({"cell_type_column": "label"}, "cell type column 'label'"),
        ({"donor_column": "patient"}, "donor column 'patient'"),
        ({"control_value": "vehicle"}, "'vehicle' is not a value of 'condition'.*'ctrl', 'stim'"),
        ({"perturbation_names": {"stimm": "x"}}, "'stimm' is not a value"),
        ({"perturbation_names": {"stim": "ctrl"}}, "would get one name"),
        ({"layer": "counts"}, "no layer 'counts'"),
        ({"input_uri": "/no/such/file.h5ad"}, "does not exist"),
    ],
)
def test_input_that_does_not_fit_is_refused_and_nothing_written(take_in, atlas, cells_file, changes, message):
    with pytest.raises(DataValidationError, match=message):
        take_in(ingest_config(cells_file, "refused", **changes))
    assert "refused" not in {info.dataset for info in atlas.datasets()}
    assert not (Path(atlas.store_root_uri.removeprefix("file://")) / "refused").exists()


def test_log_normalised_data_is_refused_and_the_counts_are_pointed_to(take_in, atlas, tmp_path):
    cells = make_cells()
    cells.layers["counts"] = cells.X.copy()
    cells.X = log_normalise(cells.X)
    path = tmp_path / "logged.h5ad"
    cells.write_h5ad(path)
    with pytest.raises(DataValidationError, match=r"layers/counts"):
        take_in(ingest_config(path, "logged"))
    assert take_in(ingest_config(path, "logged", layer="counts")).n_cells == 225


def test_counts_that_go_wrong_late_in_the_file_are_refused_too(take_in: TakeIn, atlas: Atlas, tmp_path: Path) -> None:
    cells = make_cells(n_cells=1200)
    cells.X.data[-1] = 0.5
    path = tmp_path / "late.h5ad"
    cells.write_h5ad(path)
    with pytest.raises(DataValidationError):
        take_in(ingest_config(path, "late"))
    assert "late" not in {info.dataset for info in atlas.datasets()}


@pytest.mark.parametrize("layout", ["dense", "csc"])
def test_dense_and_column_wise_files_give_the_same(take_in: TakeIn, atlas: Atlas, tmp_path: Path, layout: str) -> None:
    cells = make_cells()
    cells.X = cells.X.toarray() if layout == "dense" else sp.csc_matrix(cells.X)
    path = tmp_path / f"{layout}.h5ad"
    cells.write_h5ad(path)
    take_in(ingest_config(path, layout))
    found = atlas.materialise([group.group_id for group in atlas.groups(dataset=layout)])
    expected = make_cells()[found.obs["cell_name"].tolist()].X
    assert (expected != found.X).nnz == 0


def test_given_ontology_ids_are_used_and_checked(take_in: TakeIn, atlas: Atlas, tmp_path: Path) -> None:
    cells = make_cells()
    cells.obs["cl"] = cells.obs["cell_type"].map(CELL_TYPES | {"mystery": "CL:0000738"})
    path = tmp_path / "ids.h5ad"
    cells.write_h5ad(path)
    report = take_in(ingest_config(path, "ids", cell_type_id_column="cl"))
    assert (report.unmapped_cell_types, report.n_cells) == ({}, 230)
    assert ("CL:0000738", "mystery") in atlas.cell_types("ids")
    cells.obs["cl"] = cells.obs["cell_type"].astype(object).map(CELL_TYPES | {"mystery": "leukocyte"})
    cells.write_h5ad(path)
    with pytest.raises(DataValidationError, match=r"'leukocyte'.*Cell Ontology ids"):
        take_in(ingest_config(path, "ids", cell_type_id_column="cl"))


def test_a_files_own_word_never_renames_what_other_datasets_hold(admin_atlas, atlas, tmp_path):
    embed, ids = HashedTextEmbeddings().embed_documents, {"CL:0000775": "neutrophil", "CL:0000771": "eosinophil"}
    words = {"granulocyte one": "CL:0000775", "granulocyte two": "CL:0000771"}
    path = tmp_path / "cells.h5ad"

    def ingested(dataset: str, labels: tuple[str, str], perturbation: str, **options: object) -> IngestReport:
        cells = make_cells()
        cells.obs["cell_type"] = cells.obs["cell_type"].astype(object).replace({"CD4 T": labels[0], "B": labels[1]})
        cells.write_h5ad(path)
        config = ingest_config(path, dataset, perturbation_names={"stim": perturbation})
        return ingest(config, admin_atlas, embed=embed, **options)  # type: ignore[arg-type]

    def shown(dataset: str) -> set[str]:
        hits = atlas.semantic(embed(["?"])[0], dataset=dataset, is_control=False)
        assert {group.cell_type for group in atlas.groups(dataset=dataset)} == {x[1] for x in atlas.cell_types(dataset)}
        return {hit.label for hit in hits}

    own = ("granulocyte one", "granulocyte two")
    ingested("labelled first", own, "TNF", resolver=NameResolver(words.get))
    assert shown("labelled first") == {"TNF in granulocyte one", "TNF in granulocyte two"}
    other = {"gr. 1": "CL:0000775", "gr. 2": "CL:0000771"}
    second = ingested("labelled second", ("gr. 1", "gr. 2"), "IL-6", resolver=NameResolver(other.get))
    assert second.cell_types == {"CL:0000775": "granulocyte one", "CL:0000771": "granulocyte two"}
    assert shown("labelled second") == {"IL-6 in granulocyte one", "IL-6 in granulocyte two"}
    assert atlas.find_names("gr. 2", kind="cell_type")[0].id == "CL:0000771"
    # the ontology's word goes before the files' and reaches every dataset and its texts
    third = ingested("labelled third", own, "TNF", resolver=NameResolver(words.get, label_cell_type=ids.__getitem__))
    assert third.cell_types == ids
    assert shown("labelled first") == {"TNF in neutrophil", "TNF in eosinophil"}
    assert shown("labelled second") == {"IL-6 in neutrophil", "IL-6 in eosinophil"}
    ingested("labelled second", ("gr. 1", "gr. 2"), "IL-1", resolver=NameResolver(other.get))
    assert {x[1] for name in ("first", "second") for x in atlas.cell_types(f"labelled {name}")} == {*ids.values()}


def test_datasets_with_other_genes_meet_in_those_they_share(take_in: TakeIn, atlas: Atlas, tmp_path: Path) -> None:
    first, second = tmp_path / "first.h5ad", tmp_path / "second.h5ad"
    make_cells().write_h5ad(first)
    make_cells(5)[:, GENES[:9:-1]].copy().write_h5ad(second)
    take_in(ingest_config(first, "first"))
    take_in(ingest_config(second, "second"))
    ids = [atlas.groups(dataset=name)[0].group_id for name in ("first", "second")]
    means, genes = atlas.group_means(ids)
    cells = atlas.materialise(ids)
    assert genes == list(cells.var_names) == GENES[10:]
    alone, alone_genes = atlas.group_means(ids[1:])
    assert alone_genes == GENES[:9:-1]
    np.testing.assert_array_equal(means[1], alone[0][::-1])


def test_two_ingests_of_the_same_at_once_agree(admin_atlas: Atlas, atlas: Atlas, cells_file: Path) -> None:
    embed, config = HashedTextEmbeddings().embed_documents, ingest_config(cells_file, "twice")
    reports: list[IngestReport] = []

    def run() -> None:
        reports.append(ingest(config, admin_atlas, embed=embed, resolver=NameResolver(CELL_TYPES.get)))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.unchanged for report in reports) == [False, True]
    assert len({report.store_uri for report in reports}) == 1


@pytest.mark.parametrize("moment", ["write_groups", pytest.param("_copy_cells", marks=pytest.mark.slow)])
def test_a_killed_ingest_leaves_the_state_before(take_in, atlas, settings, tmp_path, moment):
    path = tmp_path / "cells.h5ad"
    make_cells(1).write_h5ad(path)
    take_in(ingest_config(path, "killed"))
    before = contents(atlas, "killed")
    make_cells(2).write_h5ad(path)
    config = ingest_config(path, "killed")
    code = f"""
import os, signal, sys
from gca_core.atlas import IngestConfig, open_atlas
from gca_core.atlas.ingest import run as module
from gca_core.atlas.ingest import rows, store
from gca_core.atlas.ingest.names import NameResolver
from gca_core.config import load_settings
from gca_core.llm.embeddings import HashedTextEmbeddings
def die(*args, **named): os.kill(os.getpid(), signal.SIGKILL)
setattr(store if {moment!r} == "write_groups" else rows, {moment!r}, die)
atlas = open_atlas(load_settings(home=sys.argv[1]), role="admin")
table = {CELL_TYPES!r}
module.ingest(IngestConfig.model_validate_json(sys.argv[2]), atlas, embed=HashedTextEmbeddings().embed_documents,
              resolver=NameResolver(table.get))
"""
    process = in_python(code, str(settings.home), config.model_dump_json())
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    assert contents(atlas, "killed") == before
    assert not take_in(config).unchanged
    assert contents(atlas, "killed") != before
    folder = Path(atlas.store_root_uri.removeprefix("file://")) / "killed"
    assert not list(folder.glob(".*"))


def test_vectors_of_two_models_are_not_mixed(small: IngestReport, admin_atlas: Atlas, cells_file: Path) -> None:
    resolver = NameResolver(CELL_TYPES.get)
    embed, short = HashedTextEmbeddings().embed_documents, HashedTextEmbeddings(8).embed_documents
    with pytest.raises(ConfigurationError, match="hashed-text-1536"):
        config = ingest_config(cells_file, "other-model")
        ingest(config, admin_atlas, embed=embed, resolver=resolver, embedding_model="another")
    with pytest.raises(ConfigurationError, match="1536"):
        config = ingest_config(cells_file, "short", perturbation_names={"stim": "never embedded before"})
        ingest(config, admin_atlas, embed=short, resolver=resolver)


def test_the_app_role_may_not_ingest(atlas: Atlas, cells_file: Path) -> None:
    embed = HashedTextEmbeddings().embed_documents
    with pytest.raises(StoreError, match="permission denied"):
        ingest(ingest_config(cells_file, "by-app"), atlas, embed=embed, resolver=NameResolver(CELL_TYPES.get))
    assert "by-app" not in {info.dataset for info in atlas.datasets()}


@pytest.fixture
def agent_atlas(settings: Settings) -> Atlas:
    return open_atlas(settings, role="agent")
