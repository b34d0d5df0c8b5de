"""``gca haystack``: predict how a cell type responds to a perturbation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gca_core.cli.haystack import runs

if TYPE_CHECKING:
    from gca_core.haystack.demo.holdout import TruthComparison
    from gca_core.haystack.models import HaystackOutputs

app = typer.Typer(no_args_is_help=True)
app.add_typer(runs.app, name="runs")

EXIT_EXPECTED_FAILURE = 2
Question = Annotated[
    str | None,
    typer.Argument(
        help='One human cell type and one perturbation: "How would B cells respond to IL-4?"', show_default=False
    ),
]
CellType = Annotated[str | None, typer.Option(help="Instead of a question: name or id of the Cell Ontology.")]
Perturbation = Annotated[
    str | None, typer.Option(help="Instead of a question: a cytokine, drug, stimulus or gene, by name.")
]
Kind = Annotated[
    str | None, typer.Option(help="What is done: knockout, CRISPRi, cytokine, drug, ... [default: by the name]")
]
Dataset = Annotated[str | None, typer.Option(help="Use this dataset of the atlas alone.")]
OntologyDistance = Annotated[
    int, typer.Option(min=0, help="Steps in the Cell Ontology within which other types may prompt at first.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.callback()
def group() -> None:
    """Predict how a cell type responds to a perturbation.

    Cells of the atlas that saw the perturbation prompt a model; the prediction is scored against what is known of
    the perturbation, and the prompt is refined within a bound.
    """


@app.command()
def run(
    question: Question = None,
    cell_type: CellType = None,
    perturbation: Perturbation = None,
    kind: Kind = None,
    dataset: Dataset = None,
    max_iterations: Annotated[int, typer.Option(min=1, max=10, help="Iterations at most.")] = 5,
    threshold: Annotated[float, typer.Option(min=1, max=10, help="A grounding score that ends the run.")] = 7.0,
    candidates: Annotated[int, typer.Option(min=1, max=50, help="Prompts tried per iteration at most.")] = 4,
    ontology_distance: OntologyDistance = 2,
    backend: Annotated[str, typer.Option(help="What predicts: shift is the mean shift of the prompt.")] = "shift",
    output: Annotated[str | None, typer.Option(help="Folder of the results. [default: under GCA_RESULTS_URI]")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--no-overwrite", help="Replace earlier results, or refuse to.")
    ] = True,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every random choice. [default: GCA_SEED]")] = None,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo", help="Build the atlas from the bundled data, put the answer aside, and compare with it."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Answer a question; writes result.h5ad, report.html, figure.png and run.json.

    Try it without any data of your own:

    gca haystack run "How would CD14+ monocytes respond to interferon beta?" --demo

    gca haystack run --cell-type "CD14+ monocyte" --perturbation "interferon beta" --demo
    """
    from gca_core.config import load_settings
    from gca_core.haystack.context import open_context, open_knowledge
    from gca_core.haystack.demo.kang2018 import prepare_demo
    from gca_core.haystack.models import IterationConfig
    from gca_core.haystack.results.outputs import RESULT
    from gca_core.haystack.run import run_haystack
    from gca_core.haystack.steps import understand as read
    from gca_core.inference.predictor import require_backend
    from gca_core.locks import check_earlier

    if demo and dataset:
        raise typer.BadParameter("--demo brings a dataset of its own; leave out --dataset")
    settings = load_settings()
    require_backend(backend)
    if output and not overwrite:
        check_earlier(output, RESULT, overwrite=False)
    names: dict[str, Any] = {"cell_type": cell_type, "perturbation": perturbation, "kind": kind}
    config = IterationConfig(
        max_iterations=max_iterations,
        score_threshold=threshold,
        candidates_per_iteration=candidates,
        ontology_distance=ontology_distance,
        backend=backend,
        seed=settings.seed if seed is None else seed,
    )
    if demo:
        # the question is read before the database is started
        query = read(question, open_knowledge(settings), **names)
        context = open_context(settings)
        files = prepare_demo(query, context, settings)
        dataset = files.dataset
    else:
        context = open_context(settings)
    outputs = run_haystack(
        question,
        **names,
        config=config,
        settings=settings,
        results_uri=output,
        overwrite=overwrite,
        dataset=dataset,
        context=context,
    )
    truth = None
    if demo and outputs.h5ad_uri:
        truth = files.compare(outputs.h5ad_uri)
    if as_json:
        value = {"outputs": outputs.model_dump(mode="json"), "truth": truth.model_dump() if truth else None}
        typer.echo(json.dumps(value, indent=2))
        return
    _print(outputs, truth)


