"""Fit the curves of gca_core/annotation/scoring/confidence.py and print them.

    GCA_BENCH_DATA=../shared/data python scripts/fit_calibration.py

Reads the half of the development clusters that the benchmark doesn't report on, and nothing else of it. Needs
scikit-learn. The same metrics come out each time; write them into the defaults of ``Calibration``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))

from published_clusters import (  # noqa: E402
    FOLDER,
    LabelTable,
    PublishedCluster,
    area_under_curve,
    guess_published,
    read_clusters,
    shuffle_genes,
)

from gca_core.annotation.markers.load import load_marker_database  # noqa: E402
from gca_core.annotation.scoring.confidence import Metrics  # noqa: E402
from gca_core.knowledge.bundled.ontology import load_ontology  # noqa: E402

RECOGNISED = ("coherence", "kinship", "score")
RIGHT = ("coherence", "kinship", "margin")
N_SHUFFLES = 4
# weight of a shuffled list among the wrong labels: such lists are rarer than wrong labels on real ones
SHUFFLED_WEIGHT = 0.03
# what the thresholds are chosen for, on this half: shuffled lists lost, and precision at High
LOST, HIGH = 0.83, 0.92

Array = npt.NDArray[np.float64]


def metrics_of(clusters: Sequence[PublishedCluster]) -> tuple[list[str], list[Metrics]]:
    """The best guess for each cluster, and the metrics of its confidence."""
    found = guess_published(clusters, load_marker_database())
    return [label for label, _ in found], [metrics for _, metrics in found]


def columns(metrics: Sequence[Metrics], names: Sequence[str]) -> Array:
    """(n, k) values of the named metrics."""
    return np.array([[getattr(f, name) for name in names] for f in metrics])


def fit(X: Array, y: Array, weight: Array) -> LogisticRegression:
    """A logistic curve with weak shrinkage."""
    return LogisticRegression(C=3.0, max_iter=5000).fit(X, y, sample_weight=weight)


def report(name: str, names: Sequence[str], model: LogisticRegression) -> None:
    """Print a curve as the module writes it."""
    weights = ", ".join(f"{n}={w:.2f}" for n, w in zip(names, model.coef_[0], strict=True))
    print(f"{name}: Curve(intercept={model.intercept_[0]:.2f}, weights=Metrics({weights}))")


def threshold_for(score: Array, right: Array, precision: float) -> float:
    """The least score from which on, at each higher one with twenty labels or more, the precision is reached."""
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    reached = [i for i in range(19, len(order)) if found[i] >= precision]
    return float(score[order][max(reached)]) if reached else 1.0


def main() -> None:
    folder = Path(os.environ.get("GCA_BENCH_DATA", ROOT.parent / "shared" / "data")) / FOLDER
    clusters = [c for c in read_clusters(folder) if not c.reporting]
    table = LabelTable(folder, load_ontology())
    guesses, real = metrics_of(clusters)
    partial = np.array([table.agreement(g, c.manual) >= 0.5 for g, c in zip(guesses, clusters, strict=True)])
    shuffled = [f for seed in range(1, N_SHUFFLES + 1) for f in metrics_of(shuffle_genes(clusters, seed))[1]]
    both = [*real, *shuffled]
    is_real = np.arange(len(both)) < len(real)

    X = columns(both, RECOGNISED)
    recognised = fit(X, is_real, np.where(is_real, 1.0, 1.0 / N_SHUFFLES))
    report("recognised", RECOGNISED, recognised)
    known = recognised.predict_proba(X)[:, 1]
    unknown = float(np.quantile(known[~is_real], LOST))
    print(
        f"unknown: {unknown:.2f}  (lists lost {(known[~is_real] < unknown).mean():.3f}, "
        f"clusters lost {(known[is_real] < unknown).mean():.3f})"
    )

    X = columns(both, RIGHT)
    y = np.concatenate([partial, np.zeros(len(shuffled), dtype=bool)])
    right = fit(X, y, np.where(is_real, 1.0, SHUFFLED_WEIGHT))
    report("right", RIGHT, right)
    score = right.predict_proba(X)[is_real, 1]
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    unseen = cross_val_predict(LogisticRegression(C=3.0), X[is_real], partial, cv=folds, method="predict_proba")[:, 1]
    high = threshold_for(score, partial, HIGH)
    print(f"high: {high:.2f}  (covers {(score >= high).mean():.3f}, right in {partial[score >= high].mean():.3f})")
    print(
        f"AUROC {area_under_curve(score, partial):.3f} here, {area_under_curve(unseen, partial):.3f} cross-validated; "
        f"{partial.mean():.3f} of {len(partial)} at least partial"
    )


if __name__ == "__main__":
    main()
