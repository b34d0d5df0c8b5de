"""``gca vae``: latent models of counts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True)

SPACES = {"latent": "latent", "pca": "PCA, same size", "genes": "genes"}
CLASSIFIERS = {"knn": "kNN", "logistic_regression": "logistic regression"}


class CountModel(StrEnum):
    """Likelihoods of the counts."""

    NB = "nb"
    ZINB = "zinb"


@app.callback()
def group() -> None:
    """Train a latent model on counts and report how good it is."""


@app.command()
def pipeline(
    input_uri: Annotated[str, typer.Argument(metavar="INPUT", help="An h5ad file, path or URI.")],
    config: Annotated[
        str | None,
        typer.Option(help="A YAML file with options, or the name of a bundled example (pbmc68k_reduced)."),
    ] = None,
    output_dir: Annotated[
        str | None,
        typer.Option(
            "--output-dir",
            "--output_dir",
            help="Folder for the results. Default: latent/<input> under GCA_RESULTS_URI.",
        ),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="obs column with known labels, for the evaluation alone.")
    ] = None,
    batch_column: Annotated[str | None, typer.Option(help="obs column with batches, a covariate.")] = None,
    counts_layer: Annotated[
        str | None, typer.Option(help="Where the counts are: X, raw or the name of a layer. Default: X.")
    ] = None,
    recover_counts: Annotated[
        bool | None,
        typer.Option("--recover-counts/--no-recover-counts", help="Recover counts from log-normalised values."),
    ] = None,
    likelihood: Annotated[CountModel | None, typer.Option(help="Distribution of the counts. Default: nb.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help="Size of the latent space. Default: 10.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the cells at most. Default: 200.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Cells per step. Default: 128.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; another number can change the last digits. Default: 1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice. Default: GCA_SEED, or 0.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")] = False,
) -> None:
    """Train, evaluate and draw in one go; options given here win over the configuration's."""
    from gca_core.config import load_settings
    from gca_core.io import safe_name
    from gca_core.latent.config import load_config

    settings = load_settings()
    stem = safe_name(PurePosixPath(input_uri).stem or "input")
    given: dict[str, Any] = {
        "input_uri": input_uri,
        "output_dir": output_dir,
        "label_key": label_column,
        "batch_key": batch_column,
        "counts_layer": counts_layer,
        "recover_counts": recover_counts,
        "likelihood": likelihood.value if likelihood else None,
        "latent_dim": latent_dim,
        "epochs": epochs,
        "batch_size": batch_size,
        "threads": threads,
        "seed": seed,
    }
    defaults = {"output_dir": f"{settings.results_root()}/latent/{stem}", "seed": settings.seed}
    run_config = load_config(config, defaults=defaults, **given)
    _require_torch()
    from gca_core.latent.train import run_training

    result = run_training(run_config)
    if as_json:
        typer.echo(_json(result))
        return
    _print_result(result)


def _require_torch() -> None:
    from gca_core.config import require

    for module in ("torch", "sklearn", "umap", "anndata"):
        require(module, "vae")


def _json(result: dict[str, Any]) -> str:
    import json

    return json.dumps(result, indent=2)


def _print_result(result: dict[str, Any]) -> None:
    console = Console()
    metrics = result["metrics"]
    table = Table(
        title=f"{result['model']}, {result['n_cells']} cells, {result['n_genes']} genes, seed {result['seed']}"
    )
    for column in ("representation", "classifier"):
        table.add_column(column)
    for column in ("macro-F1", "accuracy"):
        table.add_column(column, justify="right")
    for space, shown in SPACES.items():
        for classifier, name in CLASSIFIERS.items():
            if f"{space}_{classifier}_macro_f1" in metrics:
                f1, accuracy = (metrics[f"{space}_{classifier}_{measure}"] for measure in ("macro_f1", "accuracy"))
                table.add_row(shown, name, f"{f1:.3f}", f"{accuracy:.3f}")
    if table.row_count:
        console.print(table)
    else:
        console.print("no labels were named, so nothing was evaluated; see --label-column")
    console.print(f"held-out negative ELBO: {metrics['val_negative_elbo']:.1f} nats per cell")
    console.print(f"seconds: {', '.join(f'{stage} {value:.1f}' for stage, value in result['seconds'].items())}")
    for name, uri in result["uris"].items():
        console.print(f"{name:>10}  {uri}", soft_wrap=True, highlight=False)
