"""Parsed marker tables that are kept: a table is read and resolved once, however often it is used.

An entry's name is the hash of all that its rows follow from: the table's content, the species, the versions of the
Cell Ontology and of the reader. An entry holds its key again and the hash of what is in it; one that is damaged or of
another version counts as absent and is written anew. Entries are written under a temporary name and renamed: any
number of processes may share them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from gca_core.annotation.markers.database import Marker
from gca_core.annotation.markers.remote import assets_folder
from gca_core.io import content_hash, sha256_bytes, staged

log = logging.getLogger(__name__)

FOLDER = "parsed"
# raised whenever a table would be read to other rows than before
READER_VERSION = 1
_MARKERS = TypeAdapter(list[Marker])


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reader_version: int
    key: str
    sha256: str
    rows: str
    note: str


@dataclass(frozen=True)
class ParsedTable:
    """What a marker table was read to.

    Attributes:
        note: what whoever uses the table has to know, such as how many cell types were left out; else empty.
    """

    markers: list[Marker]
    note: str = ""


def table_key(parts: Sequence[str]) -> str:
    """The key of the rows that follow from these texts, under this version of the reader."""
    return content_hash([str(READER_VERSION), *parts])


def kept_table(key: str) -> ParsedTable | None:
    """The table under a key; None if there is none, or none that can be read."""
    try:
        entry = _Entry.model_validate_json((parsed_folder() / f"{key}.json").read_bytes())
        whole = entry.sha256 == _digest(entry.rows, entry.note)
        if whole and entry.key == key and entry.reader_version == READER_VERSION:
            markers = _MARKERS.validate_json(entry.rows)
            return ParsedTable(markers, entry.note) if markers else None
    except (OSError, ValidationError):
        pass
    return None


def keep_table(key: str, table: ParsedTable) -> None:
    """Keep a table under a key; a folder that can't be written to is no reason to fail."""
    rows = json.dumps([marker.model_dump() for marker in table.markers], separators=(",", ":"))
    digest = _digest(rows, table.note)
    entry = _Entry(reader_version=READER_VERSION, key=key, sha256=digest, rows=rows, note=table.note)
    try:
        with staged(parsed_folder() / f"{key}.json") as path:
            path.write_text(entry.model_dump_json(), encoding="utf-8")
    except OSError as error:
        log.warning("the parsed marker table could not be kept in %s: %s", parsed_folder(), error)


def parsed_folder() -> Path:
    """Where parsed tables are kept: beside the copies of remote tables."""
    return assets_folder().parent / FOLDER


def tables_info() -> tuple[int, int]:
    """How many parsed tables are kept, and their bytes."""
    sizes = [path.stat().st_size for path in _files()]
    return len(sizes), sum(sizes)


def clear_tables() -> int:
    """Delete the parsed tables and nothing else; returns how many."""
    found = list(_files())
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def _digest(rows: str, note: str) -> str:
    return sha256_bytes(f"{note}\n{rows}".encode())


def _files() -> Iterator[Path]:
    return (path for path in parsed_folder().glob("*.json") if len(path.stem) == 64)
