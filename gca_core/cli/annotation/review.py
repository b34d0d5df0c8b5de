"""``gca review``: list what is flagged, take in what people decided, and learn markers from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gca_core.cli import failures
from gca_core.cli.annotation.options import reviewer

if TYPE_CHECKING:
    from gca_core.annotation.review.queue import Queue


def review(
    where: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER|FILE...",
            help="A folder or URI prefix with results of one run or of many, at any depth; or their files.",
        ),
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder for review.csv and review.html. Left out: that folder.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List every cluster, not only those that are flagged.")
    ] = False,
    apply: Annotated[
        str | None, typer.Option(metavar="CSV", help="A filled-in review.csv whose corrections go into the results.")
    ] = None,
    who: Annotated[
        str | None, typer.Option(envvar="GCA_REVIEWER", help="The reviewer. Left out: the user of this system.")
    ] = None,
    free_labels: Annotated[
        bool, typer.Option("--free-labels", help="With --apply: take labels that the Cell Ontology doesn't know.")
    ] = False,
    as_markers: Annotated[
        str | None, typer.Option(metavar="CSV", help="Write the top genes of corrected clusters as a marker table.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything, and show tracebacks.")] = False,
) -> None:
    """Write the flagged clusters as a table to fill in and a page to read; take the filled-in table in.

    Corrections go into the annotated file, the report and its tables, with who decided and when, and are kept when
    the data is annotated again into the same folder.

    Example: gca review results; gca review results --apply results/review.csv; gca review results --as-markers my.csv
    """
    failures.debug(wanted=debug)
    if free_labels and apply is None:
        raise typer.BadParameter("--free-labels belongs to --apply")
    if apply is not None:
        _apply(apply, where, who, free_labels=free_labels)
    if as_markers is not None:
        _write_markers(where, as_markers)
    if apply is None and as_markers is None:
        _list(where, output, everything=everything)


def _list(where: list[str], output: str | None, *, everything: bool) -> None:
    from gca_core.annotation.review.page import write_review
    from gca_core.annotation.review.queue import collect_review

    queue = collect_review(where, everything=everything)
    uris = write_review(queue, output)
    typer.echo(_found(queue, everything=everything))
    for what, uri in uris.items():
        typer.echo(f"{what}: {uri}")


def _found(queue: Queue, *, everything: bool) -> str:
    n = sum(len(run.report.annotations) for run in queue.runs)
    listed = "listed" if everything else "flagged"
    return f"{len(queue.entries)} of {n} clusters in {len(queue.runs)} {_plural(len(queue.runs), 'run')} {listed}"


def _apply(table: str, where: list[str], who: str | None, *, free_labels: bool) -> None:
    from gca_core.annotation.review.apply import apply_review

    name = reviewer(who)
    outcome = apply_review(table, where, who=name, free_labels=free_labels)
    new = sum(outcome.applied.values())
    typer.echo(
        f"{new} {_plural(new, 'correction')} applied as {name}, {outcome.unchanged} in place already; "
        f"{outcome.flagged} {_plural(outcome.flagged, 'cluster')} still flagged"
    )
    for run, n in outcome.applied.items():
        typer.echo(f"{run}: {n}")
    typer.echo(f"corrections: {outcome.corrections}")


def _write_markers(where: list[str], target: str) -> None:
    from gca_core.annotation.review.markers import write_review_markers
    from gca_core.annotation.review.queue import collect_review

    n = write_review_markers(collect_review(where), target)
    typer.echo(f"{n} markers in {target}; use them with --marker-db")


def _plural(n: int, noun: str) -> str:
    return noun if n == 1 else f"{noun}s"
