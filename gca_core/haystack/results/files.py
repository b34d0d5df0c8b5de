"""The names of a run's results, ``{run_id}_{ending}``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gca_core import io

ENDINGS = {"h5ad": "predictions.h5ad", "html": "report.html", "markdown": "report.md", "json": "log.json"}
# shows that a folder holds results of a run, whatever its id
RESULT = f"*_{ENDINGS['json']}"


def result_uris(folder_uri: str, run_id: str) -> dict[str, str]:
    """Where the results of a run lie, by kind."""
    name = io.safe_name(run_id)
    return {kind: io.join_uri(folder_uri, f"{name}_{ending}") for kind, ending in ENDINGS.items()}


def remove_earlier(folder_uri: str, kept: Iterable[str | None]) -> None:
    """Remove the results of runs in the folder but for the URIs kept: runs share its ``work``, so the last replaces.

    Only what stands together as a run leaves it is removed: a log, and both reports beside it.
    """
    for name in sorted(_runs_in(folder_uri)):
        for uri in set(result_uris(folder_uri, name).values()) - set(kept):
            io.as_path(uri).unlink(missing_ok=True)


def _runs_in(folder_uri: str) -> Iterator[str]:
    names = {path.name for path in io.as_path(folder_uri).iterdir()}
    for log in (name for name in names if name.endswith(f"_{ENDINGS['json']}")):
        run = log.removesuffix(f"_{ENDINGS['json']}")
        if {f"{run}_{ENDINGS[kind]}" for kind in ("html", "markdown")} <= names:
            yield run
