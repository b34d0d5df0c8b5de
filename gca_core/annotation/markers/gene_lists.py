"""Tables of plain marker lists: a row a cluster, its genes in one cell."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO

from gca_core.annotation.markers.delimited import safe_cell, table_records
from gca_core.annotation.models import Annotation
from gca_core.errors import DataValidationError

CLUSTER_NAMES = ("cluster", "cluster_id", "cluster_name", "clusters", "seurat_clusters", "leiden", "louvain", "group")
MARKER_NAMES = ("markers", "marker", "genes", "gene", "marker_genes", "markers_genes", "top_markers", "top_genes")
RESULT_COLUMNS = (
    "label",
    "ontology_id",
    "confidence",
    "status",
    "proposed_label",
    "alternatives",
    "flag_reasons",
)
VOCABULARY_COLUMN = "vocabulary_label"
INPUT_PREFIX = "input_"
_SEPARATORS = ",;|"
_QUOTES = "'\"` "


@dataclass(frozen=True)
class GeneListTable:
    """A table of marker lists as it was read.

    Attributes:
        header: names of the columns.
        rows: cells by row, each as long as the header.
        clusters: name of each row's cluster, in row order; names may repeat.
        genes: of each row, as they are written.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    clusters: tuple[str, ...]
    genes: tuple[tuple[str, ...], ...]

    @property
    def looks_long(self) -> bool:
        """Whether it seems to hold a row a gene, with names of clusters that repeat."""
        return (
            len(self.rows) > 2 * len(set(self.clusters)) and max((len(genes) for genes in self.genes), default=0) == 1
        )


def split_genes(text: str) -> tuple[str, ...]:
    """The genes of one cell: joined by commas, or else by semicolons, bars, line breaks or spaces.

    Brackets and quotes around them, as programs print lists, are taken off; empty places are left out.

    Raises:
        DataValidationError: more than one of comma, semicolon and bar occurs.
    """
    inner = text.strip()
    if inner[:1] in {"[", "("} and inner[-1:] in {"]", ")"}:
        inner = inner[1:-1]
    used = [separator for separator in _SEPARATORS if separator in inner]
    if len(used) > 1:
        raise DataValidationError(
            f"genes are joined by more than one of {' '.join(used)}: {_short(text)}; use one of them, best the comma"
        )
    parts = re.split(f"[{re.escape(used[0])}\r\n]" if used else r"\s", inner)
    return tuple(gene for part in parts if (gene := part.strip().strip(_QUOTES)))


def parse_gene_lists(
    text: str, *, cluster_column: str | None = None, markers_column: str | None = None
) -> GeneListTable:
    """Read a CSV or TSV with a header; columns are parted by tabs, commas or semicolons, as the header has them.

    Args:
        text: of the file.
        cluster_column: with the clusters' names; None looks for a column with a usual name.
        markers_column: with the genes; None looks likewise.

    Raises:
        DataValidationError: no header or rows, a missing or repeated column, or a row that can't be read; the
            message names the line and the column.
    """
    lines = table_records(text)
    if not lines:
        raise DataValidationError("the table is empty; expected a header and a row for each cluster")
    header = tuple(name.strip() for name in lines[0][1])
    cluster = _column(header, cluster_column, CLUSTER_NAMES, "clusters", "cluster_column")
    markers = _column(header, markers_column, MARKER_NAMES, "marker genes", "markers_column")
    if cluster == markers:
        raise DataValidationError(f"the column {header[cluster]!r} is named for clusters and for marker genes")
    rows, genes = [], []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise DataValidationError(
                f"line {number} has {len(cells)} cells, but the header has {len(header)} columns; "
                f"put quotes around cells that hold the separator, such as those of {header[markers]!r}"
            )
        rows.append(tuple(cells))
        try:
            genes.append(split_genes(cells[markers]))
        except DataValidationError as error:
            raise DataValidationError(f"line {number}, column {header[markers]!r}: {error}") from None
    if not rows:
        raise DataValidationError(f"the table has the header {', '.join(header)} and no rows")
    return GeneListTable(header, tuple(rows), tuple(row[cluster].strip() for row in rows), tuple(genes))


def render_gene_lists(
    table: GeneListTable, annotations: Sequence[Annotation], *, delimiter: str = ",", vocabulary: bool = False
) -> str:
    """The table with :data:`RESULT_COLUMNS` behind its own, a line for each of its rows in their order.

    With a vocabulary, ``vocabulary_label`` comes last. A column of the input with one of these names is kept as
    ``input_`` and its name. Cells that a spreadsheet would take for a formula are marked as text.
    """
    results = (*RESULT_COLUMNS, VOCABULARY_COLUMN) if vocabulary else RESULT_COLUMNS
    buffer = StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
    writer.writerow((*map(safe_cell, _kept_names(table.header, results)), *results))
    for row, found in zip(table.rows, annotations, strict=True):
        named = (found.vocabulary_label or "",) if vocabulary else ()
        writer.writerow((*map(safe_cell, row), *map(safe_cell, (*_cells(found), *named))))
    return buffer.getvalue()


def _cells(found: Annotation) -> tuple[str, ...]:
    return (
        found.primary_label,
        found.ontology_id or "",
        found.confidence.value,
        found.status.value,
        found.proposed_label or "",
        "; ".join(f"{other.label} ({other.score:.2f})" for other in found.alternatives),
        "; ".join(found.flag_reasons),
    )


def _kept_names(header: Sequence[str], results: Sequence[str]) -> list[str]:
    taken = {*header, *results}
    names = []
    for name in header:
        kept = name
        while kept in results or (kept != name and kept in taken):
            kept = f"{INPUT_PREFIX}{kept}"
        names.append(kept)
    return names


def _column(header: Sequence[str], named: str | None, usual: Iterable[str], what: str, option: str) -> int:
    if named is not None:
        places = [i for i, name in enumerate(header) if name == named]
    else:
        folded = [name.casefold().replace(" ", "_") for name in header]
        wanted = next((name for name in usual if name in folded), None)
        places = [i for i, name in enumerate(folded) if name == wanted]
    if len(places) == 1:
        return places[0]
    found = ", ".join(map(repr, header))
    if places:
        raise DataValidationError(f"the column {header[places[0]]!r} occurs {len(places)} times; found {found}")
    missing = f"there is no column {named!r}" if named is not None else f"no column has a usual name for {what}"
    raise DataValidationError(f"{missing}; found {found}; name the one of the {what} ({option})")


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else f"{text[:limit]}...")
