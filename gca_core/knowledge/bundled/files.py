"""Where the snapshot's files lie: in the package, or in a folder that the user built."""

import csv
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gca_core.errors import ConfigurationError, DataValidationError

BUNDLED = Path(__file__).parent.parent / "data"
MANIFEST = "manifest.json"
FOLDER_VARIABLE = "GCA_KNOWLEDGE_DIR"


def data_folders() -> tuple[Path, ...]:
    """The folders that are read, first one first.

    Raises:
        ConfigurationError: ``GCA_KNOWLEDGE_DIR`` names no folder.
    """
    named = os.environ.get(FOLDER_VARIABLE, "").strip()
    if not named:
        return (BUNDLED,)
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise ConfigurationError(f"{FOLDER_VARIABLE} is {named!r}, which is no folder; build one: gca knowledge build")
    return (folder, BUNDLED)


def data_file(name: str) -> Path:
    """The path of a part: the user's where there is one, else the bundled one."""
    return next((folder / name for folder in data_folders() if (folder / name).is_file()), BUNDLED / name)


@contextmanager
def reading(*names: str) -> Iterator[tuple[Path, ...]]:
    """The paths of parts for the block that reads them, in which whatever can't be read means that one is damaged.

    Raises:
        DataValidationError: the block failed; says what to do.
    """
    paths = tuple(map(data_file, names))
    try:
        yield paths
    except (
        OSError, EOFError, zlib.error, csv.Error, LookupError, TypeError, AttributeError, ValueError, RecursionError,
    ) as error:  # fmt: skip
        raise DataValidationError(
            f"the knowledge file {' or '.join(map(str, paths))} is damaged ({type(error).__name__}: {error}); build "
            "the snapshot again: gca knowledge build, or install the package again"
        ) from None
