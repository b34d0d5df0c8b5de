"""``gca knowledge``: the snapshot of biological knowledge, and the services that may be asked."""

from __future__ import annotations

import json
import os
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from gca_core.knowledge.bundled.check import TableReport
    from gca_core.knowledge.bundled.describe import Description, GeneFacts
    from gca_core.knowledge.bundled.lookups import DrugTargets, Lookup
    from gca_core.knowledge.bundled.snapshot import SnapshotPart

app = typer.Typer(
    no_args_is_help=True, help="Look at the snapshot of biological knowledge, build it anew, and check it."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the snapshot's parts with version, licence and state, what they hold, and which services are on.

    Exits with 1 if a part isn't what its manifest says.
    """
    from gca_core.io import ChecksumState
    from gca_core.knowledge.bundled.describe import snapshot_status
    from gca_core.knowledge.online.settings import Source, load_online_settings

    found, online = snapshot_status(), load_online_settings()
    sources = {source.value: source in online.online_sources for source in Source}
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json") | {"online": sources}, indent=2, ensure_ascii=False))
    else:
        _print_parts(found.parts)
        _print_rows(("what", "how many"), ((name, f"{count:,}") for name, count in found.counts.items()))
        typer.echo(f"version: {found.version}")
        on = ", ".join(name for name, is_on in sources.items() if is_on)
        typer.echo(f"services: {on or 'none; name some in GCA_ONLINE_SOURCES'}")
    if any(part.state is not ChecksumState.OK for part in found.parts):
        raise typer.Exit(1)


@app.command()
def build(
    source: Annotated[Path, typer.Option("--source", help="Folder of the downloaded files.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Folder to build in. [default: GCA_KNOWLEDGE_DIR]", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build the snapshot from files that you downloaded; the same files give the same bytes."""
    from gca_core.knowledge.bundled.build import build_snapshot
    from gca_core.knowledge.bundled.files import FOLDER_VARIABLE

    folder = output or (Path(named) if (named := os.environ.get(FOLDER_VARIABLE, "").strip()) else None)
    if folder is None:
        raise typer.BadParameter(f"name a folder with --output, or set {FOLDER_VARIABLE}")
    parts = build_snapshot(source, folder)
    if as_json:
        typer.echo(json.dumps([vars(part) for part in parts], indent=2, ensure_ascii=False))
        return
    rows = ((p.file, p.source, f"{p.bytes:,}" if p.bytes is not None else "skipped: not there") for p in parts)
    _print_rows(("part", "made from", "bytes"), rows)
    typer.echo(f"used when {FOLDER_VARIABLE}={folder}")


@app.command()
def check(
    reference: Annotated[
        list[Path], typer.Option("--reference", help="Folder of reference tables; may be given several times.")
    ],
    every: Annotated[bool, typer.Option("--all", help="Print what is not in a table, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the catalogue with reference tables, and print what disagrees; nothing is taken over from them."""
    from gca_core.knowledge.bundled.catalogue import load_catalogue
    from gca_core.knowledge.bundled.check import Verdict, check_catalogue

    reports = check_catalogue(load_catalogue(), reference)
    if as_json:
        shown = [r.model_dump(mode="json") | {"counts": {v.value: n for v, n in r.counts.items()}} for r in reports]
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    verdicts = list(Verdict)
    rows = ((r.table, r.compares, f"{r.entries:,}", *(f"{r.counts[v]:,}" for v in verdicts)) for r in reports)
    _print_rows(("table", "compares", "entries", *(v.value for v in verdicts)), rows)
    for report in reports:
        _print_findings(report, [Verdict.DISAGREE, *([Verdict.NOT_IN_TABLE] if every else [])])


@app.command()
def lookup(
    text: Annotated[str, typer.Argument(help="A perturbation, gene, cell type, tissue or gene set.")],
    limit: Annotated[int, typer.Option(min=1, help="At most so many pathways and neighbours.")] = 10,
    online: Annotated[bool, typer.Option("--online", help="Ask the services in GCA_ONLINE_SOURCES as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show everything that a word means: targets, pathways, neighbours, ontology terms."""
    from gca_core.knowledge.bundled.describe import describe

    found = describe(text, limit)
    answers = _ask_services(found) if online else {}
    if as_json:
        shown = found.model_dump(mode="json", exclude_none=True)
        typer.echo(json.dumps(shown | ({"online": answers} if online else {}), indent=2, ensure_ascii=False))
        return
    _print_description(found)
    for name, answer in answers.items():
        _print_rows((name, ""), ((key, str(value)[:200]) for key, value in answer.items()))


def _ask_services(found: Description) -> dict[str, dict[str, object]]:
    """The services' answers about a gene, else about the text as a query to PubMed."""
    from gca_core.knowledge.online.lookups import OnlineKnowledge, ask

    services = OnlineKnowledge()
    calls: dict[str, Coroutine[Any, Any, Lookup[Any]]] = {"literature": services.literature(found.text, 5)}
    if found.gene is not None:
        gene = found.gene.symbol
        calls["pathways"] = services.pathways_of(gene)
        calls["protein"] = services.protein(gene)
        calls["gene"] = services.gene(gene)
    answers: dict[str, dict[str, object]] = {}
    for name, call in calls.items():
        answer = ask(call)
        answers[name] = {"source": answer.source, "missing": list(answer.missing), "value": _plain(answer.value)}
    return answers


def _plain(value: object) -> object:
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _print_parts(parts: Iterable[SnapshotPart]) -> None:
    from gca_core.io import ChecksumState

    table = Table("part", "version", "bytes", "licence", "state")
    table.columns[0].overflow = "fold"
    for part in parts:
        colour = "green" if part.state is ChecksumState.OK else "red"
        state = Text(part.state.value, style=colour)
        table.add_row(Text(part.file), Text(part.version), f"{part.bytes:,}", Text(part.licence), state)
    Console().print(table)


def _print_findings(report: TableReport, verdicts: Iterable[object]) -> None:
    wanted = set(verdicts)
    rows = [(f.entry, f.fact, f.verdict.value, f.detail) for f in report.findings if f.verdict in wanted]
    if rows:
        typer.echo(f"\n{report.table}: {report.compares}")
        _print_rows(("entry", "catalogue says", "", "table says"), rows)


def _print_description(found: Description) -> None:
    if found.ambiguity is not None:
        taken = f"taken as {found.ambiguity.default}" if found.ambiguity.default else "not taken for any of them"
        meanings = ", ".join(found.ambiguity.meanings)
        typer.echo(f"ambiguous: {found.ambiguity.name} may mean {meanings}; {taken} ({found.ambiguity.reason})")
    if found.perturbation is not None:
        _print_perturbation(found.perturbation)
    if found.gene is not None:
        _print_gene(found.gene)
    if found.cell_type is not None:
        typer.echo(f"cell type: {found.cell_type.label} ({found.cell_type.identifier})")
        typer.echo(f"  {' > '.join(found.cell_type.lineage)}")
    if found.tissue is not None:
        typer.echo(f"tissue: {found.tissue.label} ({found.tissue.identifier})")
    if found.gene_set is not None:
        typer.echo(f"gene set of {len(found.gene_set)} genes: {' '.join(found.gene_set)}")


def _print_perturbation(entry: DrugTargets) -> None:
    typer.echo(f"perturbation: {entry.name} ({entry.type.value}, {entry.family}; evidence {entry.evidence})")
    signed = {"up": "+", "down": "-"}
    rows = (
        ("targets", " ".join(f"{signed[g.direction]}{g.gene}" for g in entry.targets)),
        ("response", " ".join(f"{signed[g.direction]}{g.gene}" for g in entry.response)),
        ("pathways", "; ".join(f"{signed[p.direction]}{p.name}" for p in entry.pathways)),
        ("footprints", "; ".join(f"{signed[p.direction]}{p.name}" for p in entry.footprints)),
    )
    _print_rows(("expected", ""), (row for row in rows if row[1]))


def _print_gene(gene: GeneFacts) -> None:
    signed = {"up": "+", "down": "-"}
    rows = (
        ("pathways", "; ".join(f"{m.name} ({m.size})" for m in gene.pathways)),
        ("neighbours", " ".join(f"{n.gene} {n.weight:g}" for n in gene.neighbours)),
        ("ligand to receptor", "; ".join(f"{'_'.join(p.ligand)} to {'_'.join(p.receptor)}" for p in gene.pairs)),
        ("acted on by", "; ".join(f"{signed[g.direction]}{g.gene}" for g in gene.acted_on_by)),
    )
    typer.echo(f"gene: {gene.symbol}")
    _print_rows(("what", ""), (row for row in rows if row[1]))


def _print_rows(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    table = Table(*header)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
