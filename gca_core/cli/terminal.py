"""The terminal's side of the ``gca`` command: the log and progress, both on stderr."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console

from gca_core.progress import Progress, listening

log = logging.getLogger(__name__)
# one console for both, so that lines of the log don't tear the bar
console = Console(stderr=True)
WORDS = {
    "read": "reading",
    "cluster": "clustering",
    "rank": "ranking genes",
    "weigh": "weighing the evidence",
    "annotate": "labelling",
    "ask": "asking the model",
    "judge": "judging labels",
    "draw": "drawing",
    "write": "writing",
    "train": "training",
    "embed": "embedding",
    "evaluate": "scoring",
    "umap": "computing the UMAP",
    "store": "storing cells",
}


class Config(Protocol):
    """A configuration with cells that come in."""

    @property
    def input_uri(self) -> str:
        """Where they are."""
        ...

    def check_input(self) -> None:
        """Refuse what their names show to be wrong."""
        ...


def start_on(config: Config) -> None:
    """Check the names of what comes in, and say so: the packages that read and compute take seconds to load."""
    config.check_input()
    log.info("starting on %s", config.input_uri)


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show what the work in the block is at while it goes on, where stderr is a terminal; else nothing."""
    if not console.is_terminal:
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(progress: Progress) -> None:
            description = WORDS.get(progress.stage, progress.stage)
            bar.update(task, description=description, completed=progress.done or 0, total=progress.total)

        with listening(show):
            yield
