"""One writer at a time."""

from pathlib import Path

import pytest

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.locks import HIDDEN, sole_writer


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
