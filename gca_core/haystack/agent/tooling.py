"""How methods become langchain-core tools: typed and bounded arguments, JSON values, faults as values."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from gca_core.config import require
from gca_core.errors import GcaError, complaints

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

MAX_RESULTS = 50
MAX_TEXT = 300

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Limit = Annotated[int, Field(ge=1, le=MAX_RESULTS, description="results at most")]
Value = dict[str, Any]


def as_tools(box: object, names: Sequence[str]) -> list[BaseTool]:
    """Methods of an object as tools; a method's name is the tool's, its docstring what a model reads of it."""
    make = require("langchain_core.tools", "haystack").StructuredTool.from_function
    return [
        make(
            func=_guarded(getattr(box, name)),
            name=name,
            description=" ".join((getattr(type(box), name).__doc__ or "").split()),
            handle_validation_error=_invalid,
        )
        for name in names
    ]


def listed(name: str, rows: Sequence[Any], limit: int) -> Value:
    """The first rows, and how many there are."""
    return {name: list(rows[:limit]), "total": len(rows), "truncated": len(rows) > limit}


def cut(text: str, length: int = MAX_TEXT) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= length else f"{text[:length]}..."


def _guarded(method: Callable[..., Value]) -> Callable[..., Value]:
    """The method, with expected failures as values."""

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Value:
        try:
            return method(*args, **kwargs)
        except GcaError as error:
            return {"error": cut(str(error), 600), "suggestions": list(getattr(error, "suggestions", ()))[:10]}

    return run


def _invalid(error: ValidationError) -> str:
    return json.dumps({"error": f"the arguments don't fit: {complaints(error, at_most=5)}", "suggestions": []})
