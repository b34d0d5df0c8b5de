"""Labels for the clusters of an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from gca_core.annotation.inputs import CellKeywords, RankedKeywords, resolve, takes
from gca_core.annotation.models import DatasetReport
from gca_core.annotation.observed import observed
from gca_core.annotation.pipeline import annotate

if TYPE_CHECKING:
    from anndata import AnnData


@observed
@takes(CellKeywords)
def annotate_anndata(adata: AnnData, cluster_key: str | None, **keywords: Unpack[CellKeywords]) -> DatasetReport:
    """Label every cluster of ``adata`` by its markers and write the labels to its ``obs``.

    Columns written, each with ``prefix``: label, ontology_id, confidence, status, proposed_label, rationale,
    canonical_markers, mapping_notes; ``cluster`` where the clusters were computed here; and ``vocabulary_label`` with a
    vocabulary, missing where that lists no term at or above the label. Without one, that column of an earlier
    annotation is taken away. Corrections, where there are some, are kept in ``uns``. The matrix may lie in a file
    (``backed="r"``): it is read in parts then, and never as a whole but for Leiden clusters.

    Args:
        adata: log-normalised values or counts in X, raw or ``layer``; changed in its ``obs`` only, and in ``uns``
            where there are corrections.
        cluster_key: column of ``obs`` with the clusters, of any kind; cells without one stay without a label.
            None computes Leiden clusters.
        keywords: the options of :class:`gca_core.annotation.config.AnnotationOptions`, as it describes them, and:

            - marker_db: a marker database or the file of one; None means the bundled one. A table without rows for
              mouse is matched by the symbols' letters, and the labels are flagged ``species_mismatch``.
            - vocabulary: names for the labels, beside which they are written: ``broad``, or a table with the columns
              ``label`` and ``ontology_id``, as :func:`gca_core.annotation.read_vocabulary` reads it.
            - corrections: decisions of people, which replace labels; those that ``adata`` brings in ``uns`` count, too.
            - model: a chat model as ``provider:model``, or several that have to agree; their labels are judged by the
              same evidence. None works offline and calls nothing, whatever keys the environment holds.
            - reference: labelled cells, in memory or a file, that are heard beside the markers by the labels in
              ``reference_labels``.
            - llm_options: how the model is asked, its budget and the cache of its answers.

    Returns:
        The report; the same each time for the same input and options, but for its ``stats``.

    Raises:
        DataValidationError: no such column, no clusters, or no usable matrix or genes; nothing was written.
            The same for a vocabulary that can't be read.
        ConfigurationError: an option is out of range, or the tissue or species isn't known.
        MarkerDatabaseError: the marker database can't be read.
    """
    return annotate(adata, *resolve(cluster_key=cluster_key, **keywords)).report


@observed
@takes(RankedKeywords)
def annotate_rank_genes(
    adata: AnnData,
    *,
    key: str = "rank_genes_groups",
    cluster_key: str | None = None,
    **keywords: Unpack[RankedKeywords],
) -> DatasetReport:
    """Label the clusters of ``adata`` by a ranking that it brings, and write the labels to its ``obs``.

    The ranking is in the structure of :func:`scanpy.tl.rank_genes_groups`, filtered or not, and says which column
    of ``obs`` it is of. Genes that it ranks by being lower than elsewhere don't count. The expression decides with it
    where X, raw or a layer is usable; else the ranking alone. A cluster that it doesn't hold is
    ``Unknown or Novel``, flagged ``no_markers_supplied``.

    Args:
        key: of the ranking in ``uns``.
        cluster_key: the column that has to have been ranked; None takes the one that was.
        adata, keywords: as for :func:`annotate_anndata`, without ranking, resolution and seed.

    Raises:
        DataValidationError: no such ranking, one of another column, or of clusters that the column lacks; nothing
            was written.
        ConfigurationError, MarkerDatabaseError: as :func:`annotate_anndata`.
    """
    return annotate(adata, *resolve(cluster_key=cluster_key, ranking_key=key, **keywords)).report
