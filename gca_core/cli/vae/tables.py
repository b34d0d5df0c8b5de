"""What the ``gca vae`` commands print."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

SPACES = {"latent": "latent", "pca": "PCA, same size", "genes": "genes"}
CLASSIFIERS = {"knn": "kNN", "logistic_regression": "logistic regression", "label_head": "label head"}


def print_result(result: Mapping[str, Any]) -> None:
    """Scores, held-out ELBO, seconds and files of a run."""
    console, metrics = Console(), result["metrics"]
    title = f"{result['model']}, {result['n_cells']} cells, {result['n_genes']} genes, seed {result['seed']}"
    if (table := score_table(metrics, title)).row_count:
        console.print(table)
    else:
        console.print("no labels were named, so nothing was evaluated; see --label-column")
    console.print(f"held-out negative ELBO: {metrics['val_negative_elbo']:.1f} nats per cell")
    console.print(f"seconds: {', '.join(f'{stage} {value:.1f}' for stage, value in result['seconds'].items())}")
    print_uris(result["uris"])


def score_table(metrics: Mapping[str, float], title: str) -> Table:
    """macro-F1 and accuracy of each classifier on each representation; no rows without scores."""
    table = Table(title=title)
    for column in ("representation", "classifier"):
        table.add_column(column)
    for column in ("macro-F1", "accuracy"):
        table.add_column(column, justify="right")
    for space, shown in SPACES.items():
        for classifier, name in CLASSIFIERS.items():
            if f"{space}_{classifier}_macro_f1" in metrics:
                f1, accuracy = (metrics[f"{space}_{classifier}_{measure}"] for measure in ("macro_f1", "accuracy"))
                table.add_row(shown, name, f"{f1:.3f}", f"{accuracy:.3f}")
    return table


def print_uris(uris: Mapping[str, str]) -> None:
    """One file a line."""
    console = Console()
    for name, uri in uris.items():
        console.print(f"{name:>11}  {uri}", soft_wrap=True, highlight=False)


def print_evaluation(result: Mapping[str, Any]) -> None:
    """Scores of a run that was evaluated anew."""
    console = Console()
    console.print(score_table(result["metrics"], f"{result['model']}, {result['n_cells']} cells"))
    print_uris(result["uris"])


def print_transfer(result: Mapping[str, Any]) -> None:
    """How many cells got which label, and how far they agree with known ones."""
    console = Console()
    table = Table(title=f"{result['n_labelled']} of {result['n_cells']} cells labelled")
    table.add_column("label")
    table.add_column("cells", justify="right")
    for label, cells in result["labels"].items():
        table.add_row(label, str(cells))
    table.add_row("no label", str(result["n_abstained"]))
    console.print(table)
    for name, value in result["metrics"].items():
        console.print(f"{name.replace('_', ' ')}: {value:.3f}", highlight=False)
    print_uris(result["uris"])
