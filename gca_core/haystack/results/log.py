"""The log of a run: a canonical part that the same question, atlas, configuration and seed give to the byte, and what
belongs to one run alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from gca_core import io

# of one run alone: who it is, where its files lie, how long it took, and messages that may name these
PARTICULAR = frozenset(
    {
        "run_id", "results_uri", "prediction_uri", "query_uri", "state_uri", "h5ad_uri", "html_uri", "markdown_uri",
        "json_uri", "duration_seconds", "cached", "error", "literature_answers", "literature_cached",
    }
)  # fmt: skip


def make_log(**parts: BaseModel | str | list[Any] | None) -> dict[str, Any]:
    """The parts of a run as JSON data.

    Returns:
        ``canonical``: all that follows from question, atlas, configuration and seed, wherever and under whatever id
        they run. ``canonical_sha256``: its hash. ``particular``: the rest, by its path in ``canonical``.
    """
    whole = {
        name: part.model_dump(mode="json") if isinstance(part, BaseModel) else part for name, part in parts.items()
    }
    particular: dict[str, Any] = {}
    canonical = _split(whole, "", particular)
    return {"canonical": canonical, "canonical_sha256": io.content_hash(canonical), "particular": particular}


def _split(value: Any, path: str, particular: dict[str, Any]) -> Any:
    if isinstance(value, Mapping):
        kept = {}
        for key, part in value.items():
            place = f"{path}/{key}"
            if key in PARTICULAR:
                particular[place] = part
            else:
                kept[key] = _split(part, place, particular)
        return kept
    if isinstance(value, list | tuple):
        return [_split(part, f"{path}/{i}", particular) for i, part in enumerate(value)]
    return value
