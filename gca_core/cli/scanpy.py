"""``gca scanpy``: label the clusters of an AnnData file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    from gca_core.annotation.llm_models import LlmOptions
    from gca_core.annotation.run import AnnotationResult

CHUNK_SIZE = 20

app = typer.Typer(no_args_is_help=True)


@app.callback()
def scanpy() -> None:
    """Label the clusters of an AnnData file."""


@app.command()
def annotate(
    input_uri: Annotated[str, typer.Argument(metavar="INPUT", help="An h5ad file: a path, or a file:// or gs:// URI.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the results.")] = "annotation",
    cluster_key: Annotated[
        str | None, typer.Option(help="Column of obs with the clusters. Left out: Leiden clusters are computed.")
    ] = None,
    species: Annotated[str, typer.Option(help="human or mouse.")] = "human",
    tissue: Annotated[
        str | None, typer.Option(help="Where the cells are from, such as blood, lung or PBMC. Left out: anywhere.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of obs with known labels, to measure agreement with.")
    ] = None,
    marker_db: Annotated[
        str | None,
        typer.Option(envvar="GCA_MARKER_DB_PATH", help="A CSV or TSV of markers instead of the bundled ones."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer with log-normalised values or counts. Left out: found by looking.")
    ] = None,
    top_n_markers: Annotated[int, typer.Option(min=5, help="Genes ranked per cluster.")] = 30,
    prefix: Annotated[str, typer.Option(help="Prefix of the columns written to obs.")] = "gptca_",
    resolution: Annotated[
        float, typer.Option(min=0.001, help="Resolution of Leiden clusters, where they are computed.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(envvar="GCA_SEED", min=0, help="Seed of everything random.")] = 0,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A chat model as provider:model, or provider:model@http://host/v1. Twice or more: they have to "
            "agree. Left out: GCA_LLM, and where that is unset no model is called."
        ),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Call no model, also where GCA_LLM names one.")] = False,
    chunk_size: Annotated[int, typer.Option(min=1, max=200, help="Clusters per prompt.")] = CHUNK_SIZE,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Budget: no call starts that could exceed it.", show_default=False)
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Budget in the currency of the prices.", show_default=False)
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(help="Price per million tokens as provider:model=INPUT,OUTPUT; none is built in."),
    ] = None,
    cache_dir: Annotated[
        str | None, typer.Option(envvar="GCA_CACHE_DIR", help="Where models' answers are kept.")
    ] = None,
    use_cache: Annotated[bool, typer.Option(help="Reuse and keep models' answers.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")] = False,
) -> None:
    """Label clusters by their marker genes and write h5ad, JSON, CSV, an HTML report and a UMAP.

    Example: gca scanpy annotate pbmc.h5ad --cluster-key leiden --tissue blood --output results
    """
    from gca_core.annotation.run import AnnotationConfig, annotate_file

    models = () if offline else tuple(model or _model_from_settings())
    if offline and model:
        raise typer.BadParameter("--offline and --model exclude each other")
    options = llm_options(
        chunk_size=chunk_size,
        max_tokens=max_tokens,
        max_cost=max_cost,
        prices=price or (),
        cache_dir=cache_dir,
        use_cache=use_cache,
    )
    config = AnnotationConfig(
        input_uri=input_uri,
        output_uri=output,
        cluster_key=cluster_key,
        species=species,
        tissue=tissue,
        label_column=label_column,
        marker_db=marker_db,
        prefix=prefix,
        top_n_markers=top_n_markers,
        layer=layer,
        resolution=resolution,
        seed=seed,
    )
    result = annotate_file(config, model=models or None, llm_options=options)
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        _print(result)


def llm_options(
    *,
    chunk_size: int,
    max_tokens: int | None,
    max_cost: float | None,
    prices: Sequence[str],
    cache_dir: str | None,
    use_cache: bool,
) -> LlmOptions:
    """The options of the command as values.

    Raises:
        ConfigurationError: a price of another form, or a budget that is none.
    """
    from gca_core.annotation.llm_models import LlmOptions
    from gca_core.llm.models import Budget, parse_price

    if max_cost is not None and not max_cost > 0:
        raise ConfigurationError(f"the budget is {max_cost}; expected a positive amount")
    return LlmOptions(
        chunk_size=chunk_size,
        budget=Budget(max_tokens=max_tokens, max_cost=max_cost),
        prices=dict(parse_price(price) for price in prices),
        cache_dir=cache_dir,
        use_cache=use_cache,
    )


def _model_from_settings() -> list[str]:
    from gca_core.config import load_settings

    named = load_settings().llm
    return [named] if named else []


def _print(result: AnnotationResult) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("label", "cells")
    for label, cells in result.labels.items():
        table.add_row(Text(label), f"{cells:,}")
    console.print(table)
    lines = [
        f"{result.n_clusters} clusters, {result.n_flagged} flagged; {result.n_cells:,} cells; {result.seconds:.1f} s"
    ]
    lines.append(_annotator_line(result))
    if result.agreement is not None:
        a = result.agreement
        lines.append(
            f"agreement with {a.column} on the Cell Ontology: {100 * a.related:.1f} % of cells "
            f"({100 * a.exact:.1f} % exactly, {100 * a.close:.1f} % within two steps), "
            f"{100 * a.clusters_related:.1f} % of clusters"
        )
    lines += [f"{what}: {uri}" for what, uri in result.uris.items()]
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _annotator_line(result: AnnotationResult) -> str:
    stats = result.model_stats
    if stats is None:
        return "labelled offline, by marker evidence; no model was called"
    spent = stats.usage
    tokens = f"{spent.input_tokens + spent.output_tokens:,} tokens"
    cost = "" if spent.cost is None else f", {spent.cost:.4f} {spent.currency}"
    return (
        f"labelled by {result.model}: {stats.llm_batches} prompts, {stats.cache_hits} answers from the cache, "
        f"{stats.fallbacks} clusters labelled offline instead; {tokens}{cost}"
    )
