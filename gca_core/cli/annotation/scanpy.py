"""``gca scanpy``: label the clusters of an AnnData file, or judge labels that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gca_core.annotation.config import AnnotationConfig, make_options
from gca_core.cli import failures
from gca_core.cli.annotation import options
from gca_core.cli.fields import with_fields
from gca_core.cli.terminal import start_on

if TYPE_CHECKING:
    from gca_core.annotation.run import AnnotationResult

app = typer.Typer(no_args_is_help=True, help="Label the clusters of an AnnData file, or judge labels that are there.")

# some are written in another way here; the test and reading in parts are for those who write code
APART = ("input_uri", "recompute_markers", "ranking", "backed")
FIELDS = tuple(name for name in AnnotationConfig.model_fields if name not in APART)


@app.command("validate", help="Judge the labels of --label-column: the same as annotate --validate-only.")
@app.command("annotate")
@with_fields(AnnotationConfig, FIELDS, options.models_of, spelling=options.SPELLING, defaults=options.DEFAULTS)
def annotate(
    ctx: typer.Context,
    input_uri: Annotated[
        str, typer.Argument(metavar="INPUT", help=AnnotationConfig.model_fields["input_uri"].description)
    ],
    *,
    skip_recompute_markers: Annotated[
        bool,
        typer.Option(
            "--skip-recompute-markers",
            rich_help_panel="Evidence",
            help="Use the ranking in uns['rank_genes_groups'], made for the cluster column.",
        ),
    ] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Judge the labels of --label-column, and change none.")
    ] = False,
    assets_home: options.AssetsHome = None,
    fail_on_flagged: options.FailOnFlagged = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
    **given: Any,
) -> None:
    """Label clusters by their marker genes and write h5ad, JSON, CSV, an HTML report and figures.

    With --validate-only, judge the labels of --label-column by the same evidence, and change none.

    Exits with 0, with 2 when the input or an option can't be used, with 1 after any other failure, and with 3 when
    labels are flagged and --fail-on-flagged is given.

    Example: gca scanpy annotate pbmc.h5ad --cluster-key leiden --tissue blood --output results
    """
    failures.debug(wanted=debug)
    validating = validate_only or ctx.info_name == "validate"
    found = options.settings(assets_home=assets_home, **given)
    values = {name: given[name] for name in FIELDS} | {
        "input_uri": input_uri,
        "recompute_markers": not skip_recompute_markers,
        "output_uri": given["output_uri"] or ("validation" if validating else "annotation"),
        "marker_db": found.marker_db_path,
        "seed": found.seed,
        "request_id": found.request_id,
    }
    config = make_options(AnnotationConfig, values)
    heard = config.reference or config.opinion_column or config.consensus
    if validating and (given["model"] or config.corrections or config.vocabulary or heard):
        raise typer.BadParameter(
            "validating asks no model and no other source, applies no corrections and names no labels anew; "
            "leave these options out"
        )
    models = {} if validating else options.models_of(found, **given)
    with options.at_work(found):
        start_on(config)
        if validating:
            from gca_core.annotation.validate import validate_file

            result = validate_file(config)
        else:
            from gca_core.annotation.run import annotate_file

            result = annotate_file(config, **models)
    _show(result, as_json=as_json, judged=validating)
    options.end(result.n_flagged, fail_on_flagged=fail_on_flagged)


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
