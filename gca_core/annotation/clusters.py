"""Labels for the clusters of an AnnData."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gca_core.annotation.config import PREFIX, TOP_N_MARKERS
from gca_core.annotation.labels.corrections import Corrections
from gca_core.annotation.labels.from_model import LlmAnnotator, ModelInput
from gca_core.annotation.labels.offline import MIN_OVERLAP
from gca_core.annotation.labels.vocabulary import Vocabulary
from gca_core.annotation.llm.models import LlmOptions
from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.annotation.models import DatasetReport
from gca_core.annotation.pipeline import Options, annotate, package_versions
from gca_core.matrix.ranking import RankingMethod

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["PREFIX", "TOP_N_MARKERS", "annotate_anndata", "annotate_rank_genes", "package_versions"]


def annotate_anndata(
    adata: AnnData,
    cluster_key: str | None,
    *,
    species: str = "human",
    tissue: str | None = None,
    marker_db: str | os.PathLike[str] | MarkerDatabase | None = None,
    vocabulary: str | os.PathLike[str] | Vocabulary | None = None,
    top_n_markers: int = TOP_N_MARKERS,
    prefix: str = PREFIX,
    label_key: str | None = None,
    layer: str | None = None,
    gene_symbols: str | None = None,
    ranking: RankingMethod = "t-test_overestim_var",
    resolution: float = 1.0,
    min_overlap: int = MIN_OVERLAP,
    force_unknown: bool = True,
    seed: int = 0,
    corrections: Corrections | None = None,
    request_id: str | None = None,
    model: ModelInput | LlmAnnotator | None = None,
    llm_options: LlmOptions | None = None,
) -> DatasetReport:
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
        species: ``human`` or ``mouse``; a marker table without rows for mouse is matched by the symbols' letters,
            and the labels are flagged ``species_mismatch``.
        tissue: where the cells are from; cell types that aren't known there need more evidence.
        marker_db: a marker database or the file of one; None means the bundled one.
        vocabulary: names for the labels, beside which they are written: ``broad``, or a table with the columns
            ``label`` and ``ontology_id``, as :func:`gca_core.annotation.read_vocabulary` reads it. Corrected labels
            are named, too.
        top_n_markers: genes ranked per cluster, 5 or more.
        prefix: of the columns written.
        label_key: column of ``obs`` with known labels, to measure agreement.
        layer: the layer to read; None means to look.
        gene_symbols: column of ``var`` with gene symbols, where the names are others; None means to look.
        ranking: the test, as scanpy names it.
        resolution: of the Leiden clusters.
        min_overlap: fewest supporting markers of a label.
        force_unknown: whether a label with too little evidence gives way to ``Unknown or Novel``; False keeps it,
            flagged.
        seed: of everything random.
        corrections: decisions of people, which replace labels; those that ``adata`` brings in ``uns`` count, too.
        request_id: names this run in logs and results; None makes one up.
        model: a chat model as ``provider:model``, or several that have to agree; their labels are judged by the
            same evidence. None works offline and calls nothing, whatever keys the environment holds.
        llm_options: how the model is asked, its budget and the cache of its answers.

    Returns:
        The report; the same each time for the same input and options, but for its ``stats``.

    Raises:
        DataValidationError: no such column, no clusters, or no usable matrix or genes; nothing was written.
            The same for a vocabulary that can't be read.
        ConfigurationError: an option is out of range, or the tissue or species isn't known.
        MarkerDatabaseError: the marker database can't be read.
    """
    options = Options(
        cluster_key=cluster_key,
        species=species,
        tissue=tissue,
        marker_db=marker_db,
        vocabulary=vocabulary,
        top_n_markers=top_n_markers,
        prefix=prefix,
        label_key=label_key,
        layer=layer,
        gene_symbols=gene_symbols,
        ranking=ranking,
        resolution=resolution,
        min_overlap=min_overlap,
        force_unknown=force_unknown,
        seed=seed,
        corrections=corrections,
        request_id=request_id,
        model=model,
        llm_options=llm_options,
    )
    return annotate(adata, options).report


def annotate_rank_genes(
    adata: AnnData,
    *,
    key: str = "rank_genes_groups",
    cluster_key: str | None = None,
    species: str = "human",
    tissue: str | None = None,
    marker_db: str | os.PathLike[str] | MarkerDatabase | None = None,
    vocabulary: str | os.PathLike[str] | Vocabulary | None = None,
    top_n_markers: int = TOP_N_MARKERS,
    prefix: str = PREFIX,
    label_key: str | None = None,
    layer: str | None = None,
    gene_symbols: str | None = None,
    min_overlap: int = MIN_OVERLAP,
    force_unknown: bool = True,
    corrections: Corrections | None = None,
    request_id: str | None = None,
    model: ModelInput | LlmAnnotator | None = None,
    llm_options: LlmOptions | None = None,
) -> DatasetReport:
    """Label the clusters of ``adata`` by a ranking that it brings, and write the labels to its ``obs``.

    The ranking is in the structure of :func:`scanpy.tl.rank_genes_groups`, filtered or not, and says which column
    of ``obs`` it is of. Genes that it ranks by being lower than elsewhere don't count. The expression decides with it
    where X, raw or a layer is usable; else the ranking alone. A cluster that it doesn't hold is
    ``Unknown or Novel``, flagged ``no_markers_supplied``.

    Args:
        key: of the ranking in ``uns``.
        cluster_key: the column that has to have been ranked; None takes the one that was.
        adata, species, tissue, marker_db, vocabulary, top_n_markers, prefix, label_key, layer, gene_symbols,
            min_overlap, force_unknown, corrections, request_id, model, llm_options: as for :func:`annotate_anndata`.

    Raises:
        DataValidationError: no such ranking, one of another column, or of clusters that the column lacks; nothing
            was written.
        ConfigurationError, MarkerDatabaseError: as :func:`annotate_anndata`.
    """
    options = Options(
        cluster_key=cluster_key,
        stored=key,
        species=species,
        tissue=tissue,
        marker_db=marker_db,
        vocabulary=vocabulary,
        top_n_markers=top_n_markers,
        prefix=prefix,
        label_key=label_key,
        layer=layer,
        gene_symbols=gene_symbols,
        min_overlap=min_overlap,
        force_unknown=force_unknown,
        corrections=corrections,
        request_id=request_id,
        model=model,
        llm_options=llm_options,
    )
    return annotate(adata, options).report
