"""The clusters of an AnnData as annotation sees them, and the columns it writes for their cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gca_core.annotation.models import Annotation
from gca_core.errors import DataValidationError
from gca_core.matrix.peek import require_columns

if TYPE_CHECKING:
    from anndata import AnnData


def check_columns(adata: AnnData, cluster_key: str | None, labels_key: str | None) -> None:
    """Refuse columns that ``obs`` lacks.

    Raises:
        DataValidationError: names the columns that are there.
    """
    require_columns(adata.obs.columns, {"cluster": cluster_key, "label": labels_key})


def read_groups(adata: AnnData, cluster_key: str) -> pd.Series:
    """The cluster of each cell as a categorical without unused categories, in category order.

    Raises:
        DataValidationError: no cell has a cluster, or there are so many that it is no column of clusters.
    """
    groups = as_groups(adata.obs[cluster_key])
    n = len(groups.cat.categories)
    if n == 0:
        raise DataValidationError(f"the cluster column {cluster_key!r} is empty: every cell's cluster is missing")
    if n > max(200, adata.n_obs // 2) or (n == adata.n_obs and n > 1):
        raise DataValidationError(
            f"the cluster column {cluster_key!r} has {n} values for {adata.n_obs} cells; that looks like a "
            "measurement or a name, not clusters"
        )
    return groups


def as_groups(values: pd.Series) -> pd.Series:
    """A categorical without unused categories; values of several types are in the order of their text."""
    try:
        return values.astype("category").cat.remove_unused_categories()
    except (TypeError, ValueError):
        plain = values.astype(object)
        names = sorted(plain.dropna().unique(), key=lambda name: (str(name), type(name).__name__))
        return pd.Series(pd.Categorical(plain, categories=names), index=values.index, name=values.name)


def broadcast_to_cells(groups: pd.Series, values: Sequence[str | None]) -> pd.Series:
    """The value of each cell's cluster; missing where the cell has none."""
    return pd.Series(_column(groups, values), index=groups.index)


def write_columns(
    adata: AnnData,
    groups: pd.Series,
    annotations: Sequence[Annotation],
    prefix: str,
    *,
    computed: bool,
    vocabulary: bool,
) -> None:
    """Write the annotations of the clusters to ``obs``, and the clusters where they were computed.

    Without a vocabulary, the column of an earlier one goes, unless it holds the clusters.
    """
    columns: dict[str, list[str | None]] = {
        "label": [a.primary_label for a in annotations],
        "ontology_id": [a.ontology_id for a in annotations],
        "confidence": [a.confidence.value for a in annotations],
        "status": [a.status.value for a in annotations],
        "proposed_label": [a.proposed_label for a in annotations],
        "rationale": [a.rationale for a in annotations],
        "canonical_markers": [", ".join(g.gene for g in a.evidence.supporting) for a in annotations],
        "mapping_notes": ["; ".join(a.caveats) for a in annotations],
    }
    named = f"{prefix}vocabulary_label"
    if vocabulary:
        columns["vocabulary_label"] = [a.vocabulary_label for a in annotations]
    elif named in adata.obs and named != groups.name:
        del adata.obs[named]
    if computed:
        adata.obs[f"{prefix}cluster"] = pd.Categorical(groups)
    for name, values in columns.items():
        adata.obs[f"{prefix}{name}"] = _column(groups, values)


def _column(groups: pd.Series, values: Sequence[str | None]) -> pd.Categorical:
    names = sorted({value for value in values if value is not None})
    place = {name: i for i, name in enumerate(names)}
    # the last one is for cells without a cluster, whose code is -1
    lookup = np.array([*(-1 if value is None else place[value] for value in values), -1], dtype=np.int64)
    codes = lookup[groups.cat.codes.to_numpy()]
    return pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype=object))
