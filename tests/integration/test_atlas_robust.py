"""Processes that are killed or come at the same time, and roles that try too much."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import psycopg
import pytest

from gca_core.atlas import Atlas, IngestConfig, IngestReport, open_atlas
from gca_core.atlas.ingest.names import NameResolver
from gca_core.atlas.remove import drop_dataset
from gca_core.config import Settings
from gca_core.errors import CellRetrievalError, StoreError
from gca_core.io import as_path
from gca_core.store.connect import connect
from tests.helpers.atlas_cells import CELL_TYPES, in_python, ingest_config, make_cells

TakeIn = Callable[[IngestConfig], IngestReport]
HOSTILE = "'; drop table cells; --"
WRITES = (
    "insert into cells values ('x', 0, 'x', 'x', 1, 1, 0)",
    "update group_texts set text = 'x'",
    "delete from synonyms",
    "insert into tissues values ('UBERON:0000178', 'x')",
    "drop table cells",
    "truncate embedding_models",
    "create index mine on cell_groups (n_cells)",
)
PROGRAM = f"""
import sys, time
from gca_core.atlas import IngestConfig, open_atlas
from gca_core.atlas.ingest import checkpoint as progress
from gca_core.atlas.ingest import source
from gca_core.atlas.ingest.names import NameResolver
from gca_core.atlas.ingest import ingest
from gca_core.config import load_settings
from gca_core.llm.embeddings import HashedTextEmbeddings
source.BLOCK_ROWS = 20
progress.SAVE_SECONDS = 0.0
advance = progress.IngestCheckpoint.advance
def slowly(self, row):
    advance(self, row)
    print(row, flush=True)
    time.sleep(float(sys.argv[3]))
progress.IngestCheckpoint.advance = slowly
atlas = open_atlas(load_settings(home=sys.argv[1]), role="admin")
report = ingest(IngestConfig.model_validate_json(sys.argv[2]), atlas, embed=HashedTextEmbeddings().embed_documents,
                resolver=NameResolver({CELL_TYPES!r}.get))
