"""Pools of connections, one per server and process, with a bound and a time to wait."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from gca_core.errors import StoreError
from gca_core.store.connect import ADAPTERS, CONNECT_SECONDS, connect
from gca_core.store.redact import describe, parse_dsn

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 8
WAIT_SECONDS = 10.0
_IDLE_SECONDS = 120.0
_POOLS: dict[tuple[int, str, int], ConnectionPool[psycopg.Connection[TupleRow]]] = {}
_LOCK = threading.Lock()

T = TypeVar("T")


@contextmanager
def pooled(
    dsn: str, *, max_connections: int = MAX_CONNECTIONS, timeout: float = WAIT_SECONDS
) -> Iterator[psycopg.Connection[TupleRow]]:
    """A connection of this process's pool for ``dsn``; the block is one transaction.

    A connection that broke since its last use is replaced. Pools open no connection before the first is
    asked for, and close those that nobody used for two minutes.

    Args:
        dsn: connection string.
        max_connections: of the pool; more callers at once wait for one.
        timeout: seconds to wait for a connection.

    Raises:
        StoreError: all connections stay in use for ``timeout`` seconds, or the server can't be reached.
    """
    pool = _pool(dsn, max_connections)
    try:
        connection = pool.getconn(timeout)
    except PoolTimeout:
        raise _explained(dsn, max_connections, timeout) from None
    try:
        with connection:
            yield connection
    finally:
        # leaving the block of psycopg's connection would close it, were it not the pool's
        pool.putconn(connection)


def retried(read: Callable[[], T]) -> T:
    """The result of a read; made once more when the connection broke on the way."""
    try:
        return read()
    except psycopg.OperationalError as error:
        if isinstance(error, psycopg.errors.QueryCanceled):
            raise
        log.info("the connection to the database broke; asking once more")
        return read()


def close_pools() -> None:
    """Close the pools of this process; they open again when they are needed."""
    with _LOCK:
        mine = [key for key in _POOLS if key[0] == os.getpid()]
        pools = [_POOLS.pop(key) for key in mine]
    for pool in pools:
        pool.close()


def _pool(dsn: str, max_connections: int) -> ConnectionPool[psycopg.Connection[TupleRow]]:
    """The pool of this process: a forked child must not use its parent's connections."""
    key = (os.getpid(), dsn, max_connections)
    with _LOCK:
        if key in _POOLS:
            return _POOLS[key]
    # fails at once, and with the server's own reason, where the pool would try again until its time is up
    connect(dsn).close()
    seconds = int(parse_dsn(dsn).get("connect_timeout", CONNECT_SECONDS))
    with _LOCK:
        if key not in _POOLS:
            _POOLS[key] = ConnectionPool(
                dsn,
                min_size=0,
                max_size=max_connections,
                max_idle=_IDLE_SECONDS,
                num_workers=1,
                check=ConnectionPool.check_connection,
                kwargs={"connect_timeout": seconds, "application_name": "gca", "context": ADAPTERS},
                name="gca",
                open=True,
            )
        return _POOLS[key]


def _explained(dsn: str, max_connections: int, timeout: float) -> StoreError:
    """Why no connection came: the server is gone, or the others hold all of them."""
    try:
        connect(dsn).close()
    except StoreError as error:
        return error
    return StoreError(
        f"all {max_connections} connections to the database ({describe(dsn)}) stayed in use for {timeout:g} s; "
        "try again when fewer searches run at once, or open the atlas with a larger pool (max_connections)"
    )


atexit.register(close_pools)
