"""How well known labels can be told from a latent space, beside two honest baselines.

Every classifier is fitted on four fifths of the labelled cells and asked about the last fifth, in turn;
the scores are those of the pooled answers, so that each cell counts once. The representations
themselves (latent, PCA) have seen all cells but no label.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from pydantic import BaseModel, ConfigDict
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gca_core.errors import DataValidationError
from gca_core.matrix.normalise import log_normalise

log = logging.getLogger(__name__)

Space = Literal["latent", "pca", "genes"]
Classifier = Literal["knn", "logistic_regression"]
Matrix = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.object_]
MAX_ITERATIONS = 2000
MAX_DENSE_GENES = 2000


class ClassScore(BaseModel):
    """Scores of one label."""

    model_config = ConfigDict(frozen=True)

    label: str
    n_cells: int
    precision: float
    recall: float
    f1: float


class Score(BaseModel):
    """One classifier on one representation, on held-out cells.

    Args:
        space: ``latent``, ``pca`` (of the log-normalised counts, as many components as the latent space
            has) or ``genes`` (the log-normalised counts).
        classifier: ``knn`` or ``logistic_regression``.
        accuracy: share of cells with the right answer.
        macro_f1: mean of the labels' F1.
        fold_macro_f1: macro-F1 of each fold alone.
        per_class: one row per label.
    """

    model_config = ConfigDict(frozen=True)

    space: Space
    classifier: Classifier
    accuracy: float
    macro_f1: float
    fold_macro_f1: tuple[float, ...]
    per_class: tuple[ClassScore, ...]


class Evaluation(BaseModel):
    """Scores of the latent space and of the baselines on the same folds.

    Args:
        n_folds: folds, stratified by label.
        knn_neighbors: neighbours of the kNN classifier.
        n_cells: cells with a label that was evaluated.
        left_out: labels with fewer cells than folds, and how many cells they have.
        n_unlabelled: cells without a label.
        scores: latent first.
    """

    model_config = ConfigDict(frozen=True)

    n_folds: int
    knn_neighbors: int
    n_cells: int
    left_out: dict[str, int]
    n_unlabelled: int
    scores: tuple[Score, ...]

    def score(self, space: Space, classifier: Classifier) -> Score:
        """The score of one classifier on one representation."""
        return next(s for s in self.scores if s.space == space and s.classifier == classifier)


def evaluable_cells(labels: Labels, *, n_folds: int, knn_neighbors: int) -> npt.NDArray[np.bool_]:
    """Which cells can be evaluated, (cells,): those whose label has at least ``n_folds`` cells.

    Raises:
        DataValidationError: fewer than two such labels, or too few cells for the neighbours.
    """
    sizes = Counter(label for label in labels if label is not None)
    kept = {label for label, n in sizes.items() if n >= n_folds}
    if len(kept) < 2:
        found = ", ".join(f"{label!r} ({n} cells)" for label, n in sorted(sizes.items())) or "none"
        raise DataValidationError(
            f"the evaluation needs at least two labels with {n_folds} cells each; found {found}; "
            "choose another label_key or label_map, or leave label_key unset to train without evaluation"
        )
    chosen = np.array([label in kept for label in labels])
    training = int(chosen.sum()) * (n_folds - 1) // n_folds
    if training < knn_neighbors:
        raise DataValidationError(
            f"{int(chosen.sum())} labelled cells leave {training} per training fold, fewer than the "
            f"{knn_neighbors} neighbours of the kNN classifier; lower knn_neighbors or label more cells"
        )
    return chosen


def evaluate_latent(
    latent: Matrix,
    counts: sp.csr_matrix,
    labels: Labels,
    *,
    n_folds: int = 5,
    knn_neighbors: int = 15,
    seed: int = 0,
) -> Evaluation:
    """Score a latent space and the baselines.

    Args:
        latent: (cells, latent).
        counts: (cells, genes), for PCA and genes.
        labels: (cells,), None where a cell has no label.
        n_folds: folds, stratified by label.
        knn_neighbors: neighbours of the kNN classifier, Euclidean, uniform weights.
        seed: of the folds.

    Raises:
        DataValidationError: fewer than two labels with enough cells.
    """
    chosen = evaluable_cells(labels, n_folds=n_folds, knn_neighbors=knn_neighbors)
    expression = log_normalise(counts)
    truth = labels[chosen].astype(str)
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    pca = principal_components(expression, latent.shape[1])
    plan: list[tuple[Space, Classifier, Any, BaseEstimator]] = [
        ("latent", "knn", latent[chosen], _knn(knn_neighbors)),
        ("latent", "logistic_regression", latent[chosen], _logistic_regression()),
        ("pca", "knn", pca[chosen], _knn(knn_neighbors)),
        ("pca", "logistic_regression", pca[chosen], _logistic_regression()),
        ("genes", "logistic_regression", expression[np.flatnonzero(chosen)], _logistic_regression()),
    ]
    scores = tuple(_score(space, name, X, truth, model, folds) for space, name, X, model in plan)
    sizes = Counter(label for label in labels if label is not None)
    return Evaluation(
        n_folds=n_folds,
        knn_neighbors=knn_neighbors,
        n_cells=int(chosen.sum()),
        left_out={label: n for label, n in sorted(sizes.items()) if n < n_folds},
        n_unlabelled=int(sum(label is None for label in labels)),
        scores=scores,
    )


def principal_components(expression: sp.csr_matrix, n_components: int) -> Matrix:
    """Scores of the first components of centred expression, (cells, components).

    Up to 2,000 genes by the eigenvectors of the covariance, O(cells genes^2); above that by a Lanczos solver
    that keeps the matrix sparse.
    """
    n_components = min(n_components, *(size - 1 for size in expression.shape))
    few = expression.shape[1] <= MAX_DENSE_GENES
    pca = PCA(n_components, svd_solver="covariance_eigh" if few else "arpack", random_state=0)
    result: Matrix = pca.fit_transform(expression.toarray() if few else expression)
    return result


def _knn(n_neighbors: int) -> BaseEstimator:
    return KNeighborsClassifier(n_neighbors)


def _logistic_regression() -> BaseEstimator:
    return make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=MAX_ITERATIONS))


def _score(
    space: Space,
    classifier: Classifier,
    X: Any,
    truth: npt.NDArray[np.str_],
    model: BaseEstimator,
    folds: StratifiedKFold,
) -> Score:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        answers = cross_val_predict(model, X, truth, cv=folds)
    if any(issubclass(w.category, ConvergenceWarning) for w in caught):
        log.warning("%s on %s did not converge in %d iterations", classifier, space, MAX_ITERATIONS)
    names = sorted(set(truth))
    precision, recall, f1, support = precision_recall_fscore_support(truth, answers, labels=names, zero_division=0)
    by_fold = (f1_score(truth[i], answers[i], average="macro", zero_division=0) for _, i in folds.split(X, truth))
    return Score(
        space=space,
        classifier=classifier,
        accuracy=_rounded(accuracy_score(truth, answers)),
        macro_f1=_rounded(np.mean(f1)),
        fold_macro_f1=tuple(map(_rounded, by_fold)),
        per_class=tuple(
            ClassScore(label=name, n_cells=int(n), precision=_rounded(p), recall=_rounded(r), f1=_rounded(f))
            for name, n, p, r, f in zip(names, support, precision, recall, f1, strict=True)
        ),
    )


def _rounded(value: Any) -> float:
    return round(float(value), 6)
