"""Build the marker database from its compact source: one line per cell type, checked before it is written."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from io import StringIO

from pydantic import BaseModel

from gca_core.annotation.markers.database import COLUMNS, symbol_aliases
from gca_core.errors import MarkerDatabaseError
from gca_core.knowledge.bundled.footprints import load_footprints
from gca_core.knowledge.bundled.gene_sets import load_gene_sets
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

SOURCE = "gca-curated"
SOURCE_COLUMNS = ("ontology_id", "cell_type", "tissues", "defining", "supporting", "against", "mouse")
MIN_POSITIVE = 8
SCORES = {"defining": 1.0, "supporting": 0.6, "against": 0.8}
INTERFERON = "HALLMARK_INTERFERON_ALPHA_RESPONSE"
_SYMBOL = re.compile(r"[A-Z][A-Z0-9-]*(orf\d+[A-Z0-9]*)?")
_MOUSE_SYMBOL = re.compile(r"[A-Z][A-Za-z0-9-]*")
_NO_MOUSE = "-"


class CellTypeSource(BaseModel, frozen=True):
    """One line of the source table.

    Attributes:
        tissues: where the type is found; ``any`` where it is found in many.
        defining, supporting: positive markers, human symbols; the first mark the type nearly alone.
        against: genes whose expression speaks against the type.
        mouse: genes under their mouse symbol that human lacks or spells otherwise; None for types without mouse rows.
    """

    ontology_id: str
    cell_type: str
    tissues: tuple[str, ...]
    defining: tuple[str, ...]
    supporting: tuple[str, ...]
    against: tuple[str, ...]
    mouse: tuple[str, ...] | None

    @property
    def positive(self) -> tuple[str, ...]:
        """All positive markers."""
        return self.defining + self.supporting


def build_marker_table(
    source: str | None = None,
    *,
    ontology: CellOntology | None = None,
    mouse_symbols: Mapping[str, str] | None = None,
    symbols: frozenset[str] | None = None,
) -> str:
    """The marker table as CSV text, made from the text of a source table (None: the bundled one).

    Args:
        source: tab-separated, with the columns of :data:`SOURCE_COLUMNS`; genes of a field are parted by spaces.
        ontology: confirms ids and labels and names the parents.
        mouse_symbols: human symbol to mouse symbol where the letters differ, or to nothing where there is none.
        symbols: the human symbols that are allowed; None means those of :func:`known_symbols`.

    Raises:
        MarkerDatabaseError: unreadable source, or one that is inconsistent; names up to ten faults.
    """
    ontology = ontology or load_ontology()
    types = parse_source(_bundled_text("cell_types.tsv") if source is None else source)
    faults = check_source(types, ontology, known_symbols() if symbols is None else symbols)
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise MarkerDatabaseError(f"the source of the marker database is faulty: {'; '.join(faults[:10])}{more}")
    spelled = bundled_mouse_symbols() if mouse_symbols is None else mouse_symbols
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    held = frozenset(t.ontology_id for t in types)
    for cell_type in sorted(types, key=lambda t: t.ontology_id):
        writer.writerows(_rows(cell_type, parent_type(cell_type.ontology_id, held, ontology), spelled))
    return text.getvalue()


def parse_source(text: str) -> list[CellTypeSource]:
    """The lines of a source table.

    Raises:
        MarkerDatabaseError: other columns, or lines with too few or too many fields.
    """
    lines = text.splitlines()
    header = tuple(lines[0].split("\t")) if lines else ()
    if header != SOURCE_COLUMNS:
        raise MarkerDatabaseError(
            f"the source table has the columns {', '.join(header) or 'none'}; expected {', '.join(SOURCE_COLUMNS)}, "
            "parted by tabs"
        )
    types = []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if len(fields) != len(SOURCE_COLUMNS):
            raise MarkerDatabaseError(
                f"line {number} of the source table has {len(fields)} fields; expected {len(SOURCE_COLUMNS)}"
            )
        identifier, name, tissues, *genes, mouse = fields
        defining, supporting, against = (tuple(g.split()) for g in genes)
        types.append(
            CellTypeSource(
                ontology_id=identifier,
                cell_type=name,
                tissues=tuple(t.strip() for t in tissues.split(";") if t.strip()),
                defining=defining,
                supporting=supporting,
                against=against,
                mouse=None if mouse.strip() == _NO_MOUSE else tuple(mouse.split()),
            )
        )
    return types


def check_source(types: Sequence[CellTypeSource], ontology: CellOntology, symbols: frozenset[str]) -> list[str]:
    """What is wrong with the source, one line each; empty when it is sound. O(t^2) over t types.

    Checked: terms and their labels, repeated types, tissues, at least eight positive markers, symbols that are
    known and current, genes listed twice, genes that speak for a type and against one on its line of the
    ontology, and genes that interferon induces anywhere.
    """
    faults: list[str] = []
    seen: set[str] = set()
    for cell_type in types:
        faults += [f"{cell_type.cell_type}: {fault}" for fault in _own_faults(cell_type, ontology, symbols)]
        if cell_type.ontology_id in seen:
            faults.append(f"{cell_type.cell_type}: {cell_type.ontology_id} is listed twice")
        seen.add(cell_type.ontology_id)
    return faults + _faults_between([t for t in types if t.ontology_id in ontology], ontology)


@functools.cache
def known_symbols() -> frozenset[str]:
    """Human gene symbols of the bundled gene sets and footprints, and the reviewed list that adds to them."""
    found = set(_bundled_text("reviewed_symbols.txt").split())
    for collection in ("hallmark", "reactome"):
        found.update(*load_gene_sets(collection).values())
    found.update(*load_footprints().values())
    return frozenset(found)


def parent_type(identifier: str, held: frozenset[str], ontology: CellOntology) -> str:
    """The nearest ancestor that has markers of its own, else the nearest one; ties by id; "" for a root."""
    ancestors = ontology.ancestors(identifier)
    candidates = [a for a in ancestors if a in held] or list(ancestors)
    return min(candidates, key=lambda a: (ancestors[a], a), default="")


def mouse_symbol(gene: str, spelled: Mapping[str, str]) -> str:
    """The mouse symbol of a human one: by its letters, but for what ``spelled`` says; "" where there is none."""
    return spelled[gene] if gene in spelled else gene[:1] + gene[1:].lower()


def _rows(cell_type: CellTypeSource, parent: str, spelled: Mapping[str, str]) -> Iterable[tuple[str, ...]]:
    for species in ("human", "mouse"):
        for field, genes in _genes(cell_type, species, spelled).items():
            role = "negative" if field == "against" else "positive"
            for gene in genes:
                yield (
                    SOURCE,
                    cell_type.cell_type,
                    cell_type.ontology_id,
                    gene,
                    species,
                    ";".join(cell_type.tissues),
                    "curated",
                    "",
                    str(SCORES[field]),
                    role,
                    parent,
                )


def _genes(cell_type: CellTypeSource, species: str, spelled: Mapping[str, str]) -> dict[str, list[str]]:
    """Genes by field; for mouse, each once, where it is listed first."""
    fields = {"defining": cell_type.defining, "supporting": cell_type.supporting, "against": cell_type.against}
    if species == "human":
        return {field: list(genes) for field, genes in fields.items()}
    if cell_type.mouse is None:
        return {}
    fields["supporting"] += cell_type.mouse
    seen: set[str] = set()
    found: dict[str, list[str]] = {}
    for field, genes in fields.items():
        named = [g if g in cell_type.mouse else mouse_symbol(g, spelled) for g in genes]
        found[field] = [g for g in dict.fromkeys(named) if g and g not in seen]
        seen.update(found[field])
    return found


def _own_faults(cell_type: CellTypeSource, ontology: CellOntology, symbols: frozenset[str]) -> list[str]:
    faults = []
    if cell_type.ontology_id not in ontology:
        faults.append(f"{cell_type.ontology_id} is no term of the Cell Ontology {ontology.version}")
    elif ontology.label(cell_type.ontology_id) != cell_type.cell_type:
        faults.append(f"{cell_type.ontology_id} is labelled {ontology.label(cell_type.ontology_id)!r} there")
    if not cell_type.tissues:
        faults.append("no tissue")
    if len(cell_type.positive) < MIN_POSITIVE:
        faults.append(f"{len(cell_type.positive)} positive markers; expected at least {MIN_POSITIVE}")
    if not cell_type.defining:
        faults.append("no defining marker")
    listed = cell_type.positive + cell_type.against
    faults += [f"{gene} is listed twice" for gene in sorted(set(listed)) if listed.count(gene) > 1]
    induced = load_gene_sets("hallmark")[INTERFERON]
    for gene in listed:
        if gene in symbol_aliases():
            faults.append(f"{gene} is now called {symbol_aliases()[gene]}")
        elif gene not in symbols or not _SYMBOL.fullmatch(gene):
            faults.append(f"{gene} is no gene symbol of the bundled gene sets or of the reviewed list")
    faults += [f"{gene} is induced by interferon in any cell" for gene in cell_type.positive if gene in induced]
    faults += [f"{gene} is no mouse symbol" for gene in cell_type.mouse or () if not _MOUSE_SYMBOL.fullmatch(gene)]
    return faults


def _faults_between(types: Sequence[CellTypeSource], ontology: CellOntology) -> list[str]:
    """Genes that speak against a type and for one above or below it."""
    faults = []
    for below in types:
        above = ontology.ancestors(below.ontology_id)
        for other in types:
            if other.ontology_id not in above:
                continue
            for first, second in ((below, other), (other, below)):
                clash = sorted(set(first.positive) & set(second.against))
                faults += [f"{gene} speaks for {first.cell_type} and against {second.cell_type}" for gene in clash]
    return faults


def _bundled_text(name: str) -> str:
    return (resources.files("gca_core.annotation") / "data" / name).read_text(encoding="utf-8")


@functools.cache
def bundled_mouse_symbols() -> dict[str, str]:
    """Human symbol to mouse symbol where the letters differ, or to nothing where mouse has none."""
    rows = csv.DictReader(_bundled_text("mouse_symbols.tsv").splitlines(), delimiter="\t")
    return {row["human"]: row["mouse"] for row in rows}
