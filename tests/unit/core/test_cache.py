"""The cache of files: safe to share, safe to lose."""

import multiprocessing
from pathlib import Path

import pytest

from gca_core.cache import FileCache, cache_root
from gca_core.errors import ConfigurationError
from gca_core.io import content_hash

KEY, CONTENT = content_hash("one"), b"\x00a table\nof two lines\n"
N_WRITERS, N_ROUNDS = 3, 40


def entry_of(content: bytes | None, cache: FileCache) -> bool:
    found = cache.get(KEY)
    return found.content == content if found else content is None


def test_an_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "not there yet")
    assert entry_of(None, cache)
    cache.put(KEY, CONTENT, {"model": "m"})
    found = cache.get(KEY)
    assert (found.content, found.about) == (CONTENT, {"model": "m"})
    assert cache.get(content_hash("two")) is None


@pytest.mark.parametrize("change", [b"", b"{", b"\x00" * 300, None])
def test_a_damaged_file_counts_as_absent_and_is_replaced(change: bytes | None, tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    cache.put(KEY, CONTENT)
    (path,) = cache.files()
    path.write_bytes(path.read_bytes().replace(b"two", b"ten") if change is None else change)
    assert entry_of(None, cache)
    assert [entry for _, entry in cache.entries()] == [None]
    cache.put(KEY, CONTENT)
    assert entry_of(CONTENT, cache)


def test_an_entry_under_another_key_counts_as_absent(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    cache.put(content_hash("two"), CONTENT)
    (path,) = cache.files()
    (tmp_path / KEY[:2]).mkdir(exist_ok=True)
    path.rename(tmp_path / KEY[:2] / KEY)
    assert entry_of(None, cache)


def test_entries_grow_old(tmp_path: Path) -> None:
    now = [1000.0]
    cache = FileCache(tmp_path, lambda: now[0])
    cache.put(KEY, CONTENT)
    for seconds, there in ((0, True), (99, True), (100, False), (-1, False)):
        now[0] = 1000.0 + seconds
        assert (cache.get(KEY, max_age_s=100.0) is not None) is there
    assert cache.get(KEY) is not None


def _write_many(folder: str, writer: int) -> None:
    cache = FileCache(folder)
    for i in range(N_ROUNDS):
        cache.put(content_hash(i), f"{i} {writer}".encode() * 50)
        # whoever wrote last, the file is whole
        found = cache.get(content_hash(i))
        assert found.content.startswith(f"{i} ".encode())


def test_processes_that_write_the_same_entries_never_leave_half_a_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(tmp_path), i)) for i in range(N_WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    assert [writer.exitcode for writer in writers] == [0] * N_WRITERS
    assert sum(entry is not None for _, entry in FileCache(tmp_path).entries()) == N_ROUNDS
    assert not list(tmp_path.rglob(".gca-*"))


def test_clearing_deletes_entries_and_nothing_else(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    for text in ("one", "two"):
        cache.put(content_hash(text), CONTENT, {"text": text})
    bucket = next(cache.files()).parent
    kept = [tmp_path / "notes.json", bucket / "README"]
    for path in kept:
        path.mkdir()
    assert cache.clear(lambda entry: entry.about["text"] == "one") == 1
    assert cache.size()[0] == 1
    assert (cache.clear(), cache.clear()) == (1, 0)
    assert all(path.exists() for path in kept)


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = FileCache(blocked)
    cache.put(KEY, CONTENT)
    assert "could be cached" in caplog.text
    assert entry_of(None, cache)
    assert (cache.size(), cache.clear()) == ((0, 0), 0)


def test_the_folder_is_the_one_given_or_set_or_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("GCA_CACHE_DIR", raising=False)
    assert cache_root() == tmp_path / "user" / "gca"
    monkeypatch.setenv("GCA_CACHE_DIR", str(tmp_path / "set"))
    assert cache_root() == tmp_path / "set"
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    with pytest.raises(ConfigurationError, match="expected a local folder"):
        cache_root("memory://cache")
