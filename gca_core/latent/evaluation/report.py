"""The HTML report of a latent run: one file, nothing loaded from elsewhere."""

from collections.abc import Mapping
from typing import Any

from gca_core.latent.config import LatentConfig
from gca_core.latent.evaluation.evaluate import Evaluation
from gca_core.pages import base64_text, render_page

SPACE_NAMES = {"latent": "latent", "pca": "PCA, same size", "genes": "genes"}
CLASSIFIER_NAMES = {"knn": "kNN", "logistic_regression": "logistic regression"}


def render_report(
    config: LatentConfig,
    metrics: Mapping[str, Any],
    evaluation: Evaluation | None,
    *,
    umap_png: bytes,
    training_png: bytes,
) -> str:
    """Fill the template; text from the data is escaped.

    Args:
        config: what the run was told.
        metrics: content of metrics.json.
        evaluation: None when there were no labels.
        umap_png: picture of the latent space.
        training_png: the training curves.
    """
    return render_page(
        "gca_core.latent",
        "report.html.j2",
        title="Latent space of the counts",
        config=config,
        data=metrics["data"],
        training=metrics["training"],
        versions=metrics["versions"],
        evaluation=evaluation,
        per_class=evaluation.score("latent", "logistic_regression").per_class if evaluation else (),
        spaces=SPACE_NAMES,
        classifiers=CLASSIFIER_NAMES,
        umap_png=base64_text(umap_png),
        training_png=base64_text(training_png),
    )
