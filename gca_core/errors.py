"""The error tree of ``gca_core``.

Every message says what was found, what was expected and what to do. Callers that want to treat all
expected failures alike catch :class:`GcaError`; anything else that escapes is a defect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class GcaError(Exception):
    """Root of all expected failures."""


class ConfigurationError(GcaError):
    """A setting, option or installed extra is missing or wrong."""


class DataValidationError(GcaError):
    """Input data is not what the step needs; nothing was written."""


class MarkerDatabaseError(GcaError):
    """The marker database can't be read, or is inconsistent."""


class LLMError(GcaError):
    """A language model could not be reached, or its answer stayed invalid after repair."""


class StoreError(GcaError):
    """PostgreSQL can't be reached, started or migrated."""


class HaystackError(GcaError):
    """Root of the failures of a HAYSTACK run."""


class QueryParsingError(HaystackError):
    """A question names no, several, or unknown cell types or perturbations.

    ``reason`` is a word for the kind of fault, such as ``unknown_perturbation``; ``suggestions`` what may be meant.
    """

    def __init__(self, message: str, *, suggestions: tuple[str, ...] = (), reason: str = "") -> None:
        super().__init__(message)
        self.suggestions = suggestions
        self.reason = reason


class RunCancelledError(HaystackError):
    """Somebody cancelled the run that this process works on."""


class CellRetrievalError(HaystackError):
    """The atlas holds no cells that fit."""


class InferenceError(HaystackError):
    """An inference job failed, was cancelled, or left no prediction."""


class MissingModelError(ConfigurationError):
    """A model's package, checkpoint or gene list is missing, or isn't one."""


class MemoryExhaustedError(InferenceError):
    """A prediction doesn't fit into the memory of this machine or its GPU."""


class BatchError(GcaError):
    """A Batch job failed, or Google Batch could not be reached; another try may help."""


class EvaluationError(HaystackError):
    """A prediction can't be scored."""


class ExternalAPIError(HaystackError):
    """A public service failed after its retries."""


_OF_RANGE = {"literal_error", "greater_than", "greater_than_equal", "less_than", "less_than_equal"}


def complaints(
    error: ValidationError,
    *,
    name: Callable[[str], str] = str,
    without: Collection[str] = (),
    at_most: int | None = None,
) -> str:
    """What pydantic refused, for users: ``field: what is wrong`` of each field, in one line.

    Values are named where they are numbers out of range or none of the choices, and can be no secrets.

    Args:
        name: what users call a field.
        without: fields that are passed over.
        at_most: fields that are named.
    """
    found = []
    for item in error.errors(include_url=False):
        if item["loc"] and str(item["loc"][0]) in without:
            continue
        place = ".".join(map(str, item["loc"]))
        words = item["msg"].removeprefix("Value error, ")
        if item["type"] in _OF_RANGE:
            words += f"; found {item['input']!r}"
        found.append(f"{name(place)}: {words}" if place else words)
    return "; ".join(found[:at_most])