@app.command()
def understand(
    question: Question = None,
    cell_type: CellType = None,
    perturbation: Perturbation = None,
    kind: Kind = None,
    as_json: AsJson = False,
) -> None:
    """Show how a question is read; needs no database. Exits with 2 when it can't be read."""
    from gca_core.errors import QueryParsingError
    from gca_core.haystack.context import open_knowledge
    from gca_core.haystack.understand import understand as read

    try:
        query = read(question, open_knowledge(), cell_type=cell_type, perturbation=perturbation, kind=kind)
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
def propose(
    question: Question = None,
    cell_type: CellType = None,
    perturbation: Perturbation = None,
    kind: Kind = None,
    dataset: Dataset = None,
    candidates: Annotated[int, typer.Option(min=1, max=50, help="Prompts shown at most.")] = 10,
    ontology_distance: OntologyDistance = 2,
    demo: Annotated[
        bool, typer.Option("--demo", help="Build the atlas from the bundled data, without the answer.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the prompts that a run would try first, ranked, with their reasons; predicts nothing.

    Exits with 2 when the question can't be read, or the atlas has nothing for it. Try it:

    gca haystack propose "How would CD14+ monocytes respond to interferon beta?" --demo
    """
    from gca_core.config import load_settings
    from gca_core.errors import CellRetrievalError, QueryParsingError
    from gca_core.haystack.context import open_context, open_knowledge
    from gca_core.haystack.demo.kang2018 import prepare_demo
    from gca_core.haystack.models import IterationConfig
    from gca_core.haystack.steps import suggest
    from gca_core.haystack.steps import understand as read

    if demo and dataset:
        raise typer.BadParameter("--demo brings a dataset of its own; leave out --dataset")
    settings = load_settings()
    names: dict[str, Any] = {"cell_type": cell_type, "perturbation": perturbation, "kind": kind}
    config = IterationConfig(
        candidates_per_iteration=candidates, ontology_distance=ontology_distance, seed=settings.seed
    )
    try:
        if demo:
            # the question is read before the database is started
            early = read(question, open_knowledge(settings), **names)
            context = open_context(settings)
            dataset = prepare_demo(early, context, settings).dataset
        else:
            context = open_context(settings)
        query = read(question, context, **names, dataset=dataset)
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
    rows: list[tuple[str, str]] = []
    score = "ungroundable" if outputs.best_score is None else f"{outputs.best_score:.2f} of 10"
    rows.append(("grounding score", score))
    rows.append(("best iteration, from 0", "none" if outputs.best_iteration is None else str(outputs.best_iteration)))
    rows.append(("iterations", f"{outputs.n_iterations}, {outputs.n_evaluations} predictions"))
    rows.append(("stopped by", outputs.termination_reason.value))
    if truth is not None:
        rows.append(("Pearson with the truth", f"{truth.pearson_lfc:.3f} over {truth.n_genes} genes"))
        rows.append(("overlap of 50 largest changes", f"{truth.de_overlap_50:.2f}"))
    files = ("h5ad_uri", "html_uri", "json_uri", "figure_uri")
    rows += [(name.removesuffix("_uri"), str(getattr(outputs, name) or "none")) for name in files]
    for name, value in rows:
        typer.echo(f"{name:<30}{value}")
