"""Labels of cells by labelled cells of the user's: a logistic regression, and the nearest centroid as its limit."""

from __future__ import annotations

import logging
import os
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
    known = reference.expression.of_genes(genes)
    labels = reference.labels
    ranked = rank_genes(known, genes, labels, n_top=N_GENES, method="t-test_overestim_var")
    chosen = [gene for gene in genes if gene in set(ranked["gene"])]
    at = {gene: j for j, gene in enumerate(genes)}
    learnt = known[:, [at[gene] for gene in chosen]].toarray().astype(np.float64)
    cells = expression.of_genes(chosen).toarray().astype(np.float64)
    mean, spread = learnt.mean(axis=0), learnt.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    names, codes = list(labels.cat.categories), labels.cat.codes.to_numpy()
    # standardised by the reference: a foreign cell then correlates .12 with the nearest label, and a known one .5
    learnt, cells = (np.clip((values - mean) / spread, -MAX_SCALED, MAX_SCALED) for values in (learnt, cells))
    fitted = LogisticRegression(C=0.01, class_weight="balanced", max_iter=500).fit(learnt, codes)
    probability = fitted.predict_proba(cells)
    best = probability.argmax(axis=1)
    centroids = np.stack([learnt[codes == i].mean(axis=0) for i in range(len(names))])
    limits = [np.quantile(_correlation(learnt[codes == i], centroids[i]), MAX_FAR) for i in range(len(names))]
    similarity = _to_own(cells, centroids, best)
    sure = (probability.max(axis=1) >= MIN_PROBABILITY) & (similarity >= np.array(limits)[best])
    terms = {name: ontology.resolve(name) for name in names}
    found = pd.DataFrame(
        {
            "label": [names[i] for i in best],
            "ontology_id": [terms[names[i]] for i in best],
            "probability": probability.max(axis=1),
            "similarity": similarity,
            "proposed_label": [names[i] for i in best],
        }
    )
    found.loc[~sure, ["label", "ontology_id"]] = None
    return found


def _to_own(cells: Array, centroids: Array, best: npt.NDArray[np.int64]) -> Array:
    similarity = np.zeros(len(cells))
    for i in np.unique(best):
        similarity[best == i] = _correlation(cells[best == i], centroids[i])
    return similarity


def _correlation(cells: Array, centroid: Array) -> Array:
    """(n,) Pearson correlation of each cell with the centroid."""
    a, b = cells - cells.mean(axis=1, keepdims=True), centroid - centroid.mean()
    length = np.sqrt((a**2).sum(axis=1) * (b**2).sum())
    found: Array = np.divide(a @ b, length, out=np.zeros(len(cells)), where=length > 0)
    return found
