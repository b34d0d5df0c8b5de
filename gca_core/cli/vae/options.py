"""Options that the ``gca vae`` commands share, and the group that trains when no command is named."""

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class TrainByDefault(TyperGroup):
    """Arguments that don't start with a command are those of ``train``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] != "--help" and args[0] not in self.commands and not self._mistyped(args[0]):
            args = ["train", *args]
        return super().parse_args(ctx, args)

    def _mistyped(self, word: str) -> bool:
        near = difflib.get_close_matches(word, list(self.commands), n=1)
        return bool(near) and not word.startswith("-") and not Path(word).exists()


SPELLING = {
    "output_uri": ("--output-dir", "--output_dir"),
    "overwrite": ("--overwrite/--no-overwrite",),
    "recover_counts": ("--recover-counts/--no-recover-counts",),
    "labels_key": ("--label-column",),
    "batch_key": ("--batch-column",),
}
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
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", "--dry_run", help="One epoch on tiny synthetic cells, to see that every step works."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")]
