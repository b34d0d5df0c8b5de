"""Marker tables that users bring: PanglaoDB, CellMarker 2.0, ScType, the CellTypist encyclopedia and GMT."""

from __future__ import annotations

import csv
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from io import StringIO

from gca_core.annotation.markers.database import COLUMNS, Marker, MarkerDatabase, parse_markers, symbol_aliases
from gca_core.annotation.markers.remote import read_asset
from gca_core.annotation.markers.table_cache import ParsedTable, keep_table, kept_table, table_key
from gca_core.annotation.markers.xlsx import read_sheet
from gca_core.errors import MarkerDatabaseError
from gca_core.io import content_hash, sha256_bytes
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

log = logging.getLogger(__name__)

Row = dict[str, str]
_GENES = re.compile(r"[,;\s]+")
_SPECIES = {"human": "Hs", "mouse": "Mm"}


def load_markers(
    path: str | os.PathLike[str], *, species: str = "human", ontology: CellOntology | None = None
) -> MarkerDatabase:
    """A marker database of any known format, recognised by its columns; GMT by its name's ending.

    Names of cell types are resolved on the Cell Ontology; in tables that aren't this project's, those without a term
    are left out, and the log says how many, also where the table was parsed before.

    Raises:
        DataValidationError: there is no such file.
        MarkerDatabaseError: an unknown format, or nothing that can be used.
    """
    name = os.fspath(path)
    data = read_asset(path, what="marker database")
    digest = sha256_bytes(data)
    if ontology is not None:
        return MarkerDatabase(
            read_markers(data, name=name, species=species, ontology=ontology), name=name, content_hash=digest
        )
    key = table_key([digest, species, str(name.casefold().endswith(".gmt")), load_ontology().version, _aliases_hash()])
    kept = kept_table(key)
    table = kept or _read(data, name, species, load_ontology())
    if kept is None:
        keep_table(key, table)
    else:
        log.info("the marker database %s is read from its parsed copy", name)
    _tell(table, name)
    database = MarkerDatabase(table.markers, name=name, content_hash=digest)
    database.from_cache = kept is not None
    return database


def read_markers(
    data: bytes, *, name: str, species: str = "human", ontology: CellOntology | None = None
) -> list[Marker]:
    """The markers of one species in the content of a file; see :func:`load_markers`."""
    table = _read(data, name, species, ontology or load_ontology())
    _tell(table, name)
    return table.markers


def _tell(table: ParsedTable, name: str) -> None:
    if table.note:
        log.warning("%s: %s", name, table.note)


def _read(data: bytes, name: str, species: str, ontology: CellOntology) -> ParsedTable:
    if data[:2] == b"PK":
        table = read_sheet(data, what=name)
        header = [cell.strip() for cell in table[0]] if table else []
        rows = [dict(zip(header, cells, strict=False)) for cells in table[1:]]
        return _convert(header, rows, name, species, ontology)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MarkerDatabaseError(f"the marker database {name!r} is neither xlsx nor UTF-8 text: {error}") from None
    if name.casefold().endswith(".gmt"):
        return _resolved(_gmt(text, name), name, species, ontology)
    first = text.split("\n", 1)[0]
    reader = csv.DictReader(StringIO(text, newline=""), delimiter="\t" if "\t" in first else ",")
    header = [column.strip() for column in reader.fieldnames or []]
    if {"cell_type", "gene_symbol"} <= set(header):
        return ParsedTable(parse_markers(text, species=species, ontology=ontology))
    try:
        table_rows = [{(k or "").strip(): v or "" for k, v in row.items() if isinstance(v, str)} for row in reader]
    except csv.Error as error:
        raise MarkerDatabaseError(f"the marker database {name!r} is no table: {error}") from None
    return _convert(header, table_rows, name, species, ontology)


def merge_databases(databases: Sequence[MarkerDatabase]) -> MarkerDatabase:
    """One database of several; of a gene that they list for one type, the highest score is kept.

    Raises:
        MarkerDatabaseError: there are none.
    """
    markers = [
        Marker(
            source=database.name,
            cell_type=t.label,
            ontology_id=t.ontology_id,
            gene_symbol=gene,
            tissue=";".join(sorted(t.tissues)),
            evidence_score=score,
            role="positive" if genes is t.positive else "negative",
            parent_id=t.parent_id,
        )
        for database in databases
        for t in database.types
        for genes in (t.positive, t.negative)
        for gene, score in genes.items()
    ]
    return MarkerDatabase(
        markers,
        name=" + ".join(database.name for database in databases),
        content_hash=content_hash([database.content_hash for database in databases]),
    )


@functools.cache
def _aliases_hash() -> str:
    return content_hash([f"{previous}={current}" for previous, current in symbol_aliases().items()])


