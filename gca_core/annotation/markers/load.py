"""Marker databases from files: the bundled one, or a table that a user brings."""

import functools
import logging
import os
from importlib import resources

from gca_core.annotation.markers.database import MarkerDatabase, symbol_aliases
from gca_core.annotation.markers.formats import parse_markers, read_markers
from gca_core.annotation.markers.remote import read_asset
from gca_core.annotation.markers.table_cache import keep_table, kept_table, table_key
from gca_core.io import content_hash, sha256_bytes
from gca_core.knowledge.bundled.ontology import load_ontology

log = logging.getLogger(__name__)


def load_marker_database(path: str | os.PathLike[str] | None = None, *, species: str = "human") -> MarkerDatabase:
    """Read a marker table: the bundled one, a CSV or TSV file with the columns of :data:`database.COLUMNS`, or another.

    The others are PanglaoDB, CellMarker 2.0, ScType, the CellTypist encyclopedia and GMT. A table is parsed once; what
    was left out of it is said in the log each time.

    ``cell_type`` and ``gene_symbol`` are needed. Where ``ontology_id`` is missing, the cell type's name is
    resolved on the Cell Ontology. Labels are taken from the ontology.

    Raises:
        MarkerDatabaseError: missing file or columns, unreadable rows, unknown terms, or no rows of the species.
    """
    if path is None:
        return _bundled(species)
    name = os.fspath(path)
    data = read_asset(path, what="marker database")
    digest = sha256_bytes(data)
    key = table_key([digest, species, str(name.casefold().endswith(".gmt")), load_ontology().version, _aliases_hash()])
    kept = kept_table(key)
    table = kept or read_markers(data, name=name, species=species)
    if kept is None:
        keep_table(key, table)
    else:
        log.info("the marker database %s is read from its parsed copy", name)
    if table.note:
        log.warning("%s: %s", name, table.note)
    database = MarkerDatabase(table.markers, name=name, content_hash=digest)
    database.from_cache = kept is not None
    return database


@functools.cache
def _aliases_hash() -> str:
    return content_hash([f"{previous}={current}" for previous, current in symbol_aliases().items()])


@functools.cache
def _bundled(species: str) -> MarkerDatabase:
    text = (resources.files("gca_core.annotation") / "data" / "markers.csv").read_text(encoding="utf-8")
    return MarkerDatabase(
        parse_markers(text, species=species), name="bundled", content_hash=sha256_bytes(text.encode())
    )
