"""Local copies of remote marker tables: fetched once, and anew when the storage names another version of them."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from upath import UPath

from gca_core.cache import FileCache, cache_root
from gca_core.config import load_settings
from gca_core.io import as_path, as_uri, content_hash, is_local, read_bytes, require_file

log = logging.getLogger(__name__)

FOLDER = "markers"
# what storages tell about the version of an object
_VERSION = ("generation", "etag", "ETag", "md5Hash", "updated", "mtime", "LastModified", "created", "size")
_home: ContextVar[str | os.PathLike[str] | None] = ContextVar("gca_assets_home", default=None)


@contextmanager
def assets_in(home: str | os.PathLike[str] | None) -> Iterator[None]:
    """Keep copies in this folder for the time of the block; None leaves it to the settings."""
    token = _home.set(home)
    try:
        yield
    finally:
        _home.reset(token)


def assets_under(cache_dir: str | os.PathLike[str] | None) -> AbstractContextManager[None]:
    """Keep copies under this cache directory for the time of a block; None leaves it to the settings."""
    return assets_in(None if cache_dir is None else str(as_path(cache_dir) / "assets"))


def assets_folder() -> Path:
    """Where copies are kept: in ``GCA_ASSETS_HOME``, else under ``GCA_CACHE_DIR`` or the user's cache directory.

    Raises:
        ConfigurationError: not a place on this machine's file systems.
    """
    given = _home.get() or load_settings().assets_home
    return cache_root(given or cache_root() / "assets") / FOLDER


def read_asset(uri: str | os.PathLike[str], *, what: str) -> bytes:
    """The content of a file; one that is remote is fetched only where no copy of its present version is kept.

    Raises:
        DataValidationError: there is no such file.
    """
    source = require_file(uri, what=what)
    if is_local(source):
        return read_bytes(source, what=what)
    version = _version(source)
    if version is None:
        return read_bytes(source, what=what)
    cache, key = FileCache(assets_folder()), content_hash(as_uri(source))
    kept = cache.get(key)
    if kept is not None and kept.about["version"] == version:
        log.info("the %s %s is read from its copy in %s", what, uri, cache.folder)
        return kept.content
    data = read_bytes(source, what=what)
    cache.put(key, data, {"version": version})
    return data


def _version(source: UPath) -> str | None:
    """What the storage says about the object's version; None where it says nothing but its size."""
    info: dict[str, Any] = source.fs.info(source.path)
    found = {key: str(info[key]) for key in _VERSION if info.get(key) is not None}
    return json.dumps(found, sort_keys=True) if set(found) - {"size"} else None
