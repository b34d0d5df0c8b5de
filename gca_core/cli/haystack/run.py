"""``gca haystack``: predict how a cell type responds to a perturbation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gca_core.cli.closing import close
from gca_core.cli.fields import with_fields
from gca_core.grounding.models import GroundingConfig
from gca_core.haystack.models import IterationConfig

if TYPE_CHECKING:
    from gca_core.config import Settings
    from gca_core.haystack.context import HaystackContext
    from gca_core.haystack.demo.kang2018 import DemoFiles
    from gca_core.haystack.models import HaystackOutputs
    from gca_core.haystack.results.compare import TruthComparison

app = typer.Typer(no_args_is_help=True)
app.command(name="cancel")(close)

EXIT_EXPECTED_FAILURE = 2
Question = Annotated[
    str | None,
    typer.Argument(
        help='One human cell type and one perturbation: "How would B cells respond to IL-4?"', show_default=False
    ),
]
Dataset = Annotated[str | None, typer.Option(help="Use this dataset of the atlas alone.")]
Demo = Annotated[bool, typer.Option("--demo", help="Build the atlas from the bundled data, with the answer put aside.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
SPELLING = {
    "score_threshold": ("--threshold",),
    "candidates_per_iteration": ("--candidates",),
    "checkpoint": ("--model",),
    "gene_list_uri": ("--genelist",),
}
RUN = (
    "max_iterations", "score_threshold", "candidates_per_iteration", "ontology_distance", "backend", "checkpoint",
    "gene_list_uri", "diffusion_steps", "seed", "predict_anyway",
)  # fmt: skip
PROPOSED = ("candidates_per_iteration", "ontology_distance")


def asked(
    *,
    cell_type: Annotated[
        str | None, typer.Option(help="Instead of a question: name or id of the Cell Ontology.")
    ] = None,
    perturbation: Annotated[
        str | None, typer.Option(help="Instead of a question: a cytokine, drug, stimulus or gene, by name.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="What is done: knockout, CRISPRi, cytokine, drug, ... [default: by the name]")
    ] = None,
    **_: Any,
) -> dict[str, Any]:
    """What is asked, where no question is."""
    return {"cell_type": cell_type, "perturbation": perturbation, "kind": kind}


def bounds(given: Mapping[str, Any], **defaults: Any) -> IterationConfig:
    """The run's bounds, as far as options give them."""
    values = {name: given[name] for name in IterationConfig.model_fields if given.get(name) is not None}
    return IterationConfig(**{**defaults, **values})


def opened(
    question: str | None, names: Mapping[str, Any], settings: Settings, *, demo: bool, dataset: str | None
) -> tuple[HaystackContext, DemoFiles | None]:
    """The context; for the demonstration, its atlas holds the bundled data without the answer."""
    from gca_core.haystack.context import open_context, open_knowledge
    from gca_core.haystack.demo.kang2018 import prepare_demo
    from gca_core.haystack.steps import understand as read

    if not demo:
        return open_context(settings), None
    if dataset:
        raise typer.BadParameter("--demo brings a dataset of its own; leave out --dataset")
    # the question is read before the database is started
    query = read(question, open_knowledge(settings), **names)
    context = open_context(settings)
    return context, prepare_demo(query, context, settings)


@app.callback()
def group() -> None:
    """Predict how a cell type responds to a perturbation.

    Cells of the atlas that saw the perturbation prompt a model; the prediction is scored against what is known of
    the perturbation, and the prompt is refined within a bound.
    """


