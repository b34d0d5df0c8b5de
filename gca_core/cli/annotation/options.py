"""What the commands that label clusters have in common: options, settings, models and exit codes."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from gca_core.cli import failures
from gca_core.cli.terminal import progress_shown
from gca_core.config import Settings, load_settings
from gca_core.errors import ConfigurationError

# fields that the command line writes in another way than --their-name
SPELLING = {
    "output_uri": ("--output", "-o"),
    "labels_key": ("--label-column",),
    "min_overlap": ("--guardrail-min-overlap",),
    "force_unknown": ("--guardrail-force-unknown/--no-guardrail-force-unknown",),
    "umap": ("--umap/--no-umap",),
    "consensus": ("--consensus",),
    "overwrite": ("--overwrite/--no-overwrite",),
}
DEFAULTS = {
    "output_uri": "annotation, or validation",
    "seed": "GCA_SEED, or 0",
    "force_unknown": "on",
    "umap": "umap",
    "consensus": "off",
    "overwrite": "overwrite",
}

Debug = Annotated[bool, typer.Option("--debug", help="Log everything, and show the traceback of an error.")]
FailOnFlagged = Annotated[
    bool,
    typer.Option("--fail-on-flagged", help="Exit with 3 when a label is flagged; results are written anyway."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")]
AssetsHome = Annotated[
    str | None,
    typer.Option(
        help="Where copies of remote marker tables are kept.",
        show_default="GCA_ASSETS_HOME, or in GCA_CACHE_DIR",
        rich_help_panel="Evidence",
    ),
]


def reviewer(who: str | None) -> str:
    """The name given, or that of the user of this system."""
    try:
        return who or getpass.getuser()
    except (KeyError, OSError):
        raise ConfigurationError("this system names no user; say who decided, with --who or GCA_REVIEWER") from None


def settings(
    *,
    marker_db: str | None = None,
    cache_dir: str | None = None,
    assets_home: str | None = None,
    request_id: str | None = None,
    seed: int | None = None,
    **_: Any,
) -> Settings:
    """The settings, with what the command line says in their place."""
    return load_settings(
        marker_db_path=marker_db, cache_dir=cache_dir, assets_home=assets_home, request_id=request_id, seed=seed
    )


def _of_model(help_text: str, *names: str, default: str | bool = False, **limits: Any) -> Any:
    return typer.Option(*names, help=help_text, show_default=default, rich_help_panel="Model", **limits)


def models_of(
    found: Settings,
    *,
    model: Annotated[
        list[str] | None,
        _of_model(
            "A chat model as provider:model, or provider:model@http://host/v1. Twice or more: they have to agree.",
            default="GCA_LLM, and where that is unset no model is called",
        ),
    ] = None,
    offline: Annotated[bool, _of_model("Call no model, also where GCA_LLM names one.", "--offline")] = False,
    chunk_size: Annotated[int, _of_model("Clusters per prompt.", default=True, min=1, max=200)] = 20,
    max_tokens: Annotated[int | None, _of_model("Budget: no call starts that could exceed it.", min=1)] = None,
    max_cost: Annotated[float | None, _of_model("Budget in the currency of the prices.")] = None,
    price: Annotated[
        list[str] | None,
        _of_model("Price per million tokens as provider:model=INPUT,OUTPUT; none is built in."),
    ] = None,
    cache_dir: Annotated[  # noqa: ARG001 - the settings read it
        str | None,
        _of_model("Where models' answers are kept.", default="GCA_CACHE_DIR, or the user's cache directory"),
    ] = None,
    use_cache: Annotated[bool, _of_model("Reuse and keep models' answers.", default=True)] = True,
    **_: Any,
) -> dict[str, Any]:
    """The models that are named by option, or else by ``GCA_LLM``, none with ``--offline``; and how they are asked.

    Raises:
        ConfigurationError: a price of another form, or a budget that is none.
    """
    from gca_core.annotation.llm.models import LlmOptions
    from gca_core.llm.models import Budget, parse_price

    if offline and model:
        raise typer.BadParameter("--offline and --model exclude each other")
    if max_cost is not None and not max_cost > 0:
        raise typer.BadParameter(f"--max-cost is {max_cost}; expected a positive amount")
    named: Sequence[str] = model or ([found.llm] if found.llm else [])
    options = LlmOptions(
        chunk_size=chunk_size,
        budget=Budget(max_tokens=max_tokens, max_cost=max_cost),
        prices=dict(parse_price(one) for one in price or ()),
        cache_dir=None if found.cache_dir is None else str(found.cache_dir),
        use_cache=use_cache,
    )
    return {"model": None if offline else tuple(named) or None, "llm_options": options}


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
