"""Parsed marker tables that are kept: a table is read and resolved once, however often it is used."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from gca_core.annotation.markers.database import Marker
from gca_core.annotation.markers.remote import assets_folder
from gca_core.cache import FileCache
from gca_core.io import content_hash

FOLDER = "parsed"
# raised whenever a table would be read to other rows than before
READER_VERSION = 1
_MARKERS = TypeAdapter(list[Marker])


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
    entry = parsed_tables().get(key)
    try:
        return None if entry is None else ParsedTable(_MARKERS.validate_json(entry.content), entry.about["note"])
    except ValidationError:
        return None


def keep_table(key: str, table: ParsedTable) -> None:
    """Keep a table under a key; a folder that can't be written to is no reason to fail."""
    parsed_tables().put(key, _MARKERS.dump_json(table.markers), {"note": table.note})


def parsed_tables() -> FileCache:
    """Where parsed tables are kept: beside the copies of remote tables."""
    return FileCache(assets_folder().parent / FOLDER)
