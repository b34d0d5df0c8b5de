"""Labels of cells by labelled cells of the user's: a logistic regression, and the nearest centroid as its limit."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core.annotation.adata.expression import Expression, read_expression
from gca_core.annotation.adata.files import open_data
from gca_core.annotation.adata.obs import as_groups, check_columns
from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.knowledge.bundled.ontology import CellOntology
from gca_core.matrix.ranking import rank_genes

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

# how a reference that comes from no file is called
IN_MEMORY = "labelled cells"
Array = npt.NDArray[np.float64]
# fewest cells of a label, fewest shared genes, most genes that set a label apart, most cells of a label to learn from
MIN_CELLS, MIN_GENES, N_GENES, MAX_CELLS = 10, 100, 50, 1_000
# genes that vary most among the cells to label, which count for how near they are: of islet cells beside a reference of
# blood .21 got a label without these genes and .08 with 100 of them, of monocytes beside one without any .88 and .16
N_VARIED = 200
# a cell gets a label if it is likelier than the others together, and not further from the label's centroid than all but
# this share of the reference's own cells
MIN_PROBABILITY, MAX_FAR, MAX_SCALED = 0.5, 0.05, 10.0


@dataclass(frozen=True)
class Reference:
    """Labelled cells that others are compared with.

    Attributes:
        name: for reports, with how many cells and labels were learned from.
        expression: of the labelled cells.
        labels: (n_cells,) of them, no missing ones.
    """

    name: str
    expression: Expression
    labels: pd.Series


ReferenceInput: TypeAlias = "Reference | AnnData | str | os.PathLike[str] | None"


def as_reference(
    given: ReferenceInput, labels_key: str | None, markers: MarkerDatabase, *, species: str
) -> Reference | None:
    """The reference that a caller named; None stays None.

    Raises:
        ConfigurationError: the column of its labels isn't named.
        DataValidationError: as :func:`read_reference`.
    """
    if given is None or isinstance(given, Reference):
        return given
    if labels_key is None:
        raise ConfigurationError("a reference needs the column of its labels; name it as reference_labels")
    return read_reference(given, labels_key, markers, species=species)


def read_reference(
    source: AnnData | str | os.PathLike[str],
    labels_key: str,
    markers: MarkerDatabase,
    *,
    species: str = "human",
) -> Reference:
    """Labelled cells, from memory or a file; labels of fewer than ten cells are left out.

    Raises:
        DataValidationError: unreadable, no such column, no usable matrix, or fewer than two labels.
    """
    if isinstance(source, (str, os.PathLike)):
        with open_data(os.fspath(source), backed=False) as data:
            found = read_reference(data.adata, labels_key, markers, species=species)
        return replace(found, name=found.name.replace(IN_MEMORY, PurePosixPath(os.fspath(source)).name))
    check_columns(source, None, labels_key)
    labels = as_groups(source.obs[labels_key]).reset_index(drop=True)
    counts = labels.value_counts()
    enough = [str(name) for name in counts.index[counts >= MIN_CELLS]]
    if len(enough) < 2:
        raise DataValidationError(
            f"the column {labels_key!r} of the reference has {len(enough)} labels with {MIN_CELLS} cells or more; "
            "expected two or more"
        )
    if small := sorted(map(str, counts.index[(counts > 0) & (counts < MIN_CELLS)])):
        log.warning("labels of fewer than %d cells are left out of the reference: %s", MIN_CELLS, ", ".join(small))
    rng = np.random.default_rng(0)
    names = labels.astype(str).where(labels.notna())
    kept = np.sort(
        np.concatenate([rng.permutation(np.flatnonzero(names == name))[:MAX_CELLS] for name in sorted(enough)])
    )
    expression = read_expression(source, markers, species=species).of_cells(kept)
    told = f"{IN_MEMORY}: {len(kept):,} cells, {len(enough)} labels of {labels_key}"
    return Reference(told, expression, names.iloc[kept].astype("category"))


def label_by_reference(expression: Expression, reference: Reference, ontology: CellOntology) -> pd.DataFrame:
    """The label of each cell by the reference, on the genes that both have.

    Returns:
        (n_cells,) rows: ``label`` and ``ontology_id`` (missing where nothing is near, the id also where the label is no
        name of the Cell Ontology), ``probability`` by the regression, ``similarity`` to the label's centroid
        (correlation), ``proposed_label`` (the best guess for every cell).

    Raises:
        DataValidationError: fewer than 100 genes are shared.
    """
    from sklearn.linear_model import LogisticRegression

    shared = set(expression.genes)
    genes = [gene for gene in reference.expression.genes if gene in shared]
    if len(genes) < MIN_GENES:
        raise DataValidationError(
            f"the cells and the reference share {len(genes)} genes; expected {MIN_GENES} or more, of one species"
        )
    labels, whole = reference.labels, reference.expression.of_genes(genes)
    ranked = set(rank_genes(whole, genes, labels, n_top=N_GENES, method="t-test_overestim_var")["gene"])
    chosen = sorted(ranked | set(_most_varied(expression, genes)))
    telling = np.array([gene in ranked for gene in chosen])
    at = {gene: j for j, gene in enumerate(genes)}
    known = whole[:, [at[gene] for gene in chosen]].toarray().astype(np.float64)
    mean, spread = known.mean(axis=0), known.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)

    def standardised(values: Array) -> Array:
        scaled: Array = np.clip((values - mean) / spread, -MAX_SCALED, MAX_SCALED)
        return scaled

    known = standardised(known)
    names, codes = list(labels.cat.categories), labels.cat.codes.to_numpy()
    fitted = LogisticRegression(C=0.01, class_weight="balanced", max_iter=500).fit(known[:, telling], codes)
    centroids = np.stack([known[codes == i].mean(axis=0) for i in range(len(names))])
    limits = np.array([np.quantile(_correlation(known[codes == i], centroids[i]), MAX_FAR) for i in range(len(names))])
    position = {gene: j for j, gene in enumerate(expression.genes)}
    columns, parts = [position[gene] for gene in chosen], []
    for chunk in expression.values.chunks():
        cells = standardised(chunk[:, columns].toarray())
        chance = fitted.predict_proba(cells[:, telling])
        best = chance.argmax(axis=1)
        parts.append((best, chance.max(axis=1), _correlation(cells, centroids[best])))
    best, probability, similarity = (np.concatenate(part) for part in zip(*parts, strict=True))
    sure = (probability >= MIN_PROBABILITY) & (similarity >= limits[best])
    terms = [ontology.resolve(name) for name in names]
    found = pd.DataFrame(
        {
            "label": [names[i] for i in best],
            "ontology_id": [terms[i] for i in best],
            "probability": probability,
            "similarity": similarity,
            "proposed_label": [names[i] for i in best],
        }
    )
    found.loc[~sure, ["label", "ontology_id"]] = None
    return found


def _most_varied(expression: Expression, genes: Sequence[str]) -> list[str]:
    """The genes, of some, that vary most among the cells: what a foreign cell expresses and no label does."""
    codes = np.zeros(expression.n_cells, dtype=np.int64)
    variance = dict(zip(expression.genes, expression.sums(codes, 1).inside().variance[0], strict=True))
    return sorted(genes, key=lambda gene: (-variance[gene], gene))[:N_VARIED]


def _correlation(cells: Array, centroids: Array) -> Array:
    """(n,) Pearson correlation of each cell with the centroid, or with its own of several."""
    a, b = (values - values.mean(axis=-1, keepdims=True) for values in (cells, centroids))
    length = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=-1))
    found: Array = np.divide((a * b).sum(axis=1), length, out=np.zeros(len(cells)), where=length > 0)
    return found
