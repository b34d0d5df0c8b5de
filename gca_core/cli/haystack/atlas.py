"""``gca atlas``: what HAYSTACK takes its prompts from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gca_core.atlas.models import CellsKind, EntityKind, IngestConfig
from gca_core.cli.fields import with_fields
from gca_core.cli.terminal import progress_shown, start_on

if TYPE_CHECKING:
    from gca_core.atlas import Atlas, IngestReport

app = typer.Typer(no_args_is_help=True)


FIELDS = tuple(name for name in IngestConfig.model_fields if name not in ("input_uri", "dataset", "perturbation_names"))
DEFAULTS = {"perturbation_kind": "guessed, with a warning where it looks like a CRISPR screen"}
_PLAIN: dict[str, Any] = {"box": None, "pad_edge": False}
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.callback()
def group() -> None:
    """Keep the atlas that HAYSTACK takes its prompts from.

    It lives in the PostgreSQL server of GCA_ATLAS_DSN, or in the embedded one under GCA_HOME.
    """


@app.command()
def init() -> None:
    """Make the atlas' tables, or bring them up to date."""
    from gca_core.config import load_settings
    from gca_core.store.migrations import migrate
    from gca_core.store.redact import describe
    from gca_core.store.resolve import resolve_dsn

    dsn = resolve_dsn(load_settings(), "admin")
    typer.echo(f"schema version {migrate(dsn)}: {describe(dsn)}")


@app.command()
@with_fields(IngestConfig, FIELDS, defaults=DEFAULTS)
def ingest(
    file: Annotated[str, typer.Argument(help="An h5ad file with raw counts, path or URI.")],
    *,
    dataset: Annotated[str, typer.Option(help="Name of the dataset; other content under it is replaced.")],
    perturbation_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VALUE=NAME", help='A name for a value of the column: stim="interferon beta". Repeatable.'
        ),
    ] = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Take an h5ad file into the atlas.

    The same file again changes nothing; an ingest that was killed goes on where it stopped. Example:

    gca atlas ingest pbmc.h5ad --dataset kang --perturbation-column condition --control-value ctrl
    --perturbation-name stim="interferon beta" --cell-type-column cell_type --donor-column donor
    """
    from pydantic import ValidationError

    from gca_core.errors import ConfigurationError, complaints

    given |= {"input_uri": file, "dataset": dataset, "perturbation_names": _names(perturbation_name or [])}
    try:
        config = IngestConfig.model_validate(given)
    except ValidationError as error:
        raise ConfigurationError(complaints(error)) from None
    start_on(config)
    from gca_core.atlas import open_atlas
    from gca_core.atlas.ingest import ingest as take_in
    from gca_core.atlas.ingest.names import load_name_resolver
    from gca_core.llm.embeddings import open_embeddings

    embeddings = open_embeddings()
    with progress_shown():
        report = take_in(
            config,
            open_atlas(role="admin"),
            embed=embeddings.embed_documents,
            resolver=load_name_resolver(),
            embedding_model=embeddings.model,
        )
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        _print_report(report)


@app.command(name="list")
def list_groups(
    dataset: Annotated[str | None, typer.Option(help="Of this dataset.")] = None,
    perturbation: Annotated[str | None, typer.Option(help="With this perturbation; synonyms are known.")] = None,
    cell_type: Annotated[
        str | None, typer.Option(help="Of this cell type or one below it: a name or a Cell Ontology id.")
    ] = None,
    controls: Annotated[
        bool | None, typer.Option("--controls/--perturbed", help="Only controls, or only perturbed groups.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Groups shown at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List groups: the cells of one dataset, perturbation, cell type and donor.

    Their ids are what 'gca atlas materialise' takes.
    """
    from gca_core.atlas import open_atlas

    atlas = open_atlas()
    groups = atlas.groups(
        dataset=dataset,
        perturbations=None if perturbation is None else _perturbations(atlas, perturbation),
        cell_type_ids=None if cell_type is None else _cell_types(cell_type),
        is_control=controls,
    )
    if as_json:
        typer.echo(json.dumps([group.model_dump() for group in groups[:limit]], indent=2))
        return
    if not groups:
        typer.echo("no such groups; 'gca atlas status' shows what the atlas holds")
        return
    table = Table("group", "dataset", "perturbation", "cell type", "donor", "tissue", "cells", "control", **_PLAIN)
    for group in groups[:limit]:
        control = "is one" if group.is_control else group.control_group_id or "none"
        places = (group.donor or "", group.tissue or "")
        table.add_row(
            group.group_id, group.dataset, group.perturbation, group.cell_type, *places, f"{group.n_cells}", control
        )
    _show(table)
    if len(groups) > limit:
        typer.echo(f"and {len(groups) - limit} more; raise --limit")


