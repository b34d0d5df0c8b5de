"""Small real data sets that come with the package, and the list of every bundled data file."""

from __future__ import annotations

import json
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from gca_core.config import require
from gca_core.errors import DataValidationError
from gca_core.io import ChecksumState, checksum_state

if TYPE_CHECKING:
    from anndata import AnnData

MANIFEST = "manifest.json"


class DataFile(BaseModel, frozen=True):
    """A bundled data file as its manifest describes it.

    Attributes:
        file: name, with the room it belongs to: ``knowledge/cell_ontology.json.gz``.
        bytes: size in bytes.
    """

    file: str
    description: str
    source: str
    licence: str
    citation: str
    sha256: str
    bytes: int
    path: Path

    @cached_property
    def checksum_state(self) -> ChecksumState:
        """The file's state on disk; read once."""
        return checksum_state(self.path, self.bytes, self.sha256)


def list_data_files(root: Path | None = None) -> list[DataFile]:
    """Every data file that a manifest lists, by room and name.

    Args:
        root: the package folder; None means the installed one.

    Raises:
        DataValidationError: a manifest can't be read.
    """
    folder = root or Path(str(resources.files("gca_core")))
    found = []
    for manifest in sorted(folder.glob(f"*/data/{MANIFEST}")):
        try:
            entries: list[dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))
            for entry in entries:
                named = entry | {"file": f"{manifest.parent.parent.name}/{entry['file']}"}
                found.append(DataFile(**named, path=manifest.parent / entry["file"]))
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise DataValidationError(
                f"the manifest {manifest} is not valid: {error}; install the package again"
            ) from None
    return sorted(found, key=lambda f: f.file)


def kang2018_mini_path() -> Path:
    """Where the file behind :func:`kang2018_mini` lies."""
    return Path(str(resources.files("gca_core.datasets"))) / "data" / "kang2018_mini.h5ad"


def kang2018_mini() -> AnnData:
    """Human PBMC, control and stimulated with interferon beta (Kang et al. 2018, GEO GSE96583).

    Returns:
        3,611 cells x 5,500 genes. X: raw counts, int32 CSR. obs: ``condition`` (ctrl or stim); ``cell_type``,
        ``cell_type_ontology_id`` and ``cell_type_margin`` by this project's own annotator, missing for cells
        in doubt. ``uns["gca"]`` says what labelled them.
    """
    anndata = require("anndata", "scanpy")
    adata: AnnData = anndata.read_h5ad(kang2018_mini_path())
    return adata


def pbmc68k_reduced() -> AnnData:
    """700 human PBMC x 765 genes from the scanpy package, without a download.

    Returns:
        X is scaled, ``raw`` log-normalised. obs: ``bulk_labels`` (10 types), ``louvain`` (11 clusters).
    """
    scanpy = require("scanpy", "scanpy")
    adata: AnnData = scanpy.datasets.pbmc68k_reduced()
    return adata
