"""The marker database: which genes speak for and against a cell type."""

import csv
import functools
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from gca_core.errors import MarkerDatabaseError

COLUMNS = (
    "source",
    "cell_type",
    "ontology_id",
    "gene_symbol",
    "species",
    "tissue",
    "evidence",
    "reference",
    "evidence_score",
    "role",
    "parent_id",
)
ANY_TISSUE = "any"
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Marker(BaseModel, frozen=True, str_strip_whitespace=True):
    """One gene that marks a cell type (positive), or speaks against it (negative)."""

    source: str = ""
    cell_type: _Text
    ontology_id: _Text
    gene_symbol: _Text
    species: str = "human"
    tissue: str = ANY_TISSUE
    evidence: str = ""
    reference: str = ""
    evidence_score: float = Field(default=1.0, ge=0.0, le=1.0)
    role: Literal["positive", "negative"] = "positive"
    parent_id: str = ""


class CellTypeMarkers(BaseModel, frozen=True):
    """A cell type with its own markers; those of its ancestors are looked up on the ontology.

    Attributes:
        positive, negative: gene to evidence score, in file order.
        tissues: where the type is found; ``any`` means it is found in many.
        parent_id: the nearest type above it, where the table names one.
    """

    ontology_id: str
    label: str
    tissues: frozenset[str]
    positive: dict[str, float]
    negative: dict[str, float]
    parent_id: str = ""


class MarkerDatabase:
    """Markers of one species, by Cell Ontology term.

    Args:
        markers: rows; repeated genes of a type keep their highest score.
        name: where they come from, for reports.
        content_hash: SHA-256 of the file.
    """

    def __init__(self, markers: Sequence[Marker], *, name: str, content_hash: str) -> None:
        if not markers:
            raise MarkerDatabaseError(f"the marker database {name!r} has no rows for this species")
        self.name = name
        self.content_hash = content_hash
        # whether the rows came from a parsed copy of the table
        self.from_cache = False
        self.n_markers = len(markers)
        self.types: tuple[CellTypeMarkers, ...] = tuple(_by_type(markers))
        self._counts: dict[str, int] = {}
        for cell_type in self.types:
            for gene in cell_type.positive:
                self._counts[gene] = self._counts.get(gene, 0) + 1

    @property
    def genes(self) -> frozenset[str]:
        """Every gene of the database."""
        return frozenset(self._counts) | {gene for cell_type in self.types for gene in cell_type.negative}

    def get(self, ontology_id: str) -> CellTypeMarkers | None:
        """The markers of a term, if it has its own."""
        return next((t for t in self.types if t.ontology_id == ontology_id), None)

    def specificity(self, gene: str) -> float:
        """How much a gene narrows the choice, 0 to 1: log(1 + N / df) / log(1 + N) over N cell types."""
        n = len(self.types)
        return math.log1p(n / self._counts.get(gene, 1)) / math.log1p(n)


@functools.cache
def symbol_aliases() -> dict[str, str]:
    """Previous gene symbols that older annotations use, with the current one."""
    text = (resources.files("gca_core.annotation") / "data" / "symbol_aliases.csv").read_text(encoding="utf-8")
    return {row["previous"]: row["current"] for row in csv.DictReader(text.splitlines())}


def _by_type(markers: Iterable[Marker]) -> Iterable[CellTypeMarkers]:
    rows: dict[str, list[Marker]] = {}
    for marker in markers:
        rows.setdefault(marker.ontology_id, []).append(marker)
    for identifier, group in rows.items():
        roles: dict[str, dict[str, float]] = {"positive": {}, "negative": {}}
        for marker in group:
            genes = roles[marker.role]
            genes[marker.gene_symbol] = max(marker.evidence_score, genes.get(marker.gene_symbol, 0.0))
        tissues = frozenset(t.strip().casefold() for m in group for t in m.tissue.split(";") if t.strip())
        yield CellTypeMarkers(
            ontology_id=identifier,
            label=group[0].cell_type,
            tissues=tissues,
            parent_id=group[0].parent_id,
            **roles,
        )
