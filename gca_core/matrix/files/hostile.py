"""Files that would read other files: they are refused before anything is read of them.

An HDF5 file can take its values from any file that the reader may open, a zarr folder by links, and a zarr array can
name pickle as its filter, which runs code. What is read would end up in results.
"""

import json
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from gca_core.errors import DataValidationError

# groups in groups; anndata's own files have five
MAX_DEPTH = 100
# zarr's chunks are compressed already, so that an honest zip holds little more than its own size
MAX_UNFOLDING = 100
MIN_UNFOLDING = 1 << 28
_ZARR_METADATA = (".zarray", ".zmetadata", "zarr.json")


def refuse_foreign_data(path: Path, name: str) -> None:
    """Refuse a file or folder that isn't whole in itself; what is no HDF5, zip or folder is left to its reader.

    Args:
        path: of a local file or folder.
        name: what to call it in messages.

    Raises:
        DataValidationError: HDF5 with external storage, virtual datasets, external links or groups that hold
            themselves; a folder or zip with links, special files or names that lead out of it, or a zarr array whose
            values are pickles.
    """
    if path.is_dir():
        _check_folder(path, name)
    elif zipfile.is_zipfile(path):
        _check_zip(path, name)
    elif path.is_file():
        _check_hdf5(path, name)


def _refuse(name: str, place: str, what: str) -> NoReturn:
    raise DataValidationError(
        f"{name!r} is refused, and nothing was read of it: {place!r} is {what}; expected a file that holds all of its "
        "data itself. write the cells anew with anndata, from where they are whole"
    )


def _check_hdf5(path: Path, name: str) -> None:
    import h5py

    if not h5py.is_hdf5(path):
        return
    try:
        with h5py.File(path, "r") as file:
            _check_objects(file, name, set())
            _check_circles(file, name, (), set())
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DataValidationError(
            f"{name!r} can't be read as h5ad or another kind of HDF5: {error}; it is damaged or cut off"
        ) from None


def _check_objects(group: Any, name: str, seen: set[Any], depth: int = 0) -> None:
    """Look at every link and dataset that lies in the file itself; no link is followed."""
    import h5py

    if depth > MAX_DEPTH:
        _refuse(name, group.name, f"a group in more than {MAX_DEPTH} others")
    seen.add(_address(group))
    for key in group:
        place = f"{group.name.rstrip('/')}/{key}"
        try:
            link = group.get(key, getlink=True)
        except TypeError:
            _refuse(name, place, "a link of an unknown kind")
        if isinstance(link, h5py.ExternalLink):
            _refuse(name, place, f"a link to another file, {link.filename!r}")
        if isinstance(link, h5py.SoftLink):
            continue
        found = group[key]
        if isinstance(found, h5py.Dataset):
            if found.external:
                _refuse(name, place, f"kept in another file, {found.external[0][0]!r}")
            if found.is_virtual:
                _refuse(name, place, "a virtual dataset, made of parts of other files")
        elif isinstance(found, h5py.Group) and _address(found) not in seen:
            _check_objects(found, name, seen, depth + 1)


def _check_circles(group: Any, name: str, above: tuple[Any, ...], done: set[Any]) -> None:
    """Refuse groups that hold themselves, which readers would follow without end. No link leaves the file by now."""
    import h5py

    address = _address(group)
    if address in above or len(above) > MAX_DEPTH:
        _refuse(name, group.name, "a group that holds itself")
    if address in done:
        return
    for key in group:
        if isinstance(found := group.get(key), h5py.Group):
            _check_circles(found, name, (*above, address), done)
    done.add(address)


def _address(group: Any) -> Any:
    import h5py

    return h5py.h5o.get_info(group.id).addr


def _check_folder(folder: Path, name: str) -> None:
    for entry in _entries(folder):
        place = os.path.relpath(entry.path, folder)
        if entry.is_symlink():
            _refuse(name, place, "a symbolic link")
        if not entry.is_dir() and not entry.is_file():
            _refuse(name, place, "a pipe or a device")
        if entry.name in _ZARR_METADATA:
            _check_filters(Path(entry.path).read_bytes(), name, place)


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path)


def _check_zip(path: Path, name: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                parts = member.filename.replace("\\", "/").split("/")
                if ".." in parts or parts[0] == "" or ":" in parts[0]:
                    _refuse(name, member.filename, "a name that leads out of the archive")
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                    _refuse(name, member.filename, "a link or a special file")
            size = sum(member.file_size for member in members)
            if size > max(MIN_UNFOLDING, MAX_UNFOLDING * path.stat().st_size):
                _refuse(name, path.name, f"an archive that unfolds to {size >> 30} GiB")
            for member in members:
                if member.filename.rsplit("/", 1)[-1] in _ZARR_METADATA:
                    _check_filters(archive.read(member), name, member.filename)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        raise DataValidationError(f"{name!r} can't be read as a zip archive: {error}") from None


def _check_filters(metadata: bytes, name: str, place: str) -> None:
    try:
        told = json.loads(metadata)
    except (ValueError, RecursionError):
        _refuse(name, place, "no JSON, which a zarr store describes itself with")
    waiting = [told]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "pickle" in {str(value.get(key)).rpartition(".")[2].casefold() for key in ("id", "name")}:
                _refuse(name, place, "the description of an array of pickles, which run code when they are read")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
