"""``gca db`` and ``gca atlas`` as users type them."""

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import pytest
from typer.testing import CliRunner

from gca_core.cli.haystack import atlas as atlas_commands
from gca_core.cli.tools import db as db_commands
from gca_core.errors import CellRetrievalError, ConfigurationError, DataValidationError, StoreError
from tests.helpers.atlas_cells import make_cells

pytestmark = pytest.mark.usefixtures("quiet_log")
Say = Callable[..., str]


@pytest.fixture
def db(gca_home: Path, embedded_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Say:
    monkeypatch.setenv("GCA_HOME", str(gca_home))
    return runner(db_commands.app)


@pytest.fixture
def atlas_command(db: Say) -> Say:
    return runner(atlas_commands.app)


def runner(app: object) -> Say:
    def say(*args: str) -> str:
        done = CliRunner().invoke(app, args, env={"COLUMNS": "200"}, catch_exceptions=False)  # type: ignore[arg-type]
        assert done.exit_code == 0, done.output
        return done.output

    return say


OPTIONS = ("--perturbation-column", "condition", "--control-value", "ctrl", "--cell-type-column", "cell_type")


def test_the_server_is_shown_and_started(db: Say, gca_home: Path) -> None:
    shown = json.loads(db("status", "--json"))
    [mine] = [server for server in shown if server["home"] == str(gca_home.resolve())]
    assert mine["running"]
    assert f"pid {mine['pid']}" in db("start")
    table = db("status")
    assert str(mine["pid"]) in table
    assert str(gca_home.resolve()) in table


def test_a_home_without_a_server_is_shown_and_nothing_is_made(db: Say, tmp_path: Path) -> None:
    home = tmp_path / "unused"
    assert "not set up" in db("status", "--home", str(home))
    assert "not running" in db("stop", "--home", str(home))
    assert "there is no embedded database" in db("remove", "--yes", "--home", str(home))
    assert not home.exists()


def test_a_file_is_ingested_and_shown(atlas_command: Say, tmp_path: Path) -> None:
    cells = make_cells()
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object).replace({"CD4 T": "CD4+ T cells", "B": "B cells"})
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    assert "schema version" in atlas_command("init")
    names = ("--donor-column", "donor", "--perturbation-name", "stim=interferon beta")
    said = atlas_command("ingest", str(path), "--dataset", "typed", *OPTIONS, *names)
    assert "ingested: 225 of 240 cells, 11 groups, typed" in said
    assert "10 cells without a cell type" in said
    assert "5 cells labelled 'mystery'" in said
    again = json.loads(atlas_command("ingest", str(path), "--dataset", "typed", *OPTIONS, *names, "--json"))
    assert again["unchanged"]
    assert again["cell_types"]["CL:0000236"] == "B cell"
    shown = json.loads(atlas_command("status", "--json"))
    assert "password" not in json.dumps(shown)
    assert "typed" in [info["dataset"] for info in shown["datasets"]]
    assert "interferon beta" in atlas_command("status")


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as users have them, with labels of the field."""
    cells = make_cells(3)
    names = {"CD4 T": "CD4+ T cells", "B": "B cells"}
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object).replace(names)
    cells.obs["condition"] = cells.obs["condition"].replace({"stim": "IFN-beta"})
    path = tmp_path_factory.mktemp("typed") / "cells.h5ad"
    cells.write_h5ad(path)
    return path


def test_groups_are_listed_searched_and_written(atlas_command: Say, typed: Path, tmp_path: Path) -> None:
    said = atlas_command("ingest", str(typed), "--dataset", "used", *OPTIONS, "--donor-column", "donor")
    assert "ingested" in said
    listed = json.loads(
        atlas_command("list", "--dataset", "used", "--perturbation", "ifnb1", "--cell-type", "lymphocyte", "--json")
    )
    # the catalogue's name, a synonym of it, and a type above those of the groups
    assert {group["perturbation"] for group in listed} == {"interferon beta"}
    assert {group["cell_type_id"] for group in listed} >= {"CL:0000236", "CL:0000624"}
    assert listed[0]["group_id"] in atlas_command("list", "--dataset", "used", "--perturbed")
    assert "no such groups" in atlas_command("list", "--dataset", "nothing")

    found = json.loads(atlas_command("search", "interferon beta in B cell", "--dataset", "used", "--json"))
    assert found["hits"][0]["label"] == "interferon beta in B cell"
    assert found["similarity_threshold"] > 0
    table = atlas_command("search", "IFN-β", "--kind", "perturbation", "--cell-type", "B cells")
    assert "interferon beta" in table
    assert "IFN-β" in table or "1.00" in table

    output = tmp_path / "control.h5ad"
    ids = [group["group_id"] for group in listed][:2]
    options = ("--output", str(output), "--kind", "control", "--cell-budget", "10")
    assert "wrote 10 cells x 40 genes" in atlas_command("materialise", *ids, *options)
    assert ad.read_h5ad(output).obs["is_control"].all()


def test_a_dataset_is_dropped_on_confirmation_only(atlas_command: Say, typed: Path) -> None:
    atlas_command("ingest", str(typed), "--dataset", "unloved", *OPTIONS)
    declined = CliRunner().invoke(atlas_commands.app, ["drop", "unloved"], input="n\n")
    assert declined.exit_code == 1
    assert "unloved" in atlas_command("status")
    assert "removed: unloved" in atlas_command("drop", "unloved", "--yes")
    assert "unloved" not in atlas_command("status")
    with pytest.raises(CellRetrievalError, match="no dataset 'unloved'"):
        atlas_command("drop", "unloved", "--yes")


def test_options_that_do_not_fit_are_named(atlas_command: Say, typed: Path) -> None:
    with pytest.raises(ConfigurationError, match="cell_type_column is missing"):
        atlas_command("ingest", str(typed), "--dataset", "x")
    with pytest.raises(ConfigurationError, match="give both, or neither"):
        atlas_command("ingest", str(typed), "--dataset", "x", "--control-value", "a", "--cell-type-column", "cell_type")
    with pytest.raises(ConfigurationError, match="preset: Input should be"):
        atlas_command("ingest", str(typed), "--dataset", "x", "--preset", "other")
    with pytest.raises(DataValidationError, match="no column 'cytokine'"):
        atlas_command("ingest", str(typed), "--dataset", "x", "--preset", "parse_pbmc")
    with pytest.raises(CellRetrievalError, match="not a known cell type; names like it"):
        atlas_command("list", "--cell-type", "B cellz of the moon")


def test_what_is_wrong_is_said_before_anything_starts(atlas_command, monkeypatch, tmp_path):
    monkeypatch.setenv("GCA_HOME", str(tmp_path / "unused"))
    with pytest.raises(DataValidationError, match="does not exist"):
        atlas_command("ingest", "/no/such.h5ad", "--dataset", "x", *OPTIONS)
    done = CliRunner().invoke(
        atlas_commands.app, ["ingest", "x.h5ad", "--dataset", "x", *OPTIONS, "--perturbation-name", "stim"]
    )
    assert done.exit_code == 2
    assert "not VALUE=NAME" in done.output.replace("\n", " ")
    monkeypatch.setenv("GCA_PROFILE", "prod")
    with pytest.raises(ConfigurationError, match="GCA_ATLAS_DSN"):
        atlas_command("status")
    monkeypatch.setenv("GCA_ATLAS_DSN", "postgresql://me:hush@127.0.0.1:1/gca")
    with pytest.raises(StoreError, match="can't be reached"):
        atlas_command("status")
    assert not (tmp_path / "unused").exists()
