"""The cells of an xlsx sheet as text."""

import zipfile
from io import BytesIO

from gca_core.config import require
from gca_core.errors import ConfigurationError, MarkerDatabaseError

MAX_BYTES = 64_000_000
MAX_COLUMNS = 256


def read_sheet(data: bytes, *, what: str) -> list[list[str]]:
    """The rows of the first worksheet that aren't empty; missing cells are empty texts.

    Raises:
        MarkerDatabaseError: no xlsx, or one that unfolds to more than a marker table holds.
    """
    openpyxl = require("openpyxl", "scanpy")
    try:
        _check_unfolded(data, what)
        sheet = openpyxl.load_workbook(BytesIO(data), read_only=True, data_only=True).worksheets[0]
        # what a sheet says of its size may be wrong
        sheet.reset_dimensions()
        rows = []
        for row in sheet.iter_rows(values_only=True):
            if any(row[MAX_COLUMNS:]):
                raise MarkerDatabaseError(f"{what} has more than {MAX_COLUMNS} columns; that is no marker table")
            if any(row):
                rows.append(["" if value is None else str(value) for value in row[:MAX_COLUMNS]])
    except (MarkerDatabaseError, ConfigurationError):
        raise
    except Exception as error:
        # openpyxl has no exception of its own for what is no workbook
        raise MarkerDatabaseError(f"{what} can't be read as xlsx: {error}") from None
    return rows


def _check_unfolded(data: bytes, what: str) -> None:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        if sum(part.file_size for part in archive.infolist()) > MAX_BYTES:
            raise MarkerDatabaseError(f"{what} unpacks to more than {MAX_BYTES:,} bytes; that is no marker table")
        if any(b"<!DOCTYPE" in archive.read(part) for part in archive.infolist()):
            raise MarkerDatabaseError(f"{what} declares a document type, which no spreadsheet does")
