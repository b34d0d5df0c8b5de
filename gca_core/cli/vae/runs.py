"""The ``gca vae`` commands that take a finished run."""

import json
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

import typer

from gca_core.cli.fields import with_fields
from gca_core.cli.vae import options
from gca_core.cli.vae.tables import print_evaluation, print_transfer, print_uris
from gca_core.latent.config import LatentConfig
from gca_core.latent.transfer.config import TransferConfig, make_transfer_config

CELLS = ("output_uri", "counts_layer", "recover_counts", "batch_key")
DEFAULTS = {"output_uri": "RUN/mapped/<input>"}


@with_fields(LatentConfig, ("output_uri", "labels_key"), spelling=options.SPELLING, defaults={"output_uri": "RUN"})
def evaluate(
    run: options.RunFolder,
    *,
    input_uri: Annotated[
        str | None, typer.Option("--input", help="Other cells with the model's genes. Default: those of the run.")
    ] = None,
    as_json: options.AsJson = False,
    **given: Any,
) -> None:
    """Score a run's latent space against labels, beside PCA and genes; nothing is trained."""
    check_run(run, input_uri, {"label": given["labels_key"] if input_uri else None}, output_uri=given["output_uri"])
    require_torch()
    from gca_core.latent.evaluation.rescore import evaluate_run

    result = evaluate_run(run, input_uri=input_uri, **given)
    show(result.model_dump(mode="json"), print_evaluation, as_json=as_json)


def visualize(
    run: options.RunFolder,
    color: Annotated[str | None, typer.Option(help="obs column to colour by. Default: the labels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the coordinates. Default: the run's.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Draw UMAP, t-SNE and training curves of a run anew."""
    check_run(run)
    require_torch()
    from gca_core.latent.evaluation.figures import draw_run
    from gca_core.machine import profile_uri, read_profile

    uri = profile_uri()
    keep = uri is not None and read_profile(uri).keep_intermediate_files
    uris = draw_run(run, color=color, seed=seed, keep_coordinates=keep)
    show(uris, print_uris, as_json=as_json)


@with_fields(TransferConfig, CELLS, spelling=options.SPELLING, defaults=DEFAULTS)
def embed(run: options.RunFolder, input_uri: options.Input, *, as_json: options.AsJson = False, **given: Any) -> None:
    """Write the latent means of other cells; genes that they lack are counted."""
    check_run(run, input_uri, {"batch": given["batch_key"]}, given["counts_layer"], given["output_uri"])
    require_torch()
    from gca_core.io import join_uri
    from gca_core.latent.transfer.mapping import embed as embed_cells

    target = join_uri(given.pop("output_uri") or _mapped(run, input_uri), "latent.h5ad")
    given["recover_counts"] = bool(given["recover_counts"])
    result = embed_cells(input_uri, join_uri(run, "model"), target, **given).model_dump(mode="json")
    if as_json:
        typer.echo(as_text(result))
        return
    for name, value in result.items():
        typer.echo(f"{name}: {value}")


@with_fields(TransferConfig, (*CELLS, "labels_key", "min_probability"), spelling=options.SPELLING, defaults=DEFAULTS)
def map_cells(
    run: options.RunFolder, input_uri: options.Input, *, as_json: options.AsJson = False, **given: Any
) -> None:
    """Label other cells by their neighbours in the run's latent space, or leave them unlabelled."""
    columns = {"batch": given["batch_key"], "label": given["labels_key"]}
    check_run(run, input_uri, columns, given["counts_layer"], given["output_uri"])
    require_torch()
    from gca_core.latent.transfer.labels import transfer_labels

    given |= {"input_uri": input_uri, "run_uri": run, "output_uri": given["output_uri"] or _mapped(run, input_uri)}
    show(transfer_labels(make_transfer_config(given)).model_dump(mode="json"), print_transfer, as_json=as_json)


def check_run(
    run: str,
    input_uri: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    layer: str | None = None,
    output_uri: str | None = None,
) -> None:
    """Refuse what isn't there before torch is imported."""
    from gca_core.io import join_uri, require_file
    from gca_core.matrix.peek import check_input

    require_file(join_uri(run, "model"), what="folder of a training run")
    if input_uri is not None:
        check_input(input_uri, columns or {}, layer=layer, output_uri=output_uri or run, what="input")


def require_torch() -> None:
    """Refuse to go on without the packages of the extra ``vae``."""
    from gca_core.config import require

    for module in ("torch", "sklearn", "umap", "anndata"):
        require(module, "vae")


def show(result: Mapping[str, Any], in_words: Callable[[Mapping[str, Any]], None], *, as_json: bool) -> None:
    """Print a result as JSON or in words."""
    if as_json:
        typer.echo(as_text(result))
    else:
        in_words(result)


def as_text(result: Mapping[str, Any]) -> str:
    """A result as indented JSON."""
    return json.dumps(result, indent=2)


def _mapped(run: str, input_uri: str) -> str:
    from gca_core.io import join_uri, safe_name

    return join_uri(run, "mapped", safe_name(PurePosixPath(input_uri).stem or "input"))
