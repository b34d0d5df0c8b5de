"""``gca vae``: latent models of counts."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gca_core.cli.fields import with_fields
from gca_core.cli.terminal import progress_shown, start_on
from gca_core.cli.vae import options
from gca_core.cli.vae import runs as vae_runs
from gca_core.cli.vae.runs import require_torch, show
from gca_core.cli.vae.tables import print_result
from gca_core.latent.config import LatentConfig

if TYPE_CHECKING:
    from gca_core.machine import MachineProfile

log = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, cls=options.TrainByDefault)
HASHED = 8
FIELDS = (
    "output_uri",
    "overwrite",
    "labels_key",
    "batch_key",
    "counts_layer",
    "recover_counts",
    "likelihood",
    "latent_dim",
    "epochs",
    "batch_size",
    "threads",
    "device",
    "seed",
)
DEFAULTS = {
    "output_uri": "outputs/<run id>, or latent/<run id> under GCA_RESULTS_URI",
    "overwrite": "overwrite",
    "batch_size": "by the machine profile, or 128",
    "threads": "by the machine profile, or 1",
    "device": "by the machine profile, or cpu",
    "seed": "GCA_SEED, or 0",
}


@app.callback()
def group() -> None:
    """Train a latent model on counts, report how good it is, and use it on other cells.

    Without a command, 'train' is meant.
    """


@app.command("pipeline", help="Train, evaluate and draw everything in one go: the same as train --pipeline.")
@app.command("train", help="Train and evaluate; options given here win over the configuration's.")
@with_fields(LatentConfig, FIELDS, spelling=options.SPELLING, defaults=DEFAULTS)
def train(
    ctx: typer.Context,
    input_uri: options.OptionalInput = None,
    *,
    config: options.Config = None,
    pipeline: Annotated[
        bool, typer.Option("--pipeline", help="Also draw a t-SNE; the other pictures are always drawn.")
    ] = False,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    **given: Any,
) -> None:
    """Train and evaluate, and with ``pipeline`` draw the t-SNE as well."""
    from gca_core.machine import find_profile

    profile = find_profile()
    with _run_config(config, {"input_uri": input_uri, **given}, profile, dry_run=dry_run) as run_config:
        result = _train(run_config)
        if pipeline or ctx.info_name == "pipeline":
            from gca_core.latent.evaluation.figures import draw_run

            keep = profile is not None and profile.keep_intermediate_files
            drawn = draw_run(run_config.output_uri, pictures=("tsne",), keep_coordinates=keep)
            result = {**result, "uris": {**result["uris"], **drawn}}
    show(result, print_result, as_json=as_json)


app.command("eval")(vae_runs.evaluate)
app.command("viz")(vae_runs.visualize)
app.command("embed")(vae_runs.embed)
app.command("map")(vae_runs.map_cells)


@contextmanager
def _run_config(
    config: str | None, given: dict[str, Any], profile: MachineProfile | None, *, dry_run: bool
) -> Iterator[LatentConfig]:
    """The run's configuration; that of a dry run has synthetic cells in a temporary file for the time of the block."""
    from gca_core.config import load_settings
    from gca_core.latent.config import load_config
    from gca_core.machine import training_options

    settings = load_settings()
    defaults = {"seed": settings.seed, **(training_options(profile) if profile else {})}
    # known once everything else is
    defaults["output_uri"] = "-"
    if dry_run:
        defaults["input_uri"] = "synthetic"
    run_config = load_config(config, defaults=defaults, **given)
    if run_config.output_uri == "-":
        root = f"{settings.results_uri}/latent" if settings.results_uri else "outputs"
        run_config = run_config.model_copy(update={"output_uri": f"{root}/{_run_id(run_config, dry_run=dry_run)}"})
    if not dry_run:
        yield run_config
        return
    with _synthetic_input(run_config.seed, keep=profile is not None and profile.keep_temp_files) as path:
        from gca_core.latent.data.synthetic import as_dry_run

        yield as_dry_run(run_config, input_uri=str(path), output_uri=run_config.output_uri)


@contextmanager
def _synthetic_input(seed: int, *, keep: bool) -> Iterator[Path]:
    require_torch()
    from gca_core.latent.data.synthetic import synthetic_cells

    path = Path(tempfile.mkdtemp(prefix="gca-dry-run-")) / "synthetic.h5ad"
    try:
        synthetic_cells(seed=seed).write_h5ad(path)
        yield path
    finally:
        if keep:
            log.info("the synthetic cells stay in %s", path)
        else:
            shutil.rmtree(path.parent, ignore_errors=True)


def _run_id(config: LatentConfig, *, dry_run: bool) -> str:
    """A name that equal configurations share: they write to the same folder."""
    from gca_core.io import safe_name
    from gca_core.latent.config import dump_config

    if dry_run:
        return "dry-run"
    config = config.model_copy(update={"overwrite": True})
    stem = safe_name(PurePosixPath(config.input_uri).stem or "input")
    return f"{stem}-{hashlib.sha256(dump_config(config).encode()).hexdigest()[:HASHED]}"


def _train(config: LatentConfig) -> dict[str, Any]:
    start_on(config)
    require_torch()
    from gca_core.latent.train import run_training

    with progress_shown():
        return run_training(config).model_dump(mode="json")
