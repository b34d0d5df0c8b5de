import fsspec
import pytest

from gca_core.annotation.markers.load import load_marker_database
from gca_core.annotation.markers.remote import assets_folder, assets_in, read_asset
from gca_core.cache import FileCache
from gca_core.errors import ConfigurationError, DataValidationError

TABLE = "cell_type,gene_symbol\nB cell,MS4A1\nB cell,CD79A\n"
URI = "memory://assets/markers.csv"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("GCA_ASSETS_HOME", str(tmp_path))
    memory = fsspec.filesystem("memory")
    memory.pipe("/assets/markers.csv", TABLE.encode())
    yield memory
    memory.rm("/assets", recursive=True)


def copies(folder):
    return list(FileCache(folder / "markers").files())


def test_a_remote_table_is_fetched_once(bucket, tmp_path, monkeypatch):
    first = load_marker_database(URI)
    (copy,) = copies(tmp_path)
    assert copy.read_text().endswith(TABLE)
    monkeypatch.setattr(bucket, "cat_file", None)
    monkeypatch.setattr(bucket, "open", None)
    assert load_marker_database(URI).content_hash == first.content_hash


def test_a_table_that_changed_there_is_fetched_anew(bucket, tmp_path):
    read_asset(URI, what="table")
    bucket.pipe("/assets/markers.csv", TABLE.replace("MS4A1", "CD19X").encode())
    assert b"CD19X" in read_asset(URI, what="table")
    (copy,) = copies(tmp_path)
    assert "CD19X" in copy.read_text()


def test_local_tables_are_read_where_they_are(bucket, tmp_path):
    (tmp_path / "m.csv").write_text(TABLE)
    assert read_asset(tmp_path / "m.csv", what="table").decode() == TABLE
    assert copies(tmp_path) == []


def test_places_are_named_by_option_setting_and_default(monkeypatch, tmp_path):
    monkeypatch.setenv("GCA_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("GCA_ASSETS_HOME", raising=False)
    assert assets_folder() == tmp_path / "assets" / "markers"
    monkeypatch.setenv("GCA_ASSETS_HOME", str(tmp_path / "a"))
    assert assets_folder() == tmp_path / "a" / "markers"
    with assets_in(tmp_path / "b"):
        assert assets_folder() == tmp_path / "b" / "markers"
    with assets_in("gs://bucket/x"), pytest.raises(ConfigurationError, match="expected a local folder"):
        assets_folder()


def test_a_missing_table_is_refused(bucket):
    with pytest.raises(DataValidationError, match="does not exist"):
        read_asset("memory://assets/none.csv", what="table")
