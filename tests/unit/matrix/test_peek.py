"""A look at a file's names, before anything is read."""

import json
from pathlib import Path

import pytest

from gca_core.errors import DataValidationError
from gca_core.matrix.peek import check_input


@pytest.mark.parametrize(
    "told", [[], 3, {"attributes": []}, {"column-order": 3}, {"attributes": {"column-order": {"a": 1}}}, None]
)
def test_what_a_zarr_folder_tells_otherwise_is_left_to_its_reader(tmp_path: Path, told: object) -> None:
    (tmp_path / "cells.zarr" / "obs").mkdir(parents=True)
    (tmp_path / "cells.zarr" / "obs" / ".zattrs").write_text(json.dumps(told))
    check_input(str(tmp_path / "cells.zarr"), {"cluster": "leiden"})


def test_a_column_that_a_zarr_folder_lacks_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "cells.zarr" / "obs").mkdir(parents=True)
    (tmp_path / "cells.zarr" / "obs" / ".zattrs").write_text('{"column-order": ["louvain"]}')
    with pytest.raises(DataValidationError, match="no cluster column 'leiden' in obs; found 'louvain'"):
        check_input(str(tmp_path / "cells.zarr"), {"cluster": "leiden"})
