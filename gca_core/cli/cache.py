"""``gca cache``: the answers of models that are kept on disk."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

CacheDir = Annotated[
    str | None,
    typer.Option("--cache-dir", help="The cache that is meant. [default: GCA_CACHE_DIR]", show_default=False),
]


@app.callback()
def cache() -> None:
    """Look at and empty the cache of models' answers; what is deleted is asked again."""


@app.command()
def info(
    cache_dir: CacheDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Show where the cache lies, how large it is, and which models' answers it holds."""
    from gca_core.annotation.cache import AnswerCache, cache_folder

    found = AnswerCache(cache_folder(cache_dir)).info()
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    typer.echo(f"folder: {found.folder}")
    typer.echo(f"answers: {found.answers:,} in {found.bytes / 1e6:.2f} MB")
    for model, count in found.models.items():
        typer.echo(f"  {model}: {count:,}")
    if found.unreadable:
        typer.echo(f"unreadable: {found.unreadable:,}; they count as absent")
    if found.oldest is not None and found.newest is not None:
        typer.echo(f"written: {_day(found.oldest)} to {_day(found.newest)}")


@app.command()
def clear(
    cache_dir: CacheDir = None,
    model: Annotated[str | None, typer.Option(help="Only the answers of this provider:model.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Delete the answers; nothing else in the folder is touched."""
    from gca_core.annotation.cache import AnswerCache, cache_folder

    folder = cache_folder(cache_dir)
    if not yes:
        typer.confirm(f"delete the answers{f' of {model}' if model else ''} in {folder}?", abort=True)
    typer.echo(f"deleted {AnswerCache(folder).clear(model=model):,} answers from {folder}")


def _day(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