@app.command()
@with_fields(IterationConfig, RUN, asked, spelling=SPELLING, defaults={"seed": "GCA_SEED, or 0"})
def run(
    question: Question = None,
    *,
    dataset: Dataset = None,
    output: Annotated[str | None, typer.Option(help="Folder of the results. [default: under GCA_RESULTS_URI]")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--no-overwrite", help="Replace earlier results, or refuse to.")
    ] = True,
    gmt: Annotated[
        list[str] | None, typer.Option(help="A GMT file of gene sets to look for beside the bundled; more than once.")
    ] = None,
    regulons: Annotated[
        str | None,
        typer.Option(help="Targets of transcription factors, table or GMT, to report their activity."),
    ] = None,
    demo: Demo = False,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Answer a question; writes RUN_predictions.h5ad, RUN_report.html, RUN_report.md and RUN_log.json.

    Try it without any data of your own:

    gca haystack run "How would CD14+ monocytes respond to interferon beta?" --demo

    gca haystack run --cell-type "CD14+ monocyte" --perturbation "interferon beta" --demo
    """
    from gca_core.config import load_settings
    from gca_core.haystack.results.files import RESULT
    from gca_core.haystack.run import run_haystack
    from gca_core.inference.predictor import require_backend
    from gca_core.locks import check_earlier

    settings, names = load_settings(), asked(**given)
    grounding = GroundingConfig(gmt_uris=tuple(gmt or ()), regulons_uri=regulons)
    config = bounds(given, seed=settings.seed, grounding=grounding)
    require_backend(config.backend, config.checkpoint, config.gene_list_uri)
    if output and not overwrite:
        check_earlier(output, RESULT, overwrite=False)
    context, files = opened(question, names, settings, demo=demo, dataset=dataset)
    outputs = run_haystack(
        question,
        **names,
        config=config,
        settings=settings,
        results_uri=output,
        overwrite=overwrite,
        dataset=files.dataset if files else dataset,
        context=context,
    )
    truth = files.compare(outputs.h5ad_uri) if files and outputs.h5ad_uri else None
    if as_json:
        value = {"outputs": outputs.model_dump(mode="json"), "truth": truth.model_dump() if truth else None}
        typer.echo(json.dumps(value, indent=2))
        return
    _print(outputs, truth)


@app.command()
@with_fields(IterationConfig, (), asked)
def understand(
    question: Question = None,
    *,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Show how a question is read; needs no database. Exits with 2 when it can't be read."""
    from gca_core.errors import QueryParsingError
    from gca_core.haystack.context import open_knowledge
    from gca_core.haystack.understand import understand as read

    try:
        query = read(question, open_knowledge(), **asked(**given))
    except QueryParsingError as error:
        if not as_json:
            raise
        _fail(error)
    if as_json:
        typer.echo(query.model_dump_json(indent=2))
        return
    expected = [f"{p.name} {p.direction}" for p in query.expectation.pathways]
    typer.echo(f"cell type     {query.cell_type} ({query.cell_type_id}), from {query.cell_type_text!r}")
    typer.echo(f"perturbation  {query.perturbation} ({query.perturbation_type}), from {query.perturbation_text!r}")
    typer.echo(f"family        {query.family or 'unknown'}")
    typer.echo(f"expected      {'; '.join(expected) or 'nothing is known'}")
    for note in query.ambiguities:
        typer.echo(f"uncertain     {note}")


@app.command()
@with_fields(IterationConfig, PROPOSED, asked, spelling=SPELLING, defaults={"candidates_per_iteration": "10"})
def propose(
    question: Question = None,
    *,
    dataset: Dataset = None,
    demo: Demo = False,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Show the prompts that a run would try first, ranked, with their reasons; predicts nothing.

    Exits with 2 when the question can't be read, or the atlas has nothing for it. Try it:

    gca haystack propose "How would CD14+ monocytes respond to interferon beta?" --demo
    """
    from gca_core.config import load_settings
    from gca_core.errors import CellRetrievalError, QueryParsingError
    from gca_core.haystack.steps import suggest
    from gca_core.haystack.steps import understand as read

    settings, names = load_settings(), asked(**given)
    config = bounds(given, candidates_per_iteration=10, seed=settings.seed)
    try:
        context, files = opened(question, names, settings, demo=demo, dataset=dataset)
        query = read(question, context, **names, dataset=files.dataset if files else dataset)
        proposal = suggest(query, config, context)
    except (QueryParsingError, CellRetrievalError) as error:
        if not as_json:
            raise
        _fail(error)
    if as_json:
        value = {"query": query.model_dump(mode="json"), "proposal": proposal.model_dump(mode="json")}
        typer.echo(json.dumps(value, indent=2))
        return
    for place, found in enumerate(proposal.candidates, start=1):
        strategies = ", ".join(strategy.value for strategy in found.strategies)
        typer.echo(f"{place:>2}. {found.rank_score:.2f}  {found.rationale}")
        typer.echo(
            f"          {strategies}; {len(found.cell_group_ids)} groups, {found.n_cells} cells; relevance "
            f"{found.relevance:.2f}, diversity {found.diversity:.2f}, quality {found.quality:.2f}"
        )
    for note in (*query.ambiguities, *proposal.notes):
        typer.echo(f"note: {note}")


@app.command()
def backtest(
    dataset: Dataset = None,
    report: Annotated[str | None, typer.Option(help="Write a page with pictures here, path or URI.")] = None,
    as_json: AsJson = False,
) -> None:
    """Leave each measured response of the atlas out, and show how well the others foretell it.

    Beside the reference stand answers that need no method. A regime is what an answer stands on; ``ahead`` is the mean
    difference of Pearson to the reference, with its 95 % bootstrap interval over pairs.
    """
    from gca_core import io
    from gca_core.config import load_settings
    from gca_core.haystack.context import open_context
    from gca_core.haystack.reference import read_reference

    if report:
        io.require_writable(io.as_path(report).parent)
    found = read_reference(open_context(load_settings()), dataset)
    regimes = found.backtest()
    if report:
        from gca_core.haystack.results.backtest import render_backtest

        io.write_text(report, render_backtest(regimes, dataset))
    if as_json:
        typer.echo(json.dumps([regime.model_dump() for regime in regimes], indent=2))
        return
    typer.echo(f"{len(found.reference.data)} pairs of perturbation and cell type, {len(found.genes)} genes")
    for regime in regimes:
        typer.echo(f"\nanswered from {regime.support}: {regime.n_pairs} pairs left out")
        typer.echo(f"{'':<30}{'Pearson':>8}{'overlap':>9}  reference ahead")
        for row in regime.rows:
            ahead = f"  {row.ahead:+.3f} [{row.ahead_low:+.3f}, {row.ahead_high:+.3f}]" if row.ahead else ""
            typer.echo(f"{row.answer:<30}{row.pearson:>8.3f}{row.overlap:>9.3f}{ahead}")
        sharp = "" if regime.sharpness is None else f", Spearman with it {regime.sharpness:.2f}"
        typer.echo(f"forecast: the true value lies in the 90 % interval for {regime.coverage:.0%} of the pairs{sharp}")
    if not regimes:
        typer.echo("too few pairs to leave any out: five of one kind are needed")


@app.command()
def compare(
    result: Annotated[str, typer.Argument(help="The predictions of a run, or the folder of its results.")],
    *,
    truth: Annotated[str, typer.Option(help="File of measured cells, raw counts; h5ad, zarr, loom or 10x.")],
    perturbation_column: Annotated[str, typer.Option(help="obs column with the perturbation.")],
    control_value: Annotated[str, typer.Option(help="Its value for control cells.")],
    perturbation: Annotated[
        str | None, typer.Option(help="Its value for perturbed cells. [default: the only other value]")
    ] = None,
    cell_type_column: Annotated[str | None, typer.Option(help="obs column with the cell type.")] = None,
    cell_type: Annotated[str | None, typer.Option(help="Its value for the cells to compare with.")] = None,
    donor_column: Annotated[str | None, typer.Option(help="obs column with the donor: the replicates.")] = None,
    layer: Annotated[str | None, typer.Option(help="Where the counts are. [default: X]")] = None,
    as_json: AsJson = False,
) -> None:
    """Set a run beside measured cells: how well was the response predicted?

    gca haystack compare results --truth measured.h5ad --perturbation-column condition --control-value ctrl
    """
    from gca_core.haystack.results.compare import Truth, compare_run

    found = compare_run(
        result,
        Truth(
            uri=truth,
            perturbation_column=perturbation_column,
            control_value=control_value,
            perturbation=perturbation,
            cell_type_column=cell_type_column,
            cell_type=cell_type,
            donor_column=donor_column,
            layer=layer,
        ),
    )
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    for name, value in _compared(found):
        typer.echo(f"{name:<30}{value}")


def _fail(error: Exception) -> NoReturn:
    """Print an expected failure as JSON and leave with the code for it."""
    fault = {
        "error": str(error),
        "reason": getattr(error, "reason", "") or "nothing_in_the_atlas",
        "suggestions": list(getattr(error, "suggestions", ())),
    }
    typer.echo(json.dumps(fault, indent=2))
    raise typer.Exit(EXIT_EXPECTED_FAILURE) from None


def _print(outputs: HaystackOutputs, truth: TruthComparison | None) -> None:
    rows = [("verdict", f"{outputs.verdict.value}: {outputs.verdict_detail}")]
    if outputs.measured is not None and outputs.best_candidate_id is not None:
        rows.append(("already measured", str(outputs.measured)))
    if outputs.forecast is not None:
        rows.append(("the atlas's own estimate", str(outputs.forecast)))
    score = f"{outputs.best_score:.2f} of 10" if outputs.best_score is not None else "ungroundable"
    score = score if outputs.best_candidate_id else "no prediction"
    rows.append(("grounding score", score))
    rows.append(("best iteration, from 0", "none" if outputs.best_iteration is None else str(outputs.best_iteration)))
    rows.append(("iterations", f"{outputs.n_iterations}, {outputs.n_evaluations} predictions"))
    rows.append(("stopped by", outputs.termination_reason.value))
    if truth is not None:
        rows += _compared(truth)[:2]
    files = ("h5ad_uri", "html_uri", "markdown_uri", "json_uri")
    rows += [(name.removesuffix("_uri"), str(getattr(outputs, name) or "none")) for name in files]
    for name, value in rows:
        typer.echo(f"{name:<30}{value}")


def _compared(truth: TruthComparison) -> list[tuple[str, str]]:
    recall, direction = (
        "none was measured" if share is None else f"{share:.2f}"
        for share in (truth.de_recall, truth.direction_agreement)
    )
    discrimination = truth.discrimination_note
    if truth.discrimination is not None:
        discrimination = f"{truth.discrimination:.2f} among {truth.n_perturbations} perturbations"
    genes = f"{truth.n_de_true} measured, {truth.n_de_predicted} predicted, {truth.n_de_shared} both"
    return [
        ("Pearson with the truth", f"{truth.pearson_lfc:.3f} over {truth.n_genes} genes"),
        ("overlap of 50 largest changes", f"{truth.de_overlap_50:.2f}"),
        ("genes that change", genes),
        ("measured changes, predicted", recall),
        ("measured changes, direction", direction),
        ("discrimination", discrimination),
        ("cells", f"{truth.n_true_cells} perturbed, {truth.n_control_cells} control"),
    ]
