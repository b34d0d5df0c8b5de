"""``gca scanpy``: label the clusters of an AnnData file, or judge labels that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gca_core.cli import failures
from gca_core.cli.annotation import options
from gca_core.cli.terminal import start_on
from gca_core.errors import ConfigurationError, complaints

if TYPE_CHECKING:
    from gca_core.annotation.config import AnnotationConfig
    from gca_core.annotation.llm.models import LlmOptions
    from gca_core.annotation.run import AnnotationResult

app = typer.Typer(no_args_is_help=True)

Input = Annotated[
    str, typer.Argument(metavar="INPUT", help="An h5ad, zarr or loom file: a path, or a file:// or gs:// URI.")
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", help="Folder for the results. [default: annotation, or validation]"),
]
Preset = Annotated[str | None, typer.Option(help="Species and tissue in one: human_pbmc, mouse_pbmc or mouse_brain.")]
Prefix = Annotated[str | None, typer.Option(help="Prefix of the columns written to obs. [default: gptca_]")]
Layer = Annotated[
    str | None, typer.Option(help="Layer with log-normalised values or counts. Left out: found by looking.")
]
GeneSymbols = Annotated[
    str | None, typer.Option(help="Column of var with gene symbols. Left out: the names, or a column found by looking.")
]
OntologyColumn = Annotated[
    str | None, typer.Option(help="Column of obs with the Cell Ontology ids of the labels in --label-column.")
]
JsonReport = Annotated[str | None, typer.Option(help="A further place for report.json.")]
SummaryCsv = Annotated[str | None, typer.Option(help="A further place for clusters.csv.")]
HtmlReport = Annotated[str | None, typer.Option(help="A further place for report.html.")]
SkipRecompute = Annotated[
    bool,
    typer.Option(
        "--skip-recompute-markers", help="Use the ranking in uns['rank_genes_groups'], made for the cluster column."
    ),
]


@app.callback()
def scanpy() -> None:
    """Label the clusters of an AnnData file, or judge labels that are there."""


@app.command("validate", help="Judge the labels of --label-column: the same as annotate --validate-only.")
@app.command("annotate")
def annotate(
    ctx: typer.Context,
    input_uri: Input,
    output: Output = None,
    cluster_key: Annotated[
        str | None, typer.Option(help="Column of obs with the clusters. Left out: Leiden clusters are computed.")
    ] = None,
    species: options.Species = None,
    tissue: options.Tissue = None,
    preset: Preset = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of obs with known labels, to measure agreement with or to validate.")
    ] = None,
    ontology_column: OntologyColumn = None,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Judge the labels of --label-column, and change none.")
    ] = False,
    marker_db: options.MarkerDb = None,
    vocabulary: options.Vocabulary = None,
    top_n_markers: options.TopNMarkers = None,
    min_overlap: options.MinOverlap = None,
    force_unknown: options.ForceUnknown = True,
    corrections: Annotated[
        str | None, typer.Option(help="Corrections that 'gca review --apply' wrote; they replace labels.")
    ] = None,
    layer: Layer = None,
    gene_symbols: GeneSymbols = None,
    skip_recompute_markers: SkipRecompute = False,
    prefix: Prefix = None,
    resolution: Annotated[
        float | None, typer.Option(min=0.001, help="Of Leiden clusters, where they are computed. [default: 1]")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random. [default: GCA_SEED, or 0]")] = None,
    model: options.Model = None,
    offline: options.Offline = False,
    chunk_size: options.ChunkSize = options.CHUNK_SIZE,
    max_tokens: options.MaxTokens = None,
    max_cost: options.MaxCost = None,
    price: options.Price = None,
    cache_dir: options.CacheDir = None,
    use_cache: options.UseCache = True,
    assets_home: options.AssetsHome = None,
    json_report: JsonReport = None,
    summary_csv: SummaryCsv = None,
    html_report: HtmlReport = None,
    request_id: options.RequestId = None,
    fail_on_flagged: options.FailOnFlagged = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Label clusters by their marker genes and write h5ad, JSON, CSV, an HTML report and figures.

    With --validate-only, judge the labels of --label-column by the same evidence, and change none.

    Exits with 0, with 2 when the input or an option can't be used, with 1 after any other failure, and with 3 when
    labels are flagged and --fail-on-flagged is given.

    Example: gca scanpy annotate pbmc.h5ad --cluster-key leiden --tissue blood --output results
    """
    failures.debug(wanted=debug)
    validating = validate_only or ctx.info_name == "validate"
    found = options.settings(
        marker_db=marker_db, cache_dir=cache_dir, assets_home=assets_home, request_id=request_id, seed=seed
    )
    given = {
        "input_uri": input_uri,
        "output_uri": output or ("validation" if validating else "annotation"),
        "cluster_key": cluster_key,
        "preset": preset,
        "species": species,
        "tissue": tissue,
        "label_column": label_column,
        "ontology_column": ontology_column,
        "marker_db": found.marker_db_path,
        "vocabulary": vocabulary,
        "prefix": prefix,
        "top_n_markers": top_n_markers,
        "min_overlap": min_overlap,
        "force_unknown": force_unknown,
        "layer": layer,
        "gene_symbols": gene_symbols,
        "recompute_markers": not skip_recompute_markers,
        "resolution": resolution,
        "seed": found.seed,
        "json_report": json_report,
        "summary_csv": summary_csv,
        "html_report": html_report,
        "request_id": found.request_id,
        "corrections": corrections,
    }
    if validating:
        if model or corrections or vocabulary:
            raise typer.BadParameter(
                "validating asks no model, applies no corrections and names no labels anew; leave these options out"
            )
        with options.at_work(found):
            result = _validate(given)
    else:
        models = options.chosen_models(model, offline=offline, found=found)
        llm = options.llm_options(
            chunk_size=chunk_size,
            max_tokens=max_tokens,
            max_cost=max_cost,
            prices=price or (),
            cache_dir=None if found.cache_dir is None else str(found.cache_dir),
            use_cache=use_cache,
        )
        with options.at_work(found):
            result = _annotate(given, models, llm)
    _show(result, as_json=as_json, judged=validating)
    options.end(result.n_flagged, fail_on_flagged=fail_on_flagged)


def make_config(given: Mapping[str, Any]) -> AnnotationConfig:
    """The configuration that options describe.

    Raises:
        ConfigurationError: an option is out of range, or two of them contradict each other.
    """
    from pydantic import ValidationError

    from gca_core.annotation.config import AnnotationConfig

    try:
        return AnnotationConfig(**given)
    except ValidationError as error:
        raise ConfigurationError(complaints(error)) from None


def _annotate(given: Mapping[str, Any], models: tuple[str, ...], llm: LlmOptions) -> AnnotationResult:
    config = make_config(given)
    start_on(config)
    from gca_core.annotation.run import annotate_file

    return annotate_file(config, model=models or None, llm_options=llm)


def _validate(given: Mapping[str, Any]) -> AnnotationResult:
    config = make_config(given)
    start_on(config)
    from gca_core.annotation.validate import validate_file

    return validate_file(config)


def _show(result: AnnotationResult, *, as_json: bool, judged: bool) -> None:
    from gca_core.annotation.models import DatasetReport
    from gca_core.cli.annotation.tables import print_judgement, print_result
    from gca_core.io import read_json

    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    elif judged:
        print_judgement(result, DatasetReport.model_validate(read_json(result.uris["json"], what="report")))
    else:
        print_result(result)