def _convert(header: list[str], rows: list[Row], name: str, species: str, ontology: CellOntology) -> ParsedTable:
    for needed, convert in _FORMATS:
        if needed <= set(header):
            return _resolved(convert(rows, species), name, species, ontology)
    known = "; ".join(", ".join(sorted(needed)) for needed, _ in _FORMATS)
    raise MarkerDatabaseError(
        f"the marker database {name!r} has the columns {', '.join(header[:12]) or 'none'}; expected those of one "
        f"known format: {', '.join(COLUMNS[:4])}; {known}"
    )


def _resolved(found: Iterator[Row], name: str, species: str, ontology: CellOntology) -> ParsedTable:
    aliases = symbol_aliases() if species == "human" else {}
    terms: dict[str, str | None] = {}
    markers, missing = [], set()
    for row in found:
        label = row["cell_type"]
        if label not in terms:
            terms[label] = ontology.resolve(row.get("ontology_id", "")) or ontology.resolve(label)
        term = terms[label]
        if term is None:
            missing.add(label)
            continue
        gene = row["gene_symbol"] if species == "mouse" else row["gene_symbol"].upper()
        known = row | {"ontology_id": term, "cell_type": ontology.label(term), "species": species}
        markers.append(Marker.model_validate(known | {"gene_symbol": aliases.get(gene, gene)}))
    if not markers:
        raise MarkerDatabaseError(f"the marker database {name!r} has no {species} markers with a Cell Ontology term")
    left_out = f"{len(missing)} of {len(terms)} cell types have no Cell Ontology term and are left out"
    return ParsedTable(markers, left_out if missing else "")


def _panglaodb(rows: list[Row], species: str) -> Iterator[Row]:
    for row in rows:
        if _SPECIES.get(species, species) in row["species"].split() and row["official gene symbol"].strip():
            gene = row["official gene symbol"].strip()
            yield {
                "source": "PanglaoDB",
                "cell_type": row["cell type"].strip(),
                "gene_symbol": gene.capitalize() if species == "mouse" else gene,
                "tissue": row.get("organ", "").strip() or "any",
                "evidence": "canonical" if row.get("canonical marker", "").startswith("1") else "listed",
            }


def _cellmarker(rows: list[Row], species: str) -> Iterator[Row]:
    for row in rows:
        gene = (row.get("Symbol") or row["marker"]).strip()
        if row["species"].strip().casefold() == species and gene and row["cell_name"].strip():
            cancer = row.get("cell_type", "Normal cell").strip().casefold().startswith("cancer")
            if not cancer:
                yield {
                    "source": "CellMarker 2.0",
                    "cell_type": row["cell_name"].strip(),
                    "ontology_id": row.get("cellontology_id", "").strip().replace("_", ":"),
                    "gene_symbol": gene,
                    "tissue": row.get("tissue_class", "").strip() or "any",
                    "evidence": row.get("marker_source", "").strip(),
                    "reference": f"PMID:{pmid}" if (pmid := row.get("PMID", "").strip()) else "",
                }


def _sctype(rows: list[Row], species: str) -> Iterator[Row]:
    for row in rows:
        for column, role in (("geneSymbolmore1", "positive"), ("geneSymbolmore2", "negative")):
            for gene in _split(row.get(column, "")):
                yield {
                    "source": "ScType",
                    "cell_type": row["cellName"].strip(),
                    "gene_symbol": gene.capitalize() if species == "mouse" else gene,
                    "tissue": row["tissueType"].strip() or "any",
                    "role": role,
                }


def _celltypist(rows: list[Row], species: str) -> Iterator[Row]:
    for row in rows:
        for gene in _split(row["Curated markers"]) if species == "human" else ():
            yield {
                "source": "CellTypist",
                "cell_type": row["Low-hierarchy cell types"].strip(),
                "ontology_id": row.get("Cell Ontology ID", "").strip(),
                "gene_symbol": gene,
            }


def _gmt(text: str, name: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.rstrip().split("\t")
        if len(fields) >= 3:
            for gene in filter(None, (field.strip() for field in fields[2:])):
                yield {"source": "GMT", "cell_type": fields[0].replace("_", " ").strip(), "gene_symbol": gene}
        elif line.strip():
            raise MarkerDatabaseError(f"line {number} of {name!r} has no genes; expected name, description, genes")


def _split(text: str) -> list[str]:
    return [gene for gene in _GENES.split(text.strip()) if gene and gene.casefold() not in ("na", "nan")]


_FORMATS: tuple[tuple[frozenset[str], Callable[[list[Row], str], Iterator[Row]]], ...] = (
    (frozenset({"official gene symbol", "cell type", "species"}), _panglaodb),
    (frozenset({"cell_name", "marker", "species"}), _cellmarker),
    (frozenset({"tissueType", "cellName", "geneSymbolmore1"}), _sctype),
    (frozenset({"Low-hierarchy cell types", "Curated markers"}), _celltypist),
)
