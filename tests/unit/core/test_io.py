"""Paths, staging and names."""

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core import io
from gca_core.errors import ConfigurationError, DataValidationError, GcaError


@given(st.text())
def test_a_safe_name_never_leaves_its_folder(text: str) -> None:
    name = io.safe_name(text)
    assert name
    assert len(name) <= 80
    assert name not in {".", ".."}
    assert Path("/folder", name).parent == Path("/folder")
    assert io.safe_name(name) == name


@given(st.text(), st.text())
def test_distinct_texts_get_distinct_safe_names(one: str, other: str) -> None:
    assert (io.safe_name(one) == io.safe_name(other)) == (one == other) or io.safe_name(one) in {one, other}


@pytest.mark.parametrize("part", ["", ".", "..", "a/b", "a\\b", "a\0b"])
def test_a_part_that_could_leave_the_base_is_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(DataValidationError, match="safe_name"):
        io.join_uri(tmp_path, part)


def test_an_unsupported_scheme_is_named_with_the_supported_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'s3'.*file, gs"):
        io.as_path("s3://bucket/key")


def test_a_plain_path_and_its_uri_are_the_same_place(tmp_path: Path) -> None:
    assert io.as_uri(tmp_path / "a b.txt") == (tmp_path / "a b.txt").as_uri()
    assert io.as_uri(io.as_uri(tmp_path / "a b.txt")) == (tmp_path / "a b.txt").as_uri()


@pytest.mark.parametrize("name", ["plain.txt", "with space.txt", "hash#mark.txt", "percent%20.txt", "naïve.txt"])
def test_what_is_written_to_a_uri_is_read_from_it(tmp_path: Path, name: str) -> None:
    uri = io.join_uri(tmp_path, name)
    io.write_text(uri, "content")
    assert (tmp_path / name).read_text() == "content"
    assert io.read_text(uri) == "content"


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    io.write_json(target, {"a": 1})

    def fail_half_way() -> None:
        with io.staged(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_half_way()
    assert io.read_json(target) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_what_killed_processes_left_is_removed_by_the_next_and_what_lives_is_not(tmp_path: Path) -> None:
    script = "import os, sys; from gca_core.io import staged\nwith staged(sys.argv[1]): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.h5ad")], check=False)
    (killed,) = tmp_path.iterdir()
    names = (".gca-00000000-1-day__old", ".gca-00000000-1-fresh_00", ".gca-home", f"{killed.name[:-4]}half/replaced")
    for name in (*names, f"{killed.name[:-4]}half/new.zarr"):
        (tmp_path / name).mkdir(parents=True)
    for name in names[::2]:
        os.utime(tmp_path / name, (0, 0))
    with io.staged(tmp_path / "a.txt") as live:
        live.write_text("a")
        io._remove_leftovers.cache_clear()
        io.write_text(tmp_path / "b.txt", "b")
    kept = {names[1], names[2], f"{killed.name[:-4]}half", "a.txt", "b.txt"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataValidationError, match=r"the marker table '/nowhere/x.csv' does not exist"):
        io.require_file("/nowhere/x.csv", what="marker table")


@pytest.mark.parametrize(
    ("read", "content", "match"),
    [
        (io.read_json, b"{", "the file '.*x' is not valid JSON"),
        (io.read_json, b"[" * 200_000, "not valid JSON: it is nested too deeply"),
        (io.read_yaml, b"a: [", "not valid YAML"),
        (io.read_yaml, b"[" * 5_000 + b"]" * 5_000, "not valid YAML: it is nested too deeply"),
        (io.read_yaml, b"a: &a [1]\nb: [*a, *a]", "aliases .* are not read"),
        (io.read_yaml, b" " * 1_000_001, "more than 1,000,000 bytes"),
        (io.read_text, b"caf\xe9", "is not UTF-8 text: byte 3 does not fit"),
    ],
)
def test_a_file_that_is_broken_or_unfolds_is_refused_in_one_line(read, content, match, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(GcaError, match=match):
        read(tmp_path / "x")


@pytest.mark.parametrize("path", ["/", "a\0b"])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(GcaError, match=r"is a folder; expected a file|holds a NUL character"):
        io.read_bytes(path)


def test_not_a_number_is_not_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_remote_objects_are_staged_through_a_local_file() -> None:
    uri = "memory://bucket/folder/object.txt"
    io.write_text(uri, "remote")
    with io.local_copy(uri) as local:
        assert local.read_text() == "remote"
        assert local.suffix == ".txt"
    assert not local.exists()


def test_a_content_hash_ignores_key_order() -> None:
    assert io.content_hash({"a": 1, "b": 2}) == io.content_hash({"b": 2, "a": 1})
    assert io.content_hash({"a": 1}) != io.content_hash({"a": 2})


def test_a_staged_folder_replaces_the_one_there_when_all_went_well(tmp_path: Path) -> None:
    target = tmp_path / "data.zarr"
    for text in ("first", "second"):
        with io.staged(target) as path:
            (path / "group").mkdir(parents=True)
            (path / "group" / text).write_text(text)
    assert [p.name for p in (target / "group").iterdir()] == ["second"]
    with pytest.raises(RuntimeError), io.staged(target) as path:
        path.mkdir()
        raise RuntimeError
    assert (target / "group" / "second").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["data.zarr"]


def test_a_remote_folder_that_can_not_be_replaced_says_where_the_new_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("not allowed")

    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(type(memory), "copy", refuse)
    told = "not allowed; the new content is whole in '/shelf/"
    with pytest.raises(OSError, match=told) as refused, io.staged("memory://shelf/data.zarr") as path:
        path.mkdir()
        (path / "top").write_text("new")
    place = str(refused.value).split("whole in '")[1].split("'")[0]
    assert memory.cat_file(f"{place}/top") == b"new"


def test_an_empty_folder_replaces_no_remote_one() -> None:
    with io.staged("memory://shelf/kept.zarr") as path:
        path.mkdir()
        (path / "top").write_text("old")
    with pytest.raises(DataValidationError, match="no files"), io.staged("memory://shelf/kept.zarr") as path:
        path.mkdir()
    with io.local_copy("memory://shelf/kept.zarr") as path:
        assert (path / "top").read_text() == "old"


def test_a_remote_folder_that_holds_no_file_names_is_refused() -> None:
    fsspec.filesystem("memory").pipe("/bucket/odd.zarr/a\\b", b"x")
    with pytest.raises(DataValidationError, match="no file or folder name"), io.local_copy("memory://bucket/odd.zarr"):
        pass


def test_a_remote_folder_is_sent_and_fetched_whole() -> None:
    uri = "memory://bucket/data.zarr"
    for text in ("first", "second"):
        with io.staged(uri) as path:
            (path / "group" / "deep").mkdir(parents=True)
            (path / "group" / "deep" / text).write_text(text)
            (path / "top").write_text("top")
    with io.local_copy(uri, what="folder") as path:
        assert path.name == "data.zarr"
        assert {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} == {"top", "group/deep/second"}
    assert not path.exists()
