"""One writer at a time."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gca_core.cli.main import app
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.locks import HIDDEN, check_earlier, sole_writer
from tests.helpers.latent_counts import counts_with_groups


def test_a_folder_has_one_writer_and_goes_again_if_nothing_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    refused = pytest.raises(DataValidationError, match=r"already running: process \d+ on .* since .* UTC")
    with sole_writer(folder), refused, sole_writer(folder):
        raise AssertionError("two were in at once")
    assert not folder.exists()
    with sole_writer(folder.as_uri()):
        (folder / "result").touch()
    assert {path.name for path in folder.iterdir()} == {HIDDEN, "result"}
    assert all(path.stat().st_mode & 0o002 == 0 for path in folder.rglob("*"))
    with sole_writer("memory://x/y"), sole_writer("memory://x/y"):
        pass


def test_what_is_no_folder_is_refused_and_what_cannot_be_locked_is_used_with_a_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="can't be written to"), sole_writer(tmp_path / "file"):
        pass
    (tmp_path / HIDDEN / "lock").mkdir(parents=True)
    with sole_writer(tmp_path):
        assert f"no lock can be taken in {tmp_path} " in caplog.text


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("scanpy annotate CELLS --output OUT", "report.json"),
        ("vae train CELLS --output-dir OUT", "run.json"),
        ("haystack run x --demo --output OUT", "another_log.json"),
    ],
)
def test_earlier_results_are_told_of_or_refused(
    command: str, result: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cells, out = tmp_path / "cells.h5ad", tmp_path / "out"
    counts_with_groups().write_h5ad(cells)
    out.mkdir()
    (out / result).write_text("keep me", encoding="utf-8")
    with caplog.at_level("INFO", logger="gca_core"):
        check_earlier(out, result.replace("another", "*"), overwrite=True)
    assert f"the earlier results in {out.as_uri()} are replaced" in caplog.text
    words = command.replace("CELLS", str(cells)).replace("OUT", str(out)).split()
    refused = CliRunner().invoke(app, [*words, "--no-overwrite"])
    assert "out holds earlier results" in str(refused.exception)
    assert (out / result).read_text(encoding="utf-8") == "keep me"
