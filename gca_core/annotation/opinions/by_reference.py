"""Labels for cells by labelled cells of the user's alone, in memory or in files."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pandas as pd

from gca_core.annotation.adata.expression import read_expression
from gca_core.annotation.adata.files import open_data
from gca_core.annotation.labels.labelling import species_markers
from gca_core.annotation.opinions.reference import ReferenceInput, as_reference, label_by_reference
from gca_core.io import join_uri, staged
from gca_core.knowledge.bundled.ontology import load_ontology
from gca_core.locks import sole_writer

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

COLUMNS = ("label", "ontology_id", "probability", "similarity", "proposed_label")


def annotate_by_reference(
    adata: AnnData,
    reference: ReferenceInput,
    reference_labels: str,
    *,
    species: str = "human",
    layer: str | None = None,
    gene_symbols: str | None = None,
) -> pd.DataFrame:
    """Label each cell by labelled cells: a logistic regression on the genes that set their labels apart.

    A cell stays without a label where no label is likelier than all others together, or where it lies further from the
    label's centroid than 95 % of the reference's own cells. Nothing is written to ``adata``.

    Args:
        adata: counts or log-normalised values in X, raw or ``layer``.
        reference: labelled cells of the same species, in memory or a file.
        reference_labels: column of its obs with the labels; those of fewer than ten cells are left out.
        species: ``human`` or ``mouse``.
        layer: the layer to read; None means to look.
        gene_symbols: column of ``var`` with gene symbols; None means to look.

    Returns:
        One row per cell: ``label`` in the reference's words and ``ontology_id`` (missing where nothing is near; the id
        also where the label is no name of the Cell Ontology), ``probability``, ``similarity`` (correlation with the
        label's centroid) and ``proposed_label`` (the best guess for every cell).

    Raises:
        DataValidationError: an input can't be read or used, or fewer than 100 genes are shared.
        ConfigurationError: unknown species.
    """
    markers = species_markers(None, species).database
    known = as_reference(reference, reference_labels, markers, species=species)
    if known is None:
        raise TypeError("reference is None; expected labelled cells or the file of some")
    expression = read_expression(adata, markers, layer=layer, species=species, gene_symbols=gene_symbols)
    return label_by_reference(expression, known, load_ontology()).set_index(adata.obs_names)


def annotate_file_by_reference(
    input_uri: str,
    reference: str,
    reference_labels: str,
    output_uri: str,
    *,
    species: str = "human",
    prefix: str = "reference_",
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Label the cells of a file; writes it with the labels as columns of obs, and a table with a row per cell.

    Returns:
        The labels, as of :func:`annotate_by_reference`, and the URIs of what was written.

    Raises:
        DataValidationError, ConfigurationError: as :func:`annotate_by_reference`.
    """
    with sole_writer(output_uri), open_data(input_uri) as data:
        found = annotate_by_reference(data.adata, reference, reference_labels, species=species)
        columns = [f"{prefix}{name}" for name in COLUMNS]
        for name, column in zip(COLUMNS, columns, strict=True):
            values = found[name]
            numbers = pd.api.types.is_numeric_dtype(values)
            data.adata.obs[column] = values.to_numpy() if numbers else pd.Categorical(values)
        cells = data.output_format
        uris = {cells: join_uri(output_uri, f"labelled.{cells}"), "csv": join_uri(output_uri, "cells.csv")}
        with staged(uris["csv"]) as table, staged(uris[cells]) as path:
            found.to_csv(table)
            data.write(path, columns, {})
    return found, uris
