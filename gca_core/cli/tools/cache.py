"""``gca cache``: the answers of models and the parsed marker tables that are kept on disk."""

import datetime as dt
import json
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Look at and empty the cache of answers, marker tables and predictions; what is deleted is made again.",
)

CacheDir = Annotated[
    str | None,
    typer.Option("--cache-dir", help="The cache that is meant. [default: GCA_CACHE_DIR]", show_default=False),
]


@app.command()
def info(
    cache_dir: CacheDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Show where the cache lies, how large it is, and which models' answers it holds."""
    from gca_core.annotation.llm.answer_cache import AnswerCache, cache_folder
    from gca_core.annotation.markers.remote import assets_under
    from gca_core.annotation.markers.table_cache import parsed_tables
    from gca_core.inference.cache import kept_predictions

    found = AnswerCache(cache_folder(cache_dir)).info()
    with assets_under(cache_dir):
        tables, size = parsed_tables().size()
    predictions, prediction_bytes = kept_predictions(cache_dir).size()
    own = {
        "tables": tables,
        "table_bytes": size,
        "predictions": predictions,
        "prediction_bytes": prediction_bytes,
    }
    if as_json:
        typer.echo(json.dumps(found.model_dump() | own, indent=2))
        return
    typer.echo(f"folder: {found.folder}")
    typer.echo(f"answers: {found.answers:,} in {found.bytes / 1e6:.2f} MB")
    for model, count in found.models.items():
        typer.echo(f"  {model}: {count:,}")
    typer.echo(f"parsed marker tables: {tables:,} in {size / 1e6:.2f} MB")
    typer.echo(f"predictions: {predictions:,} in {prediction_bytes / 1e6:.2f} MB")
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
    """Delete answers and, unless a model is named, parsed marker tables and predictions; nothing else is touched."""
    from gca_core.annotation.llm.answer_cache import AnswerCache, cache_folder
    from gca_core.annotation.markers.remote import assets_under
    from gca_core.annotation.markers.table_cache import parsed_tables
    from gca_core.inference.cache import kept_predictions

    folder = cache_folder(cache_dir)
    if not yes:
        which = f" of {model}" if model else " and parsed marker tables and predictions"
        typer.confirm(f"delete the answers{which} in {folder}?", abort=True)
    typer.echo(f"deleted {AnswerCache(folder).clear(model=model):,} answers from {folder}")
    if model is None:
        with assets_under(cache_dir):
            typer.echo(f"deleted {parsed_tables().clear():,} parsed marker tables")
        typer.echo(f"deleted {kept_predictions(cache_dir).clear():,} predictions")


def _day(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
