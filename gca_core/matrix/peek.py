"""What the names in a file of cells say before its values are read, so that a wrong option is told at once."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from gca_core.errors import DataValidationError
from gca_core.io import is_local, require_file, require_writable
from gca_core.matrix.cells import column_names
from gca_core.matrix.files.hostile import refuse_foreign_data

# matrices that are no layers
PLACES = (None, "X", "raw")


def check_input(
    uri: str,
    columns: Mapping[str, str | None],
    *,
    layer: str | None = None,
    output_uri: str | None = None,
    what: str = "AnnData file",
) -> None:
    """Refuse what a look at the names shows to be wrong; loads none of the packages that read or compute.

    Columns and layers are looked up in local h5ad and loom files and zarr folders; of others, who reads them tells.

    Args:
        columns: of the cells, by what they are for, such as ``cluster``; None asks for none.
        output_uri: a folder that has to be writable.

    Raises:
        DataValidationError: no such file, column or layer, or a file that would read others.
        ConfigurationError: the folder can't be written to.
    """
    file = require_file(uri, what=what)
    if output_uri is not None:
        require_writable(output_uri)
    if not is_local(file):
        return
    path = Path(str(file))
    refuse_foreign_data(path, uri)
    found, layers = _names(path)
    if found is not None:
        require_columns(found, columns)
    if layers is not None and layer not in PLACES and str(layer).split("/")[0] not in layers:
        raise DataValidationError(f"there is no layer {layer!r}; found {', '.join(map(repr, layers)) or 'no layers'}")


def require_columns(found: Iterable[str], wanted: Mapping[str, str | None]) -> None:
    """Refuse columns that ``obs`` lacks.

    Raises:
        DataValidationError: names the columns that are there.
    """
    names = list(found)
    for what, key in wanted.items():
        if key is not None and key not in names:
            advice = "; leave it out where there is none" if what == "cluster" else ""
            raise DataValidationError(
                f"there is no {what} column {key!r} in obs; found {', '.join(map(repr, names)) or 'no columns'}{advice}"
            )


def _names(path: Path) -> tuple[list[str] | None, list[str] | None]:
    """The columns of the cells and the layers; None for what can't be told cheaply."""
    if (path / "obs").is_dir():
        layers = path / "layers"
        return _zarr_columns(path / "obs"), [f.name for f in layers.iterdir() if f.is_dir()] if layers.is_dir() else []
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return None, None
    with h5py.File(path) as file:
        if "obs" in file:
            return column_names(file["obs"]), list(file.get("layers", ()))
        return list(file["col_attrs"]) if "col_attrs" in file else None, None


def _zarr_columns(table: Path) -> list[str] | None:
    for name in (".zattrs", "zarr.json"):
        if (table / name).is_file():
            told = json.loads((table / name).read_bytes())
            attributes = told.get("attributes", told) if isinstance(told, dict) else None
            order = attributes.get("column-order") if isinstance(attributes, dict) else None
            return [str(column) for column in order] if isinstance(order, list) else None
    return None
