"""Cells in files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gca_core.errors import DataValidationError
from gca_core.io import PathInput, local_copy
from gca_core.matrix.hostile import refuse_foreign_data

if TYPE_CHECKING:
    from anndata import AnnData

# what readers raise where a file is damaged, or not what they expect
UNREADABLE = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)


def read_h5ad(uri: PathInput, *, what: str = "file") -> AnnData:
    """The whole of an h5ad file that this package wrote, or one like it.

    Raises:
        DataValidationError: there is no such file, it reads others, or it can't be read.
    """
    import anndata

    with local_copy(uri, what=what) as path:
        refuse_foreign_data(path, str(uri))
        try:
            found: AnnData = anndata.read_h5ad(path)
        except UNREADABLE as error:
            raise DataValidationError(f"the {what} {path.name!r} can't be read as h5ad: {error}") from None
        return found
