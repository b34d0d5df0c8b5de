"""Marker tables that users bring: PanglaoDB, CellMarker 2.0, ScType, the CellTypist encyclopedia and GMT."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from io import StringIO

from pydantic import ValidationError

from gca_core.annotation.markers.database import COLUMNS, Marker, symbol_aliases
from gca_core.annotation.markers.table_cache import ParsedTable
from gca_core.annotation.markers.xlsx import read_sheet
from gca_core.errors import DataValidationError, MarkerDatabaseError, complaints
from gca_core.knowledge.bundled.gene_sets import parse_gmt
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

Row = dict[str, str]
MAX_NAMED = 5
_REQUIRED = ("cell_type", "gene_symbol")
_GENES = re.compile(r"[,;\s]+")
_SPECIES = {"human": "Hs", "mouse": "Mm"}


def read_markers(data: bytes, *, name: str, species: str = "human") -> ParsedTable:
    """The markers of one species in the content of a file, recognised by its columns; GMT by its name's ending.

    Names of cell types are resolved on the Cell Ontology; in tables that aren't this project's, those without a term
    are left out, which the note says.

    Raises:
        MarkerDatabaseError: an unknown format, or nothing that can be used.
    """
    ontology = load_ontology()
    if data[:2] == b"PK":
        table = read_sheet(data, what=name)
        header = [cell.strip() for cell in table[0]] if table else []
        rows = [dict.fromkeys(header, "") | dict(zip(header, cells, strict=False)) for cells in table[1:]]
        return _convert(header, rows, name, species, ontology)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MarkerDatabaseError(f"the marker database {name!r} is neither xlsx nor UTF-8 text: {error}") from None
    if name.casefold().endswith(".gmt"):
        return _resolved(_gmt(text, name), name, species, ontology)
    first = text.split("\n", 1)[0]
    reader = csv.DictReader(StringIO(text, newline=""), delimiter="\t" if "\t" in first else ",")
    try:
        header = [column.strip() for column in reader.fieldnames or []]
        if {"cell_type", "gene_symbol"} <= set(header):
            return ParsedTable(parse_markers(text, species=species, ontology=ontology))
        table_rows = [{k.strip(): v or "" for k, v in row.items() if k is not None} for row in reader]
    except csv.Error as error:
        raise MarkerDatabaseError(f"the marker database {name!r} is no table: {error}") from None
    return _convert(header, table_rows, name, species, ontology)


def parse_markers(text: str, *, species: str = "human", ontology: CellOntology | None = None) -> list[Marker]:
    """The markers of one species in the text of a CSV or TSV file; see :func:`load_marker_database`.

    Raises:
        MarkerDatabaseError: as there; names up to five faulty lines.
    """
    ontology = ontology or load_ontology()
    markers: list[Marker] = []
    faults: list[str] = []
    reader = csv.DictReader(StringIO(text.lstrip("\ufeff"), newline=""), delimiter=_delimiter(text))
    try:
        _check_header(reader.fieldnames or [])
        for row in reader:
            marker = _parse_row(row, ontology, suggest=len(faults) < MAX_NAMED)
            if isinstance(marker, str):
                faults.append(f"line {reader.line_num}: {marker}")
            elif marker.species.casefold() == species.casefold():
                markers.append(marker)
    except csv.Error as error:
        faults.append(f"line {reader.line_num}: {error}")
    if faults:
        more = f" and {len(faults) - MAX_NAMED} more" if len(faults) > MAX_NAMED else ""
        raise MarkerDatabaseError(f"the marker table has faulty rows: {'; '.join(faults[:MAX_NAMED])}{more}")
    return markers


def _delimiter(text: str) -> str:
    return "\t" if "\t" in text.split("\n", 1)[0] else ","


def _check_header(names: Sequence[str]) -> None:
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise MarkerDatabaseError(
            f"the marker table lacks the columns {', '.join(missing)}; found {', '.join(names) or 'none'}, "
            f"expected {', '.join(COLUMNS)}"
        )


def _parse_row(row: dict[str, str | None], ontology: CellOntology, *, suggest: bool) -> Marker | str:
    given = {name: value for name in COLUMNS if (value := (row.get(name) or "").strip())}
    name = given.get("ontology_id") or given.get("cell_type", "")
    term = ontology.resolve(name)
    if name and term is None:
        close = ", ".join(ontology.suggest(given.get("cell_type", name))) if suggest else ""
        return f"{name!r} is no Cell Ontology term" + (f"; close: {close}" if close else "")
    if term is not None:
        given |= {"ontology_id": term, "cell_type": ontology.label(term)}
    try:
        return Marker.model_validate(given)
    except ValidationError as error:
        return complaints(error)


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
    try:
        for label, genes in parse_gmt(text, name):
            for gene in genes:
                yield {"source": "GMT", "cell_type": label.replace("_", " "), "gene_symbol": gene}
    except DataValidationError as error:
        raise MarkerDatabaseError(str(error)) from None


def _split(text: str) -> list[str]:
    return [gene for gene in _GENES.split(text.strip()) if gene and gene.casefold() not in ("na", "nan")]


_FORMATS: tuple[tuple[frozenset[str], Callable[[list[Row], str], Iterator[Row]]], ...] = (
    (frozenset({"official gene symbol", "cell type", "species"}), _panglaodb),
    (frozenset({"cell_name", "marker", "species"}), _cellmarker),
    (frozenset({"tissueType", "cellName", "geneSymbolmore1"}), _sctype),
    (frozenset({"Low-hierarchy cell types", "Curated markers"}), _celltypist),
)
