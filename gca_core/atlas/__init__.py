"""The atlas: groups of cells to take prompts from.

``from gca_core.atlas import open_atlas``; the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gca_core.atlas.models import CellGroup as CellGroup
    from gca_core.atlas.models import IngestConfig as IngestConfig
    from gca_core.atlas.models import IngestReport as IngestReport
    from gca_core.atlas.reader import Atlas as Atlas
    from gca_core.atlas.reader import open_atlas as open_atlas

_HOMES = {
    "Atlas": "reader",
    "CellGroup": "models",
    "IngestConfig": "models",
    "IngestReport": "models",
    "open_atlas": "reader",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
