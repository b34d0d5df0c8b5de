"""Tables as text: CSV and TSV files of any common encoding and separator, to records."""

import csv
import re
from io import StringIO

from gca_core.errors import DataValidationError

# characters of a cell; the csv module's own limit is below a ranking of a whole genome
_CELL_LIMIT = 10_000_000
_NUMBER = re.compile(r"-\d+(\.\d+)?")


def decode_table(data: bytes, *, name: str) -> str:
    """The text of a table: UTF-8, or UTF-16 where a byte order mark says so.

    Raises:
        DataValidationError: neither.
    """
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataValidationError(
            f"{name!r} is not {encoding.removesuffix('-sig').upper()} text: byte {error.start} does not fit; "
            "save the table as CSV in UTF-8"
        ) from None


def table_records(text: str) -> list[tuple[int, list[str]]]:
    """The records that aren't blank, each with the number of its last line.

    Columns are parted by tabs, commas or semicolons, as the first line has them.

    Raises:
        DataValidationError: a line can't be read; the message names it.
    """
    text = text.removeprefix("\ufeff")
    reader = csv.reader(StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    csv.field_size_limit(max(_CELL_LIMIT, csv.field_size_limit()))
    try:
        return [(reader.line_num, record) for record in reader if record]
    except csv.Error as error:
        raise DataValidationError(
            f"line {reader.line_num} can't be read: {error}; a quote inside a quoted cell is written twice"
        ) from None


def safe_cell(text: str) -> str:
    """Text from data, marked as text with an apostrophe where a spreadsheet would take it for a formula."""
    risky = text[:1] in {"=", "+", "@", "\t", "\r"} or (text[:1] == "-" and not _NUMBER.fullmatch(text))
    return f"'{text}" if risky else text


def plain_cell(text: str) -> str:
    """What :func:`safe_cell` was given."""
    return text[1:] if text[:1] == "'" and safe_cell(text[1:]) == text else text


def _delimiter(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    unquoted = re.sub(r'"[^"]*"', "", first)
    return next((mark for mark in "\t,;" if mark in unquoted), ",")
