"""Draw docs/images/guardrails.png: the confidence against how often labels are right, on published clusters.

    GCA_BENCH_DATA=../shared/data python scripts/plot_guardrails.py

See benchmarks/annotation_published.py; the thresholds were chosen on all 413.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from annotation_published import DATA, confidence_and_truth  # noqa: E402
from published_clusters import FOLDER, LabelTable, annotate_published, read_clusters  # noqa: E402

from gca_core.annotation.markers.load import load_marker_database  # noqa: E402
from gca_core.annotation.scoring.parameters import HIGH  # noqa: E402
from gca_core.knowledge.bundled.ontology import load_ontology  # noqa: E402

TARGET = ROOT / "docs" / "images" / "guardrails.png"
N_BINS = 6


def main() -> None:
    clusters = read_clusters(DATA / FOLDER)
    found = annotate_published(clusters, load_marker_database())
    table = LabelTable(DATA / FOLDER, load_ontology(), by="name")
    score, right = confidence_and_truth(table, clusters, found)
    figure, (left, other) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    order = np.argsort(score)
    for part in np.array_split(order, N_BINS):
        share, n = right[part].mean(), len(part)
        error = 1.96 * np.sqrt(share * (1 - share) / n)
        left.errorbar(score[part].mean(), share, yerr=error, fmt="o", color="#1f5f8b", capsize=2)
    left.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    left.set(xlabel="confidence_score", ylabel="at least partly right", xlim=(0, 1), ylim=(0, 1.05))
    falling = order[::-1]
    coverage = np.arange(1, len(score) + 1) / len(score)
    other.plot(coverage, np.cumsum(right[falling]) / np.arange(1, len(score) + 1), color="#1f5f8b")
    at_high = (score >= HIGH).mean()
    other.axvline(at_high, color="#c05020", linewidth=0.8, label=f"score of {HIGH:g}, the least at High")
    other.set(xlabel="share of clusters kept, surest first", ylabel="at least partly right", ylim=(0.5, 1.02))
    other.legend(loc="lower left", frameon=False, fontsize=8)
    figure.savefig(TARGET, dpi=110, metadata={"Software": ""})
    print(f"{TARGET.relative_to(ROOT)}: {len(clusters)} clusters, {right.mean():.3f} at least partly right")


if __name__ == "__main__":
    main()
