"""URIs, staging and safe names: the only module that turns text into file-system paths.

Every write goes to a temporary name beside the target and is renamed, so that a reader never sees
half a file and a failed step leaves what was there before.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import BaseModel
from upath import UPath

from gca_core.errors import ConfigurationError, DataValidationError, GcaError

log = logging.getLogger(__name__)

PathInput = str | os.PathLike[str] | UPath
SCHEMES = ("file", "gs", "memory")
_STAGING = re.compile(r"\.gca-([0-9a-f]{8})-(\d+)-[a-z0-9_]{8}")
LEFT_FOR_DEAD = 86_400.0  # seconds
_bucket_options: ContextVar[Mapping[str, Any]] = ContextVar("gca_bucket_options", default=MappingProxyType({}))
MAX_BYTES, MAX_YAML_BYTES, MAX_YAML_DEPTH = 100_000_000, 1_000_000, 100
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@contextmanager
def bucket_options(options: Mapping[str, Any]) -> Iterator[None]:
    """Open ``gs://`` URIs with these options of their client while the block lasts, such as ``token``.

    They hold for this context alone: other threads and tasks keep theirs.
    """
    before = _bucket_options.set(options)
    try:
        yield
    finally:
        _bucket_options.reset(before)


def as_path(uri: PathInput) -> UPath:
    """A path object for ``uri``, a plain path or a URI of a supported scheme.

    Raises:
        ConfigurationError: the scheme is not supported.
    """
    if isinstance(uri, UPath):
        return uri
    text = os.fspath(uri)
    if "\0" in text:
        raise ConfigurationError(f"{text!r} is no path: it holds a NUL character")
    scheme = urlsplit(text).scheme if "://" in text else "file"
    if scheme not in SCHEMES:
        raise ConfigurationError(f"the scheme {scheme!r} of {text!r} is not supported; use one of {', '.join(SCHEMES)}")
    if scheme == "file":
        local = Path(url2pathname(text.removeprefix("file://")) if "://" in text else text).expanduser()
        return UPath(local if local.is_absolute() else Path.cwd() / local)
    remote: UPath = UPath(text, **(_bucket_options.get() if scheme == "gs" else {}))
    return remote


def as_uri(path: PathInput) -> str:
    """The canonical URI of a path or URI."""
    given = as_path(path)
    return Path(str(given)).as_uri() if is_local(given) else str(given)


def join_uri(base: PathInput, *parts: str) -> str:
    """``base`` with safe path parts appended; a part that could leave ``base`` is refused."""
    for part in parts:
        if not part or part in {".", ".."} or "/" in part or "\\" in part or "\0" in part:
            raise DataValidationError(f"{part!r} is not a file or folder name; use safe_name() on text from data")
    return as_uri(as_path(base).joinpath(*parts))


def safe_name(text: str, *, max_length: int = 80) -> str:
    """A file name made of letters, digits, ``.``, ``_`` and ``-``, distinct for distinct texts.

    A text that is already such a name stays as it is; any other gets a short hash of itself, so two
    texts that look alike after cleaning don't share a file.
    """
    cleaned = _UNSAFE.sub("-", text).strip("-.") or "x"
    if cleaned == text and len(text) <= max_length:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{cleaned[: max_length - 9]}-{digest}"


def is_local(path: UPath) -> bool:
    """Whether a path is of this machine's file system."""
    return path.protocol in {"", "file", "local"}


@contextmanager
def reaching(uri: PathInput) -> Iterator[None]:
    """Make of what the client of a remote store raises an error that says what to do; a local path's are left alone.

    Raises:
        ConfigurationError: the client isn't installed.
        ConnectionError: the store refuses, or can't be reached; it may be there again later.
    """
    try:
        yield
    except (GcaError, OSError):
        raise
    except ImportError as error:
        raise ConfigurationError(
            f"{str(uri)!r} can't be reached: {error}; for gs:// addresses install it with: "
            "pip install 'airflow-provider-gca[gcs]'"
        ) from error
    except Exception as error:
        if is_local(as_path(uri)):
            raise
        # clients have no exception in common
        raise ConnectionError(
            f"{str(uri)!r} can't be reached: {error}; check the address, and that this machine has credentials for it"
        ) from error


def require_file(uri: PathInput, *, what: str = "file") -> UPath:
    """The path of an existing file.

    Raises:
        DataValidationError: there is no such file.
    """
    path = as_path(uri)
    with reaching(uri):
        there = path.exists()
    if not there:
        raise DataValidationError(
            f"the {what} {str(uri)!r} does not exist; check the path or URI, and that this machine can read it"
        )
    return path


