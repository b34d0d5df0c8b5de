"""How well known labels can be told from a latent space, beside two honest baselines.

Without test cells every classifier is fitted on four fifths of the labelled cells and asked about the last
fifth, in turn; the scores are those of the pooled answers, so that each cell counts once. The representations
themselves (latent, PCA) have then seen all cells but no label. With test cells, a held-out batch or a share by
chance, classifiers and PCA are fitted on the others and asked about these.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from pydantic import BaseModel
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gca_core.errors import DataValidationError
from gca_core.latent.data.adapter import DataAdapter
from gca_core.matrix.normalise import TARGET_SUM, log_normalise

log = logging.getLogger(__name__)

Space = Literal["latent", "pca", "genes"]
Classifier = Literal["knn", "logistic_regression"]
Matrix = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.object_]
IntArray = npt.NDArray[np.int64]
# indices of the cells to learn from and of those to ask about
Fold = tuple[IntArray, IntArray]
MAX_ITERATIONS = 2000
MAX_DENSE_GENES = 2000
MEASURES = ("macro_f1", "accuracy", "auroc")


class ClassScore(BaseModel, frozen=True):
    """Scores of one label; ``auroc`` is one against the rest, None where there is no rest."""

    label: str
    n_cells: int
    precision: float
    recall: float
    f1: float
    auroc: float | None = None


class Score(BaseModel, frozen=True):
    """One classifier on one representation, on held-out cells.

    Args:
        space: ``latent``, ``pca`` (of the log-normalised counts, as many components as the latent space
            has) or ``genes`` (the log-normalised counts).
        classifier: ``knn`` or ``logistic_regression``.
        accuracy: share of cells with the right answer.
        macro_f1: mean of the labels' F1.
        auroc: mean of the labels' areas under the ROC curve, one against the rest.
        fold_macro_f1: macro-F1 of each fold alone.
        per_class: one row per label.
    """

    space: Space
    classifier: Classifier
    accuracy: float
    macro_f1: float
    auroc: float | None
    fold_macro_f1: tuple[float, ...]
    per_class: tuple[ClassScore, ...]


class Evaluation(BaseModel, frozen=True):
    """Scores of the latent space and of the baselines on the same cells.

    Args:
        protocol: ``folds`` or ``held out``.
        n_folds: folds, stratified by label; 1 with test cells.
        knn_neighbors: neighbours of the kNN classifier.
        n_cells: cells with a label that was evaluated.
        left_out: labels with fewer cells than folds, or without a cell to learn from, and how many cells they have.
        n_unlabelled: cells without a label.
        scores: latent first.
    """

    protocol: Literal["folds", "held out"]
    n_folds: int
    knn_neighbors: int
    n_cells: int
    left_out: dict[str, int]
    n_unlabelled: int
    scores: tuple[Score, ...]

    def flat(self) -> dict[str, float]:
        """The scores by name: ``<space>_<classifier>_<measure>``."""
        return {
            f"{score.space}_{score.classifier}_{measure}": float(value)
            for score in self.scores
            for measure in MEASURES
            if (value := getattr(score, measure)) is not None
        }

    def score(self, space: Space, classifier: Classifier) -> Score:
        """The score of one classifier on one representation."""
        return next(s for s in self.scores if s.space == space and s.classifier == classifier)


def evaluated_cells(data: DataAdapter) -> tuple[IntArray, IntArray | None]:
    """Cells of the evaluation, at most ``evaluation_cells``, and which of them are asked about.

    These are the test cells; without any, the validation cells if labels were trained on; else None, which
    means folds.
    """
    config = data.config
    test = data.test_cells if len(data.test_cells) else data.val_cells if config.label_head else None
    chosen = np.arange(data.n_cells)
    if data.n_cells > config.evaluation_cells:
        chosen = np.sort(np.random.default_rng(config.seed).choice(chosen, config.evaluation_cells, replace=False))
    return chosen, None if test is None else np.flatnonzero(np.isin(chosen, test))


def evaluate_cells(data: DataAdapter, latent: Matrix) -> Evaluation:
    """:func:`evaluate_latent` of the cells of :func:`evaluated_cells`; ``latent`` is theirs, (cells, latent)."""
    config, (chosen, asked) = data.config, evaluated_cells(data)
    return evaluate_latent(
        latent,
        data.rows(chosen),
        np.asarray(data.labels, dtype=object)[chosen],
        n_folds=config.n_folds,
        knn_neighbors=config.knn_neighbors,
        seed=config.seed,
        test_cells=asked,
        library=data.library[chosen],
    )


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
            "choose another labels_key or label_map, or leave labels_key unset to train without evaluation"
        )
    chosen = np.array([label in kept for label in labels])
    training = int(chosen.sum()) * (n_folds - 1) // n_folds
    if training < knn_neighbors:
        raise DataValidationError(
            f"{int(chosen.sum())} labelled cells leave {training} per training fold, fewer than the "
            f"{knn_neighbors} neighbours of the kNN classifier; lower knn_neighbors or label more cells"
        )
    return chosen


def held_out_cells(labels: Labels, test_cells: IntArray, *, knn_neighbors: int) -> tuple[IntArray, IntArray]:
    """Labelled cells to learn from, and test cells whose label is among theirs.

    Raises:
        DataValidationError: fewer than two labels to learn from, too few cells for the neighbours, or no test cell
            with one of these labels.
    """
    labelled = np.flatnonzero([label is not None for label in labels])
    learnt = np.setdiff1d(labelled, test_cells)
    known = {labels[i] for i in learnt}
    if len(known) < 2 or len(learnt) < knn_neighbors:
        raise DataValidationError(
            f"the evaluation needs at least two labels and {knn_neighbors} labelled cells outside the test cells; "
            f"found {len(known)} labels and {len(learnt)} cells; keep fewer cells out, or leave labels_key unset"
        )
    asked = np.array([i for i in test_cells if labels[i] is not None and labels[i] in known], dtype=np.int64)
    if not len(asked):
        raise DataValidationError(
            f"none of the {len(test_cells)} test cells has a label that other cells have too; name other "
            "test_batches, or leave labels_key unset to train without evaluation"
        )
    return learnt, asked


def evaluate_latent(
    latent: Matrix,
    counts: sp.csr_matrix,
    labels: Labels,
    *,
    n_folds: int = 5,
    knn_neighbors: int = 15,
    seed: int = 0,
    test_cells: IntArray | None = None,
    library: npt.NDArray[np.float64] | None = None,
) -> Evaluation:
    """Score a latent space and the baselines.

    Args:
        latent: (cells, latent).
        counts: (cells, genes), for PCA and genes.
        labels: (cells,), None where a cell has no label.
        n_folds: folds, stratified by label, if there are no test cells.
        knn_neighbors: neighbours of the kNN classifier, Euclidean, uniform weights.
        seed: of the folds.
        test_cells: indices of the cells to ask about; the others are learnt from.
        library: (cells,) counts per cell over all genes, for the baselines; None means over ``counts``.

    Raises:
        DataValidationError: fewer than two labels with enough cells.
    """
    everyone = np.arange(len(labels))
    fitted: IntArray | None = None
    if test_cells is None or not len(test_cells):
        chosen = np.flatnonzero(evaluable_cells(labels, n_folds=n_folds, knn_neighbors=knn_neighbors))
        parts = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(chosen, labels[chosen].astype(str))
        folds = [(chosen[train], chosen[test]) for train, test in parts]
    else:
        folds = [held_out_cells(labels, test_cells, knn_neighbors=knn_neighbors)]
        fitted, everyone = np.setdiff1d(everyone, test_cells), test_cells
    expression = log_expression(counts, library)
    pca = principal_components(expression, latent.shape[1], fitted)
    knn = KNeighborsClassifier(knn_neighbors)
    logistic = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=MAX_ITERATIONS))
    spaces: list[tuple[Space, Classifier, Any, BaseEstimator]] = [
        ("latent", "knn", latent, knn),
        ("latent", "logistic_regression", latent, logistic),
        ("pca", "knn", pca, knn),
        ("pca", "logistic_regression", pca, logistic),
        ("genes", "logistic_regression", expression, logistic),
    ]
    asked = np.concatenate([test for _, test in folds])
    sizes = Counter(str(labels[i]) for i in everyone if labels[i] is not None)
    evaluated = {str(labels[i]) for i in asked}
    return Evaluation(
        protocol="folds" if fitted is None else "held out",
        n_folds=len(folds),
        knn_neighbors=knn_neighbors,
        n_cells=len(asked),
        left_out={label: n for label, n in sorted(sizes.items()) if label not in evaluated},
        n_unlabelled=int(sum(labels[i] is None for i in everyone)),
        scores=tuple(_score(space, name, X, labels, model, folds) for space, name, X, model in spaces),
    )


def label_scores(truth: npt.NDArray[np.str_], probabilities: Matrix, classes: npt.NDArray[np.str_]) -> dict[str, Any]:
    """Accuracy, macro-F1, AUROC and the per-class table of some answers.

    Args:
        truth: (cells,).
        probabilities: (cells, classes); the answer is the largest.
        classes: names of the columns.

    Returns:
        The fields of :class:`Score` that answers decide, but ``fold_macro_f1``.
    """
    answers = classes[probabilities.argmax(axis=1)]
    names = sorted(set(truth))
    precision, recall, f1, support = precision_recall_fscore_support(truth, answers, labels=names, zero_division=0)
    areas = [
        # a label that all cells have has no rest
        _rounded(roc_auc_score(truth == name, probabilities[:, np.flatnonzero(classes == name)].sum(axis=1)))
        if len(names) > 1
        else None
        for name in names
    ]
    known = [area for area in areas if area is not None]
    return {
        "accuracy": _rounded(accuracy_score(truth, answers)),
        "macro_f1": _rounded(np.mean(f1)),
        "auroc": _rounded(np.mean(known)) if known else None,
        "per_class": tuple(
            ClassScore(
                label=name, n_cells=int(n), precision=_rounded(p), recall=_rounded(r), f1=_rounded(f), auroc=area
            )
            for name, n, p, r, f, area in zip(names, support, precision, recall, f1, areas, strict=True)
        ),
    }


def principal_components(expression: sp.csr_matrix, n_components: int, fitted: IntArray | None = None) -> Matrix:
    """Scores of the first components of centred expression, (cells, components).

    Up to 2,000 genes by the eigenvectors of the covariance, O(cells genes^2); above that by a Lanczos solver
    that keeps the matrix sparse.

    Args:
        expression: (cells, genes).
        n_components: how many.
        fitted: the cells that decide the components; None means all.
    """
    own = expression if fitted is None else expression[fitted]
    n_components = min(n_components, *(size - 1 for size in own.shape))
    few = expression.shape[1] <= MAX_DENSE_GENES
    pca = PCA(n_components, svd_solver="covariance_eigh" if few else "arpack", random_state=0)
    result: Matrix
    if fitted is None:
        result = pca.fit_transform(expression.toarray() if few else expression)
    else:
        result = pca.fit(own.toarray() if few else own).transform(expression.toarray() if few else expression)
    return result


def log_expression(counts: sp.csr_matrix, library: npt.NDArray[np.float64] | None) -> sp.csr_matrix:
    """log1p of counts per 10,000 of the library, (cells, genes).

    Args:
        counts: (cells, genes).
        library: (cells,) counts per cell over all genes; None means over ``counts``.
    """
    if library is None:
        return log_normalise(counts)
    values = np.log1p(counts.data * np.repeat(TARGET_SUM / np.maximum(library, 1), np.diff(counts.indptr)))
    return sp.csr_matrix((values.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)


def _score(
    space: Space, classifier: Classifier, X: Any, labels: Labels, model: BaseEstimator, folds: Sequence[Fold]
) -> Score:
    classes = np.array(sorted({str(labels[i]) for train, _ in folds for i in train}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        parts = [_probabilities(clone(model), X, labels, train, test, classes) for train, test in folds]
    if any(issubclass(w.category, ConvergenceWarning) for w in caught):
        log.warning("%s on %s did not converge in %d iterations", classifier, space, MAX_ITERATIONS)
    truths = [labels[test].astype(str) for _, test in folds]
    by_fold = (
        f1_score(truth, classes[p.argmax(axis=1)], labels=sorted(set(truth)), average="macro", zero_division=0)
        for truth, p in zip(truths, parts, strict=True)
    )
    return Score(
        space=space,
        classifier=classifier,
        fold_macro_f1=tuple(map(_rounded, by_fold)),
        **label_scores(np.concatenate(truths), np.concatenate(parts), classes),
    )


def _probabilities(
    model: Any, X: Any, labels: Labels, train: IntArray, test: IntArray, classes: npt.NDArray[np.str_]
) -> Matrix:
    """Probabilities of the cells to ask about, (cells, classes)."""
    model.fit(X[train], labels[train].astype(str))
    result = np.zeros((len(test), len(classes)))
    result[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(X[test])
    return result


def _rounded(value: Any) -> float:
    return round(float(value), 6)
