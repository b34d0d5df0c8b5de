"""Options that the ``gca vae`` commands share, and the group that trains when no command is named."""

import difflib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class CountModel(StrEnum):
    """Likelihoods of the counts."""

    NB = "nb"
    ZINB = "zinb"
    GAUSSIAN = "gaussian"


class Device(StrEnum):
    """Where a run computes."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


class TrainByDefault(TyperGroup):
    """Arguments that don't start with a command are those of ``train``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] != "--help" and args[0] not in self.commands and not self._mistyped(args[0]):
            args = ["train", *args]
        return super().parse_args(ctx, args)

    def _mistyped(self, word: str) -> bool:
        near = difflib.get_close_matches(word, list(self.commands), n=1)
        return bool(near) and not word.startswith("-") and not Path(word).exists()


OptionalInput = Annotated[
    str | None,
    typer.Argument(metavar="[INPUT]", help="The cells, path or URI; default: input_uri of the configuration."),
]
Input = Annotated[str, typer.Argument(metavar="INPUT", help="The cells, path or URI.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Folder that a training run wrote, path or URI.")]
Config = Annotated[
    str | None,
    typer.Option("--config", help="A YAML file with options, or the name of a bundled example (pbmc68k_reduced)."),
]
OutputDir = Annotated[
    str | None,
    typer.Option(
        "--output-dir",
        "--output_dir",
        help="Folder for the results. Default: outputs/<run id>, or latent/<run id> under GCA_RESULTS_URI.",
    ),
]
Overwrite = Annotated[
    bool | None, typer.Option("--overwrite/--no-overwrite", help="Replace earlier results, or refuse to.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", "--dry_run", help="One epoch on tiny synthetic cells, to see that every step works."),
]
LabelColumn = Annotated[str | None, typer.Option(help="obs column with known labels, for the evaluation.")]
BatchColumn = Annotated[str | None, typer.Option(help="obs column with batches, a covariate.")]
CountsLayer = Annotated[str | None, typer.Option(help="Where the counts are: X, raw or the name of a layer.")]
RecoverCounts = Annotated[
    bool | None,
    typer.Option("--recover-counts/--no-recover-counts", help="Recover counts from log-normalised values."),
]
Likelihood = Annotated[CountModel | None, typer.Option(help="Distribution of the counts. Default: nb.")]
LatentDim = Annotated[int | None, typer.Option(help="Size of the latent space. Default: 10.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the cells at most. Default: 200.")]
BatchSize = Annotated[int | None, typer.Option(help="Cells per step. Default: by the machine profile, or 128.")]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads; another number can change the last digits. Default: machine profile, or 1."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of every random choice. Default: GCA_SEED, or 0.")]
DeviceChoice = Annotated[Device | None, typer.Option("--device", help="Default: by the machine profile, or cpu.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")]
