"""Activity of transcription factors, from a table of their targets that a user brings."""

from __future__ import annotations

import csv
import math

import numpy as np
from scipy import stats

from gca_core import io
from gca_core.errors import DataValidationError
from gca_core.grounding.enrichment import read_gmt, weight_matrix
from gca_core.grounding.models import RegulatorActivity
from gca_core.matrix.differential import DifferentialExpression, adjust
from gca_core.matrix.stats import univariate_model

SOURCE, TARGET, WEIGHT = ("source", "tf"), ("target", "gene"), ("weight", "mor")


def read_regulons(uri: str) -> dict[str, dict[str, float]]:
    """Targets of each transcription factor with their weights, positive where it activates.

    A table, separated by tabs or commas, has a line of names with ``source`` (or ``tf``), ``target`` (or ``gene``) and
    maybe ``weight`` (or ``mor``), as decoupler's networks do. Anything else is read as GMT, all of whose genes are
    activated.

    Raises:
        DataValidationError: there is no such file, it is neither, or a weight is no number.
    """
    text = io.read_text(uri, what="regulon table")
    lines = text.splitlines()
    separator = "\t" if "\t" in (lines[0] if lines else "") else ","
    try:
        rows = list(csv.reader(lines, delimiter=separator))
    except csv.Error as error:
        raise DataValidationError(f"{uri} is no table: {error}") from None
    head = [name.strip().casefold() for name in rows[0]] if rows else []
    at = [next((head.index(name) for name in names if name in head), None) for names in (SOURCE, TARGET, WEIGHT)]
    if at[0] is None or at[1] is None:
        return {name: dict.fromkeys(sorted(genes), 1.0) for name, genes in read_gmt(uri).items()}
    found: dict[str, dict[str, float]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            source, target = row[at[0]].strip(), row[at[1]].strip()
            weight = 1.0 if at[2] is None else float(row[at[2]])
        except (IndexError, ValueError):
            source, target, weight = "", "", math.nan
        if not (source and target and math.isfinite(weight)):
            raise DataValidationError(f"line {number} of {uri} has no transcription factor, target and finite weight")
        found.setdefault(source, {})[target] = weight
    if not found:
        raise DataValidationError(f"{uri} holds no targets; expected lines of {separator.join(head)}")
    return found


def regulator_activity(
    found: DifferentialExpression, regulons: dict[str, dict[str, float]], min_targets: int
) -> list[RegulatorActivity]:
    """Each factor with ``min_targets`` measured targets, the most significant first; by decoupler's ``ulm``."""
    weights = weight_matrix(regulons, found.genes)
    measured = np.diff(weights.indptr)
    kept = np.flatnonzero(measured >= min_targets)
    (t,) = univariate_model(weights[kept], found.lfc)
    p = 2.0 * stats.t.sf(np.abs(t), max(len(found.lfc) - 2, 1))
    padj = adjust(p)
    names = list(regulons)
    order = sorted(range(len(kept)), key=lambda i: (p[i], -abs(t[i]), names[kept[i]]))
    return [
        RegulatorActivity(
            name=names[kept[i]],
            n_targets=int(measured[kept[i]]),
            t=round(float(t[i]), 3),
            padj=float(f"{padj[i]:.3g}"),
        )
        for i in order
    ]
