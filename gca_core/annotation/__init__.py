"""Cell types for clusters and cells, from marker genes and the Cell Ontology."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gca_core.annotation.cells import annotate_cells

__all__ = ["annotate_cells"]

_HOMES = {"annotate_cells": "cells"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
