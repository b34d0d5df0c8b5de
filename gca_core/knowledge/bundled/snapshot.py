"""The parts of the snapshot as their manifests describe them, and whether the files are these."""

import json
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from gca_core import io
from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.files import MANIFEST, data_folders


class SnapshotPart(BaseModel, frozen=True):
    """A file of the snapshot as its manifest describes it.

    Args:
        version: of the source, where its name carries one.
        input_sha256: of the downloaded file it was made from; empty for the project's own tables.
        state: whether the file is what the manifest says.
    """

    file: str
    description: str
    source: str
    licence: str
    citation: str
    sha256: str
    bytes: int
    version: str = ""
    input_sha256: str = ""
    state: io.ChecksumState = io.ChecksumState.OK


def snapshot_parts() -> tuple[SnapshotPart, ...]:
    """Every part with its state on disk, by name.

    Raises:
        DataValidationError: a manifest can't be read.
    """
    found: dict[str, SnapshotPart] = {}
    for folder in reversed(data_folders()):
        if (folder / MANIFEST).is_file():
            found |= {part.file: part for part in _listed(folder)}
    return tuple(found[name] for name in sorted(found))


def snapshot_version() -> str:
    """A hash of the checksums of all parts: what the answers depend on."""
    return f"snapshot-{io.content_hash({part.file: part.sha256 for part in snapshot_parts()})[:12]}"


def _listed(folder: Path) -> list[SnapshotPart]:
    try:
        entries = TypeAdapter(list[SnapshotPart]).validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise DataValidationError(
            f"the manifest {folder / MANIFEST} is not valid: {error}; build the snapshot or install the package again"
        ) from None
    return [
        entry.model_copy(update={"state": io.checksum_state(folder / entry.file, entry.bytes, entry.sha256)})
        for entry in entries
    ]
