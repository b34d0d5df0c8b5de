import json
import shutil

import pytest

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.io import ChecksumState
from gca_core.knowledge.bundled.files import BUNDLED, data_file
from gca_core.knowledge.bundled.snapshot import snapshot_parts, snapshot_version

MAX_BYTES = 4_000_000


def test_every_bundled_file_is_listed_and_intact() -> None:
    parts = snapshot_parts()
    listed = {part.file for part in parts}
    assert listed == {path.name for path in BUNDLED.iterdir()} - {"manifest.json"}
    assert {part.state for part in parts} == {ChecksumState.OK}


def test_every_part_names_source_licence_and_citation() -> None:
    for part in snapshot_parts():
        assert part.source, part.file
        assert part.licence, part.file
        assert part.citation, part.file


def test_the_snapshot_is_small() -> None:
    assert sum(part.bytes for part in snapshot_parts()) < MAX_BYTES


def test_a_users_folder_goes_before_the_bundled_one(tmp_path, monkeypatch) -> None:
    before = snapshot_version()
    shutil.copy(BUNDLED / "hallmark.tsv.gz", tmp_path / "reactome.tsv.gz")
    entry = next(e for e in json.loads((BUNDLED / "manifest.json").read_text()) if e["file"] == "hallmark.tsv.gz")
    (tmp_path / "manifest.json").write_text(json.dumps([entry | {"file": "reactome.tsv.gz", "version": "mine"}]))
    monkeypatch.setenv("GCA_KNOWLEDGE_DIR", str(tmp_path))
    assert data_file("reactome.tsv.gz") == tmp_path / "reactome.tsv.gz"
    assert data_file("hallmark.tsv.gz") == BUNDLED / "hallmark.tsv.gz"
    assert {part.file: part.version for part in snapshot_parts()}["reactome.tsv.gz"] == "mine"
    assert snapshot_version() != before


def test_a_folder_that_is_none_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GCA_KNOWLEDGE_DIR", str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="GCA_KNOWLEDGE_DIR"):
        data_file("hallmark.tsv.gz")


def test_damage_is_seen(tmp_path, monkeypatch) -> None:
    for name in ("manifest.json", "hallmark.tsv.gz"):
        shutil.copy(BUNDLED / name, tmp_path / name)
    (tmp_path / "hallmark.tsv.gz").write_bytes(b"damaged")
    monkeypatch.setenv("GCA_KNOWLEDGE_DIR", str(tmp_path))
    states = {part.file: part.state for part in snapshot_parts()}
    assert states["hallmark.tsv.gz"] is ChecksumState.CHANGED
    assert states["reactome.tsv.gz"] is ChecksumState.MISSING
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataValidationError, match="manifest"):
        snapshot_parts()