@app.command()
def search(
    text: Annotated[
        str, typer.Argument(help='What to look for: a name, or words like "type I interferon, monocytes".')
    ],
    kind: Annotated[EntityKind, typer.Option(help="What is searched: groups, perturbations or cell types.")] = "group",
    dataset: Annotated[str | None, typer.Option(help="In this dataset.")] = None,
    perturbation: Annotated[str | None, typer.Option(help="With this perturbation; synonyms are known.")] = None,
    cell_type: Annotated[
        str | None, typer.Option(help="In this cell type or one below it: a name or a Cell Ontology id.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Hits at most.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Search by the vector of a text, and by names that are spelled like it."""
    from gca_core.atlas import open_atlas
    from gca_core.errors import ConfigurationError
    from gca_core.llm.embeddings import open_embeddings

    atlas, embeddings = open_atlas(), open_embeddings()
    model = atlas.embedding_model()
    if model not in {None, embeddings.model}:
        raise ConfigurationError(
            f"the atlas's vectors are of {model!r}, and this command embeds with {embeddings.model!r}; search from "
            "Python with Atlas.semantic() and vectors of that model"
        )
    hits = atlas.semantic(
        embeddings.embed_query(text),
        kind=kind,
        limit=limit,
        dataset=dataset,
        perturbations=None if perturbation is None else _perturbations(atlas, perturbation),
        cell_type_ids=None if cell_type is None else _cell_types(cell_type),
    )
    names = atlas.find_names(text, limit=limit)
    threshold = atlas.similarity_threshold()
    if as_json:
        value = {
            "model": embeddings.model,
            "similarity_threshold": threshold,
            "names": [hit.model_dump() for hit in names],
            "hits": [{**hit.model_dump(), "similarity": round(hit.similarity, 6)} for hit in hits],
        }
        typer.echo(json.dumps(value, indent=2))
        return
    if names:
        table = Table("name", "of", "kind", "spelling", **_PLAIN)
        for name in names:
            table.add_row(name.name, name.label, name.kind.replace("_", " "), f"{name.similarity:.2f}")
        _show(table)
        typer.echo("")
    table = Table("similarity", kind.replace("_", " "), "id", **_PLAIN)
    for hit in hits:
        table.add_row(f"{hit.similarity:.3f}", hit.label, hit.id)
    _show(table)
    if threshold is not None:
        typer.echo(f"unrelated names of {embeddings.model} reach {threshold:.2f} once in a hundred pairs")


@app.command()
def materialise(
    group_ids: Annotated[list[str], typer.Argument(metavar="GROUP...", help="Ids of groups, as 'list' shows them.")],
    output: Annotated[str, typer.Option(help="The h5ad file to write.")],
    kind: Annotated[
        CellsKind,
        typer.Option(help="prompt: the groups' cells; control: those of their controls; query: of control groups."),
    ] = "prompt",
    cell_budget: Annotated[int | None, typer.Option(min=1, help="Cells at most. [default: all]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of cells.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write the cells of groups as an h5ad file: a prompt, its controls, or a query."""
    from gca_core import io
    from gca_core.atlas import open_atlas

    cells = open_atlas().materialise(group_ids, cell_budget=cell_budget, seed=seed, kind=kind)
    with io.staged(output) as path:
        cells.write_h5ad(path, compression="gzip")
    figures = {"output": io.as_uri(output), "n_cells": cells.n_obs, "n_genes": cells.n_vars, "kind": kind}
    typer.echo(
        json.dumps(figures, indent=2) if as_json else f"wrote {cells.n_obs} cells x {cells.n_vars} genes to {output}"
    )


@app.command()
def drop(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a dataset: its rows, what only it used, and its expression files."""
    from gca_core.atlas import open_atlas
    from gca_core.atlas.remove import drop_dataset

    if not yes:
        typer.confirm(f"remove the dataset {dataset!r} and its expression files for good?", abort=True)
    removed = drop_dataset(open_atlas(role="admin"), dataset)
    if as_json:
        typer.echo(json.dumps({"dataset": dataset, "removed": removed}, indent=2))
        return
    typer.echo(f"removed: {dataset}")
    for uri in removed:
        typer.echo(f"deleted: {uri}")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show where the atlas is and what it holds."""
    from gca_core.atlas import open_atlas
    from gca_core.store.redact import describe

    atlas = open_atlas()
    datasets = atlas.datasets()
    if as_json:
        value = {
            "database": describe(atlas.dsn),
            "embedding_model": atlas.embedding_model(),
            "similarity_threshold": atlas.similarity_threshold(),
            "datasets": [info.model_dump(mode="json") for info in datasets],
        }
        typer.echo(json.dumps(value, indent=2))
        return
    typer.echo(f"database: {describe(atlas.dsn)}")
    if not datasets:
        typer.echo("no datasets yet; 'gca atlas ingest --help' says how to add one")
        return
    table = Table("dataset", "cells", "groups", "genes", "perturbations", "cell types", **_PLAIN)
    for info in datasets:
        perturbations, types = atlas.perturbations(info.dataset), atlas.cell_types(info.dataset)
        figures = (info.n_cells, info.n_groups, info.n_genes)
        table.add_row(info.dataset, *map(str, figures), _few(perturbations), _few([label for _, label in types]))
    _show(table)


def _print_report(report: IngestReport) -> None:
    done = "already in the atlas" if report.unchanged else "ingested"
    typer.echo(f"{done}: {report.n_cells} of {report.n_cells_read} cells, {report.n_groups} groups, {report.dataset}")
    if report.resumed_at:
        typer.echo(f"went on at cell {report.resumed_at}, where an earlier ingest had stopped")
    if report.n_unlabelled:
        typer.echo(f"left out: {report.n_unlabelled} cells without a cell type")
    if report.n_without_perturbation:
        column = report.columns.get("perturbation column", "the perturbation column")
        typer.echo(f"left out: {report.n_without_perturbation} cells without a value in {column}")
    for label, count in report.unmapped_cell_types.items():
        typer.echo(f"left out: {count} cells labelled {label!r}, which is not a known cell type")
    for label, count in report.unmapped_tissues.items():
        typer.echo(f"note: {count} cells are of {label!r}, which is not a known tissue, and have none")
    for value, name in report.perturbation_names.items():
        typer.echo(f"name: {value!r} is taken as {name!r}")
    if report.unmapped_perturbations:
        typer.echo(f"note: not in the catalogue: {', '.join(report.unmapped_perturbations)}")
    for note in report.notes:
        typer.echo(f"note: {note}")
    if report.n_groups_without_control:
        typer.echo(f"note: {report.n_groups_without_control} perturbed groups have no control of their cell type")


def _perturbations(atlas: Atlas, text: str) -> list[str]:
    """The atlas's names for a perturbation, by exact spelling of a name or synonym."""
    found = [hit.id for hit in atlas.find_names(text, kind="perturbation", limit=50, min_similarity=1.0)]
    return found or [text]


def _cell_types(text: str) -> list[str]:
    """A cell type and those below it.

    Raises:
        CellRetrievalError: it isn't known.
    """
    from gca_core.errors import CellRetrievalError
    from gca_core.knowledge.bundled.ontology import load_ontology

    ontology = load_ontology()
    identifier = ontology.resolve(text)
    if identifier is None:
        near = ", ".join(ontology.suggest(text)) or "none"
        raise CellRetrievalError(f"{text!r} is not a known cell type; names like it: {near}")
    return sorted(ontology.descendants(identifier))


def _show(table: Table) -> None:
    Console().print(table)


def _names(pairs: list[str]) -> dict[str, str]:
    names = {}
    for pair in pairs:
        value, found, name = pair.partition("=")
        if not (value and found and name):
            raise typer.BadParameter(f"{pair!r} is not VALUE=NAME, like stim='interferon beta'")
        names[value] = name
    return names


def _few(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
