"""Marker genes from what reviewers decided: a table that annotates the next data set."""

import csv
import re
from collections.abc import Iterator
from io import StringIO

from gca_core.annotation.markers.database import ANY_TISSUE, COLUMNS, Marker
from gca_core.annotation.markers.tissues import tissue_name
from gca_core.annotation.models import Annotation, DatasetReport
from gca_core.annotation.review.queue import Queue
from gca_core.errors import DataValidationError
from gca_core.io import PathInput, write_text

SOURCE = "review"
N_GENES = 15
# expressed everywhere, and high where cells are stressed or small; they mark no type
_COMMON = re.compile(r"(MT-|MRP[LS]\d|RP[LS]\d|RPLP\d|RPSA)", re.IGNORECASE)


def review_markers(queue: Queue) -> list[Marker]:
    """The top genes of the clusters that people decided, as positive markers of their labels.

    Of each cluster its first 15 genes without ribosomal and mitochondrial ones. The evidence score falls from 1 to
    0.5 with the rank; of a gene that several clusters of a label give, the best counts. Labels without a Cell
    Ontology term give none.
    """
    best: dict[tuple[str, str, str, str], Marker] = {}
    for run in queue.runs:
        for annotation in run.report.annotations:
            for marker in _markers(annotation, run.report):
                place = (marker.ontology_id, marker.gene_symbol, marker.species, marker.tissue)
                if place not in best or best[place].evidence_score < marker.evidence_score:
                    best[place] = marker
    return sorted(best.values(), key=lambda m: (m.cell_type, m.species, m.tissue, -m.evidence_score, m.gene_symbol))


def write_review_markers(queue: Queue, uri: PathInput) -> int:
    """Write :func:`review_markers` as a marker table and return the number of its rows.

    Raises:
        DataValidationError: no corrected cluster has a Cell Ontology term.
    """
    markers = review_markers(queue)
    if not markers:
        raise DataValidationError(
            f"no cluster under {queue.root} was given a Cell Ontology label by a reviewer, so there are no markers to "
            "write; apply corrections first with 'gca review --apply'"
        )
    buffer = StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(marker.model_dump(include=set(COLUMNS)) for marker in markers)
    write_text(uri, buffer.getvalue())
    return len(markers)


def _markers(annotation: Annotation, report: DatasetReport) -> Iterator[Marker]:
    if annotation.override is None or annotation.ontology_id is None:
        return
    genes = [gene for gene in annotation.markers if not _COMMON.match(gene)][:N_GENES]
    for rank, gene in enumerate(genes):
        yield Marker(
            source=SOURCE,
            cell_type=annotation.primary_label,
            ontology_id=annotation.ontology_id,
            gene_symbol=gene,
            species=report.species,
            tissue=tissue_name(report.tissue) or ANY_TISSUE,
            evidence="curated",
            evidence_score=round(1.0 - 0.5 * rank / N_GENES, 2),
        )
