"""What the commands that label clusters have in common: options, settings, models and exit codes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from gca_core.annotation.config import TOP_N_MARKERS
from gca_core.annotation.defaults import MIN_OVERLAP
from gca_core.cli import failures
from gca_core.cli.terminal import progress_shown
from gca_core.config import Settings, load_settings
from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    from gca_core.annotation.llm.models import LlmOptions

CHUNK_SIZE = 20

Species = Annotated[str | None, typer.Option(help="human or mouse. [default: human]", show_default=False)]
Tissue = Annotated[
    str | None, typer.Option(help="Where the cells are from, such as blood, lung or PBMC. Left out: anywhere.")
]
MarkerDb = Annotated[
    str | None,
    typer.Option(help="A marker table of any known format. [default: GCA_MARKER_DB_PATH, or the bundled one]"),
]
Vocabulary = Annotated[
    str | None,
    typer.Option(
        help="Names to write the labels in, too: broad, or a CSV or TSV with the columns label and ontology_id."
    ),
]
TopNMarkers = Annotated[int | None, typer.Option(min=5, help=f"Genes taken per cluster. [default: {TOP_N_MARKERS}]")]
MinOverlap = Annotated[
    int | None,
    typer.Option(
        "--guardrail-min-overlap", min=1, help=f"Fewest markers that support a label. [default: {MIN_OVERLAP}]"
    ),
]
ForceUnknown = Annotated[
    bool,
    typer.Option(
        "--guardrail-force-unknown/--no-guardrail-force-unknown",
        help="Call clusters with too little evidence Unknown or Novel, or keep the label, flagged.",
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option(
        help="A chat model as provider:model, or provider:model@http://host/v1. Twice or more: they have to "
        "agree. Left out: GCA_LLM, and where that is unset no model is called."
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Call no model, also where GCA_LLM names one.")]
ChunkSize = Annotated[int, typer.Option(min=1, max=200, help="Clusters per prompt.")]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Budget: no call starts that could exceed it.", show_default=False)
]
MaxCost = Annotated[float | None, typer.Option(help="Budget in the currency of the prices.", show_default=False)]
Price = Annotated[
    list[str] | None,
    typer.Option(help="Price per million tokens as provider:model=INPUT,OUTPUT; none is built in."),
]
CacheDir = Annotated[
    str | None,
    typer.Option(help="Where models' answers are kept. [default: GCA_CACHE_DIR, or the user's cache directory]"),
]
UseCache = Annotated[bool, typer.Option(help="Reuse and keep models' answers.")]
AssetsHome = Annotated[
    str | None,
    typer.Option(help="Where copies of remote marker tables are kept. [default: GCA_ASSETS_HOME, or in GCA_CACHE_DIR]"),
]
RequestId = Annotated[
    str | None, typer.Option(help="Names this run in logs and results. [default: GCA_REQUEST_ID, or a new one]")
]
Debug = Annotated[bool, typer.Option("--debug", help="Log everything, and show the traceback of an error.")]
FailOnFlagged = Annotated[
    bool,
    typer.Option("--fail-on-flagged", help="Exit with 3 when a label is flagged; results are written anyway."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")]


def settings(
    *,
    marker_db: str | None = None,
    cache_dir: str | None = None,
    assets_home: str | None = None,
    request_id: str | None = None,
    seed: int | None = None,
) -> Settings:
    """The settings, with what the command line says in their place."""
    return load_settings(
        marker_db_path=marker_db, cache_dir=cache_dir, assets_home=assets_home, request_id=request_id, seed=seed
    )


def chosen_models(model: Sequence[str] | None, *, offline: bool, found: Settings) -> tuple[str, ...]:
    """The models that are named by option, or else by ``GCA_LLM``; none with ``--offline``."""
    if offline and model:
        raise typer.BadParameter("--offline and --model exclude each other")
    if offline:
        return ()
    return tuple(model or ([found.llm] if found.llm else []))


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
    from gca_core.annotation.llm.models import LlmOptions
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


@contextmanager
def at_work(found: Settings) -> Iterator[None]:
    """Show progress and keep assets where the options say, for the time of the block."""
    from gca_core.annotation.markers.remote import assets_in

    with assets_in(found.assets_home), progress_shown():
        yield


def end(n_flagged: int, *, fail_on_flagged: bool) -> None:
    """Exit with 3 where flagged labels are to count as a failure."""
    if fail_on_flagged and n_flagged:
        logging.getLogger(__name__).warning("%d labels are flagged", n_flagged)
        raise typer.Exit(failures.EXIT_FLAGGED)
