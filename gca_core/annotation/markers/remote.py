"""Local copies of remote marker tables: fetched once, and anew when they have changed where they come from.

A copy's name holds the hash of its address, of the version that the storage names, and of its content, so that a copy
is used only while the version there is the same, and one that was damaged counts as absent. Copies are written under
a temporary name and renamed: any number of processes may share them.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import platformdirs
from upath import UPath

from gca_core.config import load_settings
from gca_core.errors import ConfigurationError
from gca_core.io import as_path, as_uri, require_file, sha256_bytes, staged

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
    settings = load_settings()
    given = _home.get() or settings.assets_home
    if given is None:
        given = (settings.cache_dir or Path(platformdirs.user_cache_dir("gca", appauthor=False))) / "assets"
    path = as_path(given)
    if path.protocol not in {"", "file", "local"}:
        raise ConfigurationError(f"the folder for assets {os.fspath(given)!r} is remote; expected a local folder")
    return Path(str(path)) / FOLDER


def read_asset(uri: str | os.PathLike[str], *, what: str) -> bytes:
    """The content of a file; one that is remote is fetched only where no copy of its present version is kept.

    Raises:
        DataValidationError: there is no such file.
    """
    source = require_file(uri, what=what)
    if source.protocol in {"", "file", "local"}:
        return source.read_bytes()
    version = _version(source)
    if version is None:
        return source.read_bytes()
    folder, address = assets_folder(), _short(as_uri(source))
    name = f"{address}-{_short(version)}"
    kept = _kept(folder, name)
    if kept is not None:
        log.info("the %s %s is read from its copy in %s", what, uri, folder)
        return kept
    data = source.read_bytes()
    _keep(folder, address, f"{name}-{sha256_bytes(data)}", data)
    return data


def _version(source: UPath) -> str | None:
    """What the storage says about the object's version; None where it says nothing but its size."""
    info: dict[str, Any] = source.fs.info(source.path)
    found = {key: str(info[key]) for key in _VERSION if info.get(key) is not None}
    return json.dumps(found, sort_keys=True) if set(found) - {"size"} else None


def _kept(folder: Path, name: str) -> bytes | None:
    for path in folder.glob(f"{name}-*"):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if path.name == f"{name}-{sha256_bytes(data)}":
            return data
    return None


def _keep(folder: Path, address: str, name: str, data: bytes) -> None:
    """Keep a copy in the place of earlier ones; a folder that can't be written to is no reason to fail."""
    try:
        earlier = list(folder.glob(f"{address}-*"))
        with staged(folder / name) as path:
            path.write_bytes(data)
        for path in earlier:
            if path.name != name:
                path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("no copy could be kept in %s: %s", folder, error)


def _short(text: str) -> str:
    return sha256_bytes(text.encode())[:16]
