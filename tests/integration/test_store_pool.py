"""Pooled connections: bounds, breaks and forks."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from gca_core.atlas import Atlas, open_atlas
from gca_core.config import load_settings
from gca_core.errors import StoreError
from gca_core.llm.embeddings import HashedTextEmbeddings
from gca_core.store import embedded, processes
from gca_core.store.pool import close_pools, pooled


@pytest.fixture(autouse=True)
def no_pools_left() -> Iterator[None]:
    yield
    close_pools()


def test_connections_are_used_again(embedded_dsn: str) -> None:
    pids = set()
    for _ in range(20):
        with pooled(embedded_dsn) as connection:
            pids.add(connection.info.backend_pid)
    # the pool may open a second one while the first is on its way back
    assert len(pids) <= 2


def test_a_full_pool_says_so_within_its_time(embedded_dsn: str) -> None:
    with (
        pooled(embedded_dsn, max_connections=2),
        pooled(embedded_dsn, max_connections=2),
        pytest.raises(StoreError, match=r"all 2 connections .* stayed in use for 0.3 s") as full,
        pooled(embedded_dsn, max_connections=2, timeout=0.3),
    ):
        pass
    assert "password" not in str(full.value)
    # and it recovers
    with pooled(embedded_dsn, max_connections=2, timeout=0.3) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_searches_at_once_share_the_pool(embedded_dsn: str) -> None:
    atlas, vector = Atlas(embedded_dsn, "file:///nowhere", max_connections=2), HashedTextEmbeddings().embed_query("x")
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(atlas.semantic(vector)))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12


def test_a_failed_statement_leaves_the_connection_usable(embedded_dsn: str) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable), pooled(embedded_dsn) as connection:
        connection.execute("select * from no_such_table")
    with pooled(embedded_dsn) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_connection_that_the_server_ended_is_replaced_within_the_call(admin_dsn: str, embedded_dsn: str) -> None:
    atlas = Atlas(embedded_dsn, "file:///nowhere")
    atlas.datasets()
    with pooled(embedded_dsn) as connection:
        pid = connection.info.backend_pid
    os.kill(pid, 15)
    assert isinstance(atlas.datasets(), list)
    with pooled(embedded_dsn) as connection:
        assert connection.info.backend_pid != pid


def test_a_forked_process_opens_connections_of_its_own(embedded_dsn: str) -> None:
    with pooled(embedded_dsn) as connection:
        mine = connection.info.backend_pid
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with pooled(embedded_dsn) as connection:
            os.write(writer, str(connection.info.backend_pid).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = int(os.read(reader, 32))
    os.close(reader)
    os.close(writer)
    assert theirs != mine
    with pooled(embedded_dsn) as connection:
        assert connection.info.backend_pid == mine


def test_a_server_stopped_in_the_middle_of_a_search(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started again it is found again, within the same call; while it is away the error says what to do."""
    settings = load_settings(home=fresh_home)
    atlas, vector = open_atlas(settings), HashedTextEmbeddings().embed_query("x")
    atlas = Atlas(atlas.dsn, atlas.store_root_uri, timeout=15)
    assert atlas.semantic(vector) == []
    from gca_core.atlas import search

    run, calls = search._run, []

    def stop_first(*args: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            embedded.stop(fresh_home)
            embedded.start(fresh_home)
        return run(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "_run", stop_first)
    assert atlas.semantic(vector) == []
    assert len(calls) == 2
    embedded.stop(fresh_home)
    assert not [home for _, _, home in processes.find_servers() if home == fresh_home.resolve()]
    away = Atlas(atlas.dsn, atlas.store_root_uri, timeout=0.5)
    with pytest.raises(StoreError, match="gca db start"):
        away.semantic(vector)
