"""The cells of an xlsx sheet as text, by the standard library."""

from __future__ import annotations

import re
import zipfile
from io import BytesIO
from xml.etree import ElementTree

from gca_core.errors import MarkerDatabaseError

MAX_PART_BYTES = 64_000_000
_NS = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LETTERS = re.compile(r"[A-Z]+")


def read_sheet(data: bytes, *, what: str) -> list[list[str]]:
    """The rows of the first worksheet, each as long as its last cell; missing cells are empty.

    Raises:
        MarkerDatabaseError: no xlsx, one without a sheet, or one too large.
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = archive.namelist()
            sheets = sorted(n for n in names if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", n))
            if not sheets:
                raise MarkerDatabaseError(f"{what} holds no worksheet; expected an xlsx file with one")
            shared = "xl/sharedStrings.xml"
            strings = _strings(_part(archive, shared, what)) if shared in names else []
            return _rows(_part(archive, sheets[0], what), strings)
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, ValueError, IndexError) as error:
        raise MarkerDatabaseError(f"{what} can't be read as xlsx: {error}") from None


def _part(archive: zipfile.ZipFile, name: str, what: str) -> ElementTree.Element:
    if archive.getinfo(name).file_size > MAX_PART_BYTES:
        raise MarkerDatabaseError(f"{what} unpacks to more than {MAX_PART_BYTES:,} bytes; that is no marker table")
    text = archive.read(name)
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise MarkerDatabaseError(f"{what} declares a document type, which no spreadsheet does")
    return ElementTree.fromstring(text)  # noqa: S314 - no entities, see above


def _strings(root: ElementTree.Element) -> list[str]:
    return ["".join(t.text or "" for t in item.iter(f"{_NS}t")) for item in root.findall(f"{_NS}si")]


def _rows(root: ElementTree.Element, strings: list[str]) -> list[list[str]]:
    rows = []
    for row in root.iter(f"{_NS}row"):
        cells: list[str] = []
        for cell in row.findall(f"{_NS}c"):
            place = _LETTERS.match(cell.get("r", ""))
            column = _column(place[0]) if place else len(cells)
            cells += [""] * (column + 1 - len(cells))
            cells[column] = _text(cell, strings)
        rows.append(cells)
    return rows


def _text(cell: ElementTree.Element, strings: list[str]) -> str:
    if cell.get("t") == "inlineStr":
        return "".join(t.text or "" for t in cell.iter(f"{_NS}t"))
    value = cell.findtext(f"{_NS}v") or ""
    return strings[int(value)] if cell.get("t") == "s" and value else value


def _column(letters: str) -> int:
    number = 0
    for letter in letters[:3]:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1