print(report.model_dump_json())
"""


@pytest.fixture
def cells_file(tmp_path: Path) -> Path:
    path = tmp_path / "cells.h5ad"
    make_cells(11).write_h5ad(path)
    return path


@pytest.fixture
def agent(settings: Settings) -> Atlas:
    return open_atlas(settings, role="agent")


def rows_of(atlas: Atlas, dataset: str) -> list[tuple[object, ...]]:
    query = (
        "select c.store_row, c.cell_name, g.perturbation, g.cell_type_id, g.donor, c.n_counts, c.n_genes "
        "from cells c join cell_groups g using (group_id) where c.dataset = %s order by 1"
    )
    with connect(atlas.dsn) as connection:
        return connection.execute(query, [dataset]).fetchall()


def stored(report: IngestReport) -> tuple[ad.AnnData, ad.AnnData]:
    folder = as_path(report.store_uri)
    return ad.read_h5ad(str(folder / "cells.h5ad")), ad.read_h5ad(str(folder / "groups.h5ad"))


def test_a_killed_ingest_goes_on_and_ends_as_if_nothing_had_been(take_in, atlas, settings, cells_file):
    config = ingest_config(cells_file, "resumed")
    process = in_python(PROGRAM, str(settings.home), config.model_dump_json(), "0.2")
    done = [int(process.stdout.readline()) for _ in range(3)][-1]
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    folder = as_path(atlas.store_root_uri) / "resumed"
    assert len(list(Path(str(folder)).glob(".ingest-*"))) == 1
    resumed = take_in(config)
    assert done <= resumed.resumed_at < 240
    assert not list(Path(str(folder)).glob(".*"))
    whole = take_in(ingest_config(cells_file, "whole"))
    assert whole.resumed_at == 0

    def without_group(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
        return sorted((row[1:] for row in rows), key=str)

    assert without_group(rows_of(atlas, "resumed")) == without_group(rows_of(atlas, "whole"))
    (a_cells, a_groups), (b_cells, b_groups) = stored(resumed), stored(whole)
    b_cells = b_cells[[list(b_cells.obs["cell_name"]).index(name) for name in a_cells.obs["cell_name"]]]
    assert (a_cells.X != b_cells.X).nnz == 0
    np.testing.assert_array_equal(a_cells.obs["n_counts"], b_cells.obs["n_counts"])
    np.testing.assert_allclose(a_groups.X.sum(axis=0), b_groups.X.sum(axis=0), rtol=1e-5)


@pytest.mark.slow
def test_two_processes_with_the_same_file_end_with_one_dataset(atlas, settings, cells_file):
    config = ingest_config(cells_file, "raced").model_dump_json()
    both = [in_python(PROGRAM, str(settings.home), config, "0.01") for _ in range(2)]
    ended = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], [err for _, err in ended]
    reports = [IngestReport.model_validate_json(out.splitlines()[-1]) for out, _ in ended]
    assert sorted(report.unchanged for report in reports) == [False, True]
    assert len({report.store_uri for report in reports}) == 1
    assert len(rows_of(atlas, "raced")) == 225


def test_tables_lost_after_the_store_was_written_are_made_from_it(take_in, atlas, admin_dsn, cells_file):
    config = ingest_config(cells_file, "half")
    report = take_in(config)
    before = rows_of(atlas, "half")
    with connect(admin_dsn) as connection:
        connection.execute("delete from cells where dataset = 'half'")
        connection.execute("delete from datasets where dataset = 'half'")
    again = take_in(config)
    assert again.store_uri == report.store_uri
    assert again.resumed_at == 240
    assert rows_of(atlas, "half") == before


@pytest.fixture
def hostile_file(tmp_path: Path) -> Path:
    cells = make_cells(12)
    for column, old in (("condition", "stim"), ("cell_type", "NK"), ("donor", "d2")):
        cells.obs[column] = cells.obs[column].astype(object).replace({old: HOSTILE})
    cells.obs_names = [f"{HOSTILE}\t\\N\n{i}" for i in range(cells.n_obs)]
    path = tmp_path / "hostile.h5ad"
    cells.write_h5ad(path)
    return path


def test_hostile_names_are_only_names_everywhere(admin_atlas, atlas, agent, hostile_file):
    from gca_core.atlas.ingest import ingest
    from gca_core.llm.embeddings import HashedTextEmbeddings

    embeddings = HashedTextEmbeddings()
    types = CELL_TYPES | {HOSTILE: "CL:0000451"}
    config = ingest_config(hostile_file, HOSTILE, perturbation_names={})
    report = ingest(config, admin_atlas, embed=embeddings.embed_documents, resolver=NameResolver(types.get))
    assert report.perturbations == [HOSTILE, "ctrl"]
    assert ("CL:0000451", HOSTILE) in atlas.cell_types(HOSTILE)
    names = {str(row[1]) for row in rows_of(atlas, HOSTILE)}
    assert f"{HOSTILE}\t\\N\n0" in names
    assert agent.find_names(HOSTILE, kind="perturbation")[0].id == HOSTILE
    hits = agent.semantic(embeddings.embed_query(HOSTILE), perturbations=[HOSTILE], dataset=HOSTILE, limit=3)
    assert len(hits) == 3
    assert agent.groups(dataset=HOSTILE, perturbation=HOSTILE, cell_type_ids=[HOSTILE]) == []
    assert drop_dataset(admin_atlas, HOSTILE)
    assert HOSTILE not in {info.dataset for info in atlas.datasets()}
    assert atlas.find_names(HOSTILE, kind="perturbation", min_similarity=1.0) == []
    with connect(atlas.dsn) as connection:
        assert connection.execute("select to_regclass('cells') is not null").fetchone() == (True,)


@pytest.mark.parametrize("statement", WRITES)
def test_neither_app_nor_agent_may_write_the_atlas(embedded_dsn: str, agent_dsn: str, statement: str) -> None:
    for dsn in (embedded_dsn, agent_dsn):
        with connect(dsn) as connection, pytest.raises(psycopg.Error) as refused:
            connection.execute(statement.encode())
        allowed = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)
        assert isinstance(refused.value, allowed)


def test_the_agent_searches_within_its_limits(agent: Atlas, agent_dsn: str) -> None:
    from gca_core.store.pool import pooled

    assert isinstance(agent.semantic([1.0, *[0.0] * 1535]), list)
    with pooled(agent_dsn) as connection:
        assert connection.execute("show statement_timeout").fetchone() == ("30s",)
        assert connection.execute("show work_mem").fetchone() == ("256MB",)
        connection.execute("set local statement_timeout = 50")
        began = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(5)")
        assert time.monotonic() - began < 3


def test_a_drop_removes_what_only_this_dataset_had(take_in, admin_atlas, atlas, cells_file):
    kept = take_in(ingest_config(cells_file, "kept"))
    gone = take_in(ingest_config(cells_file, "gone", perturbation_names={"stim": "only here"}))
    [removed] = drop_dataset(admin_atlas, "gone")
    assert not as_path(gone.store_uri).exists()
    assert gone.store_uri.startswith(removed)
    assert as_path(kept.store_uri).exists()
    assert "only here" not in atlas.perturbations()
    assert atlas.find_names("only here", min_similarity=1.0) == []
    assert rows_of(atlas, "gone") == []
    assert atlas.groups(dataset="kept")
    with pytest.raises(CellRetrievalError, match="no dataset 'gone'"):
        drop_dataset(admin_atlas, "gone")


def test_a_drop_never_follows_a_store_out_of_its_folder(take_in, admin_atlas, atlas, admin_dsn, cells_file, tmp_path):
    outside = tmp_path / "not the atlas"
    outside.mkdir()
    (outside / "precious.txt").write_text("keep me")
    take_in(ingest_config(cells_file, "moved"))
    with connect(admin_dsn) as connection:
        connection.execute("update datasets set store_uri = %s where dataset = 'moved'", [outside.as_uri()])
    drop_dataset(admin_atlas, "moved")
    assert "moved" not in {info.dataset for info in atlas.datasets()}
    assert (outside / "precious.txt").read_text() == "keep me"


def test_the_app_role_may_not_drop(take_in: TakeIn, atlas: Atlas, cells_file: Path) -> None:
    report = take_in(ingest_config(cells_file, "stays"))
    with pytest.raises(StoreError, match="permission denied"):
        drop_dataset(atlas, "stays")
    assert as_path(report.store_uri).exists()
    assert atlas.groups(dataset="stays")
