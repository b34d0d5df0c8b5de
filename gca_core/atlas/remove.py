"""Removing a dataset from the atlas."""

import logging
import shutil
from pathlib import Path

from gca_core import io
from gca_core.atlas.expression import CELLS_FILE, GROUPS_FILE
from gca_core.atlas.ingest import rows
from gca_core.atlas.reader import Atlas
from gca_core.errors import CellRetrievalError

log = logging.getLogger(__name__)


def drop_dataset(atlas: Atlas, dataset: str) -> list[str]:
    """Remove a dataset: its rows, what only it used, and its expression files.

    The rows go first, in one transaction; a drop that is killed after that leaves files that the next one of
    this name removes. Files outside the atlas's own folder of the dataset are never touched.

    Args:
        atlas: opened with the role ``admin``.
        dataset: its name.

    Returns:
        The URIs that were removed, and none that were left.

    Raises:
        CellRetrievalError: there is no such dataset.
        StoreError: the database can't be reached or refuses; nothing was removed.
    """
    with rows.locked(atlas.dsn, dataset):
        store_uri = rows.delete_rows(atlas.dsn, dataset)
        removed = _remove_files(atlas.store_root_uri, dataset, store_uri)
    if store_uri is None and not removed:
        known = ", ".join(info.dataset for info in atlas.datasets()) or "none"
        raise CellRetrievalError(f"the atlas has no dataset {dataset!r}; it has: {known}")
    log.info("removed %s", dataset)
    return removed


def _remove_files(root: str, dataset: str, store_uri: str | None) -> list[str]:
    """Remove the dataset's folder under the root; a store that lies elsewhere is left and named in the log."""
    folder_uri = io.join_uri(root, io.safe_name(dataset))
    if store_uri is not None and not store_uri.startswith(f"{folder_uri}/"):
        log.warning("the expression store %s is not in the atlas's folder %s and was left", store_uri, folder_uri)
    folder = io.as_path(folder_uri)
    if not folder.exists():
        return []
    if io.is_local(folder):
        shutil.rmtree(Path(str(folder)))
        return [folder_uri]
    removed = []
    for store in folder.iterdir():
        for name in (CELLS_FILE, GROUPS_FILE):
            path = store / name
            if path.exists():
                path.unlink()
                removed.append(str(path))
    return removed