def require_writable(uri: PathInput) -> None:
    """Refuse a local folder that can't be made or written to; a remote one tells when it is written to.

    Raises:
        ConfigurationError: says what stands in the way.
    """
    if not is_local(as_path(uri)):
        return
    folder = Path(str(as_path(uri)))
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigurationError(f"{str(uri)!r} can't be a folder: {str(folder)!r} is a file; name another folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{str(uri)!r} is not writable for this user; choose another folder")


@contextmanager
def local_copy(uri: PathInput, *, what: str = "file") -> Iterator[Path]:
    """A local path with the content of ``uri``, a file or folder; remote ones are fetched for the time of the block."""
    path = require_file(uri, what=what)
    if is_local(path):
        yield Path(str(path))
        return
    with tempfile.TemporaryDirectory(prefix="gca-") as folder:
        target = Path(folder) / safe_name(path.name)
        with reaching(uri):
            if path.is_dir():
                _fetch_folder(path, target)
            else:
                _copy_file(path, target)
        yield target


@contextmanager
def staged(uri: PathInput) -> Iterator[Path]:
    """A local path to write a file or folder to, which becomes ``uri`` when the block ends without an error.

    The temporary name keeps the target's suffixes, since writers choose their format by them. What processes that were
    killed left beside the target is removed.
    """
    path = as_path(uri)
    if is_local(path):
        target = Path(str(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target.parent)
        folder = Path(tempfile.mkdtemp(prefix=f".gca-{_here()}-{os.getpid()}-", dir=target.parent))
    else:
        target = None
        folder = Path(tempfile.mkdtemp(prefix="gca-"))
    try:
        temporary = folder / path.name
        yield temporary
        if target is not None:
            if temporary.is_dir() and target.exists():
                # a folder can't replace another one in one step
                target.replace(folder / "replaced")
            temporary.replace(target)
        else:
            with reaching(uri):
                if temporary.is_dir():
                    _send_folder(temporary, path)
                else:
                    _copy_file(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _here() -> str:
    """A name for this host, this start of it and this container: where the id of a process means the same process."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return sha256_bytes("".join(known).encode())[:8]


@cache
def _remove_leftovers(parent: Path) -> None:
    """Remove the staging folders in ``parent`` of processes that are gone, once in the life of this one."""
    for folder in parent.glob(".gca-*"):
        with suppress(OSError):
            # killed between two renames: the only copies of a folder and of what was to replace it
            halfway = (folder / "replaced").exists() and len(list(folder.iterdir())) > 1
            if not halfway and _is_left(folder):
                log.info("%s was left by a process that was killed, and is removed", folder)
                shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    import psutil

    named = _STAGING.fullmatch(folder.name)
    if named is None:
        return False
    if named[1] == _here():
        return not psutil.pid_exists(int(named[2]))
    latest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    return time.time() - latest > LEFT_FOR_DEAD


def _copy_file(source: Path | UPath, target: Path | UPath) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer)


def _fetch_folder(source: UPath, target: Path) -> None:
    """Copy a remote folder; names that would lead out of the target are refused."""
    root = f"{source.path.strip('/')}/"
    found = sorted(source.fs.find(source.path))
    places = []
    for file in found:
        parts = file.strip("/").removeprefix(root).split("/")
        if any(part in {"", ".", ".."} or "\\" in part for part in parts):
            raise DataValidationError(f"the folder {str(source)!r} holds {file!r}, which is no file or folder name")
        places.append(target.joinpath(*parts))
    for folder in {target, *(place.parent for place in places)}:
        folder.mkdir(parents=True, exist_ok=True)
    source.fs.get(found, [str(place) for place in places])


def _send_folder(source: Path, target: UPath) -> None:
    """Copy a folder to a remote place in the stead of what is there.

    It is sent under a hidden name beside the target first, so that a connection that breaks off leaves what was there;
    files that were on their way then may be left under that name.
    What lies at the top, such as a store's description of itself, gets its name last, so that half a copy isn't taken
    for one.
    """
    fs = target.fs
    hidden = f"{target.parent.path.rstrip('/')}/.gca-{uuid.uuid4().hex}"
    files = sorted(file.relative_to(source) for file in source.rglob("*") if file.is_file())
    if not files:
        raise DataValidationError(f"there are no files in the folder for {str(target)!r}; expected some to send")
    try:
        fs.put([str(source / file) for file in files], [f"{hidden}/{file.as_posix()}" for file in files])
    except BaseException:
        with suppress(FileNotFoundError):
            fs.rm(hidden, recursive=True)
        raise
    try:
        if target.exists():
            fs.rm(target.path, recursive=True)
        for top in (False, True):
            named = [file.as_posix() for file in files if (len(file.parts) == 1) is top]
            if named:
                fs.copy([f"{hidden}/{name}" for name in named], [f"{target.path}/{name}" for name in named])
    except OSError as error:
        raise OSError(
            f"{str(target)!r} could not be replaced: {error}; the new content is whole in {hidden!r}, from where you "
            "can move it to its place"
        ) from error
    fs.rm(hidden, recursive=True)


def write_text(uri: PathInput, text: str) -> str:
    """Write UTF-8 text atomically and return the canonical URI."""
    return write_bytes(uri, text.encode())


def write_bytes(uri: PathInput, data: bytes) -> str:
    """Write bytes atomically and return the canonical URI."""
    with staged(uri) as target:
        target.write_bytes(data)
    return as_uri(uri)


def read_bytes(uri: PathInput, *, what: str = "file", at_most: int = MAX_BYTES) -> bytes:
    """The content of a file that has to fit in memory.

    Raises:
        DataValidationError: there is no such file, it is a folder, or it has more than ``at_most`` bytes.
    """
    path = require_file(uri, what=what)
    try:
        with path.open("rb") as source:
            data: bytes = source.read(at_most + 1)
    except IsADirectoryError:
        raise DataValidationError(f"the {what} {str(uri)!r} is a folder; expected a file") from None
    if len(data) > at_most:
        raise DataValidationError(f"the {what} {str(uri)!r} has more than {at_most:,} bytes, the most that is read")
    return data


def read_text(uri: PathInput, *, what: str = "file", at_most: int = MAX_BYTES) -> str:
    """Read UTF-8 text.

    Raises:
        DataValidationError: as for :func:`read_bytes`, or the text has another encoding.
    """
    try:
        return read_bytes(uri, what=what, at_most=at_most).decode()
    except UnicodeDecodeError as error:
        raise DataValidationError(
            f"the {what} {str(uri)!r} is not UTF-8 text: byte {error.start} does not fit; save it in UTF-8"
        ) from None


def json_text(value: BaseModel | Any) -> str:
    """A pydantic model or plain JSON data as text, indented, with a final newline."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(uri: PathInput, value: BaseModel | Any) -> str:
    """Write a pydantic model or plain JSON data atomically, as :func:`json_text` puts it."""
    return write_text(uri, json_text(value))


def read_json(uri: PathInput, *, what: str = "file") -> Any:
    """Read JSON data.

    Raises:
        DataValidationError: the file is missing, too large or too deep, or not JSON.
    """
    try:
        return parse_json(read_text(uri, what=what))
    except ValueError as error:
        raise DataValidationError(f"the {what} {str(uri)!r} is not valid JSON: {error}") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text of a stranger.

    Raises:
        ValueError: it is no JSON, too deep, or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_yaml(uri: PathInput, *, what: str = "file") -> Any:
    """Read YAML data; aliases, by which a small file unfolds to a large one, are refused.

    Raises:
        ConfigurationError: not YAML, or nested too deeply.
        DataValidationError: the file is missing or too large, or no text.
    """
    import yaml

    text, fault = read_text(uri, what=what, at_most=MAX_YAML_BYTES), ""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                fault = "aliases (*name) are not read; write their values out"
                break
            # the reader's time grows with the square of the depth
            if depth > MAX_YAML_DEPTH:
                fault = "it is nested too deeply"
                break
        else:
            return yaml.safe_load(text)
    except yaml.YAMLError as error:
        fault = str(error)
    raise ConfigurationError(f"the {what} {str(uri)!r} is not valid YAML: {fault}")


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: PathInput) -> str:
    """Hex SHA-256 of a file's content."""
    with as_path(path).open("rb") as source:
        digest = hashlib.sha256()
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class ChecksumState(StrEnum):
    """Whether a file is what its manifest says."""

    OK = "ok"
    CHANGED = "changed"
    MISSING = "missing"


def checksum_state(path: PathInput, size: int, sha256: str) -> ChecksumState:
    """A file's state beside the size in bytes and the hex SHA-256 that its manifest gives."""
    file = as_path(path)
    if not file.is_file():
        return ChecksumState.MISSING
    same = file.stat().st_size == size and sha256_file(file) == sha256
    return ChecksumState.OK if same else ChecksumState.CHANGED


def content_hash(value: Any) -> str:
    """Hex SHA-256 of JSON data, independent of key order; pydantic models are dumped first."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return sha256_bytes(json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
