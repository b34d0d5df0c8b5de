"""A prediction beside measured cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from gca_core import io
from gca_core.errors import DataValidationError
from gca_core.haystack.models import IterationConfig
from gca_core.haystack.results.files import ENDINGS
from gca_core.haystack.results.predictions import KIND
from gca_core.inference.prediction import LOG, change, differential_change
from gca_core.matrix.cells import open_cells, read_h5ad
from gca_core.matrix.compare import de_overlap, log_fold_change, pearson
from gca_core.matrix.differential import differential_expression
from gca_core.matrix.genes import unique_symbols
from gca_core.matrix.kinds import to_csr
from gca_core.matrix.normalise import log_normalise
from gca_core.matrix.places import counts_place

if TYPE_CHECKING:
    from anndata import AnnData

Array = npt.NDArray[np.float64]

TOP_GENES = 50
INSTALL = "needs cell-eval: pip install cell-eval"


class Truth(BaseModel, frozen=True):
    """Measured cells in a file.

    Args:
        uri: raw counts of perturbed and control cells.
        perturbation_column: obs column with the perturbation.
        control_value: its value for control cells.
        perturbation: its value for the perturbed cells; may be left out where there is only one.
        cell_type_column: obs column with the cell type; all cells count where None.
        cell_type: its value for the cells to compare with.
        donor_column: obs column with the donor; with three or more, differential expression goes by donors.
        layer: where the counts are; ``X`` where None.
    """

    uri: str
    perturbation_column: str
    control_value: str
    perturbation: str | None = None
    cell_type_column: str | None = None
    cell_type: str | None = None
    donor_column: str | None = None
    layer: str | None = None


class TruthComparison(BaseModel, frozen=True):
    """How a prediction agrees with the measured response, over the genes of both.

    Args:
        pearson_lfc: Pearson correlation of the changes of mean log1p(CP10k).
        de_overlap_50: share of the 50 largest changes that are among the measured ones.
        n_genes, n_true_cells, n_control_cells: what was compared.
        n_de_true, n_de_predicted, n_de_shared: differentially expressed genes, by the run's own limits.
        de_recall: share of the measured ones that are predicted; None where none was measured.
        direction_agreement: share of the measured ones whose predicted change has the measured sign; likewise.
        discrimination: by cell-eval: 1 where the measured response to the asked perturbation is the nearest to the
            prediction of all that were measured (Manhattan distance), near 0 where it is the farthest.
        n_perturbations: measured perturbations that this is among.
        discrimination_note: why there is none; empty where there is one.
    """

    pearson_lfc: float
    de_overlap_50: float
    n_genes: int
    n_true_cells: int
    n_control_cells: int
    n_de_true: int
    n_de_predicted: int
    n_de_shared: int
    de_recall: float | None = None
    direction_agreement: float | None = None
    discrimination: float | None = None
    n_perturbations: int = 1
    discrimination_note: str = ""


@dataclass(frozen=True)
class _Measured:
    """Counts of treated and control cells over some genes; of further perturbations the mean log1p(CP10k)."""

    genes: Sequence[str]
    treated: Any
    control: Any
    donors: tuple[Sequence[Any], Sequence[Any]] | None = None
    name: str = "asked"
    others: Mapping[str, Array] = field(default_factory=dict)


def compare_run(result_uri: str, truth: Truth) -> TruthComparison:
    """Compare a run with measured cells.

    Args:
        result_uri: the predictions of a run, or the folder of its results.
        truth: what was measured.

    Raises:
        DataValidationError: there is no such result, the file of measured cells lacks a column, a value or counts, or
            the two share too few genes.
    """
    return _compare(_predictions(result_uri), _read(truth))


def compare_with_truth(prediction_uri: str, truth: AnnData, control: AnnData) -> TruthComparison:
    """Compare predicted cells with measured ones that are at hand.

    Args:
        prediction_uri: ``_predictions.h5ad`` of a run.
        truth: measured perturbed cells, raw counts.
        control: measured control cells of the same type, raw counts.

    Raises:
        DataValidationError: the file is no result, or shares too few genes.
    """
    names = truth.var_names.astype(str).tolist()
    return _compare(prediction_uri, _Measured(names, truth.X, control[:, truth.var_names].X))


def _predictions(uri: str) -> str:
    """The predictions of a run: the file itself, or the only one in a folder."""
    path = io.as_path(uri)
    if not path.is_dir():
        return uri
    found = sorted(each.name for each in path.iterdir() if each.name.endswith(f"_{ENDINGS['h5ad']}"))
    if len(found) != 1:
        raise DataValidationError(f"{uri} holds {len(found)} files of predictions; name one, RUN_{ENDINGS['h5ad']}")
    return io.join_uri(uri, found[0])


def _compare(prediction_uri: str, measured: _Measured) -> TruthComparison:
    result = read_h5ad(prediction_uri, what="result")
    if KIND not in result.obs:
        raise DataValidationError(
            f"{prediction_uri!r} has no obs[{KIND!r}]; pass the _{ENDINGS['h5ad']} that a run left"
        )
    if LOG not in result.layers:
        result.layers[LOG] = log_normalise(result.X)
    kind = result.obs[KIND].to_numpy()
    sides = [result[kind == side] for side in ("prediction", "control")]
    asked = str(result.uns.get("config", "{}"))
    limits = IterationConfig.model_validate_json(asked).grounding
    names = {gene: i for i, gene in enumerate(measured.genes)}
    place = np.array([names.get(gene, -1) for gene in result.var_names.astype(str)])
    shared = place >= 0
    if shared.sum() < 2:
        first = ", ".join([*measured.genes[:3], "..."])
        raise DataValidationError(
            f"the prediction and the measured cells share {int(shared.sum())} genes; expected gene symbols, as in the "
            f"prediction ({', '.join(result.var_names[:3])}, ...), and found {first}"
        )
    place = place[shared]
    expected = differential_change(*sides, min_lfc=limits.min_lfc, max_padj=limits.max_padj)
    true = differential_expression(
        log_normalise(measured.treated),
        log_normalise(measured.control),
        measured.genes,
        donors=measured.donors,
        min_lfc=limits.min_lfc,
        max_padj=limits.max_padj,
    )
    predicted, response = change(*sides)[shared], log_fold_change(measured.treated, measured.control)[place]
    is_de, was_de = expected.is_de[shared], true.is_de[place]
    same_way = np.sign(predicted) == np.sign(response)
    scored = _discrimination(sides, result.var_names[shared].astype(str).tolist(), shared, place, measured)
    return TruthComparison(
        pearson_lfc=pearson(predicted, response),
        de_overlap_50=de_overlap(predicted, response, TOP_GENES),
        n_genes=int(shared.sum()),
        n_true_cells=measured.treated.shape[0],
        n_control_cells=measured.control.shape[0],
        n_de_true=int(was_de.sum()),
        n_de_predicted=int(is_de.sum()),
        n_de_shared=int((is_de & was_de).sum()),
        de_recall=float(is_de[was_de].mean()) if was_de.any() else None,
        direction_agreement=float(same_way[was_de].mean()) if was_de.any() else None,
        **scored,
    )


def _discrimination(
    sides: Sequence[AnnData], genes: list[str], shared: npt.NDArray[np.bool_], place: Any, measured: _Measured
) -> dict[str, Any]:
    """The fields of the discrimination score, which needs the measured response to another perturbation."""
    n = 1 + len(measured.others)
    if n == 1:
        return {"discrimination_note": "needs cells of another perturbation in the file of measured cells"}
    if find_spec("cell_eval") is None:
        return {"n_perturbations": n, "discrimination_note": INSTALL}
    import anndata as ad
    import pandas as pd
    from cell_eval import PerturbationAnndataPair
    from cell_eval.metrics import discrimination_score

    treated, control = (
        np.asarray(log_normalise(X).mean(axis=0), dtype=np.float64).ravel()[place]
        for X in (measured.treated, measured.control)
    )
    predicted, own_control = (np.asarray(side.layers[LOG].mean(axis=0)).ravel()[shared] for side in sides)
    others = {name: mean[place] for name, mean in measured.others.items()}
    # a pair has to hold all perturbations on both sides; those that were not predicted stand for themselves
    obs = pd.DataFrame({"perturbation": ["", measured.name, *others]}, index=list(map(str, range(n + 1))))
    var = pd.DataFrame(index=pd.Index(genes))
    real = ad.AnnData(np.vstack([control, treated, *others.values()]), obs=obs, var=var)
    pred = ad.AnnData(np.vstack([own_control, predicted, *others.values()]), obs=obs.copy(), var=var.copy())
    # it draws progress bars
    with redirect_stderr(StringIO()):
        scores = discrimination_score(PerturbationAnndataPair(real, pred, "perturbation", ""), metric="l1")
    return {"n_perturbations": n, "discrimination": float(scores[measured.name])}


def _read(truth: Truth) -> _Measured:
    """The measured cells of a file: those of the asked type, by perturbation."""
    if truth.cell_type is not None and truth.cell_type_column is None:
        raise DataValidationError(f"the cell type {truth.cell_type!r} is given without the column that holds it")
    columns = [truth.perturbation_column, truth.cell_type_column, truth.donor_column]
    asked = [column for column in columns if column is not None]
    with open_cells(truth.uri, what="file of measured cells") as file:
        there = file.columns("obs")
        if lacking := [column for column in asked if column not in there]:
            raise DataValidationError(f"{truth.uri}: obs has no column {lacking[0]!r}; it has {', '.join(there)}")
        cells = file.read(columns=asked)
        counts = counts_place(cells, truth.layer)
        genes = unique_symbols(counts.var, counts.name, fallback=counts.fallback)
        matrix = to_csr(counts.X)
    if truth.cell_type_column is not None:
        of_type = _rows(cells, truth.cell_type_column, truth.cell_type, truth.uri)
        cells, matrix = cells[of_type], matrix[of_type]
    values = cells.obs[truth.perturbation_column].astype(str)
    present = sorted(set(values[cells.obs[truth.perturbation_column].notna()]) - {truth.control_value})
    name = truth.perturbation or (present[0] if len(present) == 1 else None)
    treated = _rows(cells, truth.perturbation_column, name, truth.uri)
    control = _rows(cells, truth.perturbation_column, truth.control_value, truth.uri)
    donors = None
    if truth.donor_column is not None:
        column = cells.obs[truth.donor_column]
        donors = column[treated].tolist(), column[control].tolist()
    others = {other: matrix[(values == other).to_numpy()] for other in present if other != name}
    means = {k: np.asarray(log_normalise(X).mean(axis=0), dtype=np.float64).ravel() for k, X in others.items()}
    return _Measured(genes, matrix[treated], matrix[control], donors, str(name), means)


def _rows(cells: AnnData, column: str, value: str | None, uri: str) -> npt.NDArray[np.bool_]:
    """Which cells have this value."""
    found = cells.obs[column]
    rows: npt.NDArray[np.bool_] = ((found.astype(str) == value) & found.notna()).to_numpy(dtype=bool)
    if value is None or not rows.any():
        values = sorted(set(found.dropna().astype(str)))
        shown = ", ".join(values[:20]) + (f" and {len(values) - 20} more" if len(values) > 20 else "")
        what = f"is no {value!r}" if value is not None else "are several values, name the one to compare with"
        raise DataValidationError(f"{uri}: in the column {column!r} there {what}; it holds {shown or 'nothing'}")
    return rows
