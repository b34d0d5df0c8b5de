"""The seam to a perturbation model: a predictor turns one request into a file of counts."""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from gca_core.errors import ConfigurationError, MissingModelError
from gca_core.inference.models import InferenceRequest

# backend to module:class, imported when asked for
BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "shift": "gca_core.inference.shift:ShiftPredictor",
        "stack": "gca_core.inference.stack.predictor:StackPredictor",
    }
)
MODEL_BACKENDS = frozenset({"stack"})
NEEDS_MODEL = (
    "the backend 'stack' needs a checkpoint and its gene list; name both (checkpoint and gene_list_uri, on the command "
    "line --model and --genelist)"
)


@runtime_checkable
class Predictor(Protocol):
    """A backend.

    ``model`` names what ran, with its version, and goes into every result.
    """

    @property
    def model(self) -> str:
        """Name and version of what ran."""
        ...

    def validate(self, request: InferenceRequest) -> None:
        """Check a request and the files it names before any work.

        Raises:
            DataValidationError: a file is missing or isn't what the backend needs.
            ConfigurationError: the request lacks something the backend needs.
        """
        ...

    def predict(self, request: InferenceRequest) -> dict[str, float]:
        """Write ``request.output_uri`` and return figures about the prediction.

        Raises:
            InferenceError: no prediction could be made.
        """
        ...


def require_backend(name: str, *model: str | None) -> str:
    """``name``, when there is such a backend; its package may be installed elsewhere, where its jobs run.

    Args:
        name: of a backend.
        model: checkpoint and gene list, which a model backend needs; not looked at where they aren't given.

    Raises:
        ConfigurationError: there isn't; says what is there.
        MissingModelError: the checkpoint or the gene list is None.
    """
    if name not in BACKENDS:
        raise ConfigurationError(f"there is no inference backend {name!r}; there are: {', '.join(sorted(BACKENDS))}")
    if name in MODEL_BACKENDS and None in model:
        raise MissingModelError(NEEDS_MODEL)
    return name


def load_predictor(name: str) -> Predictor:
    """The predictor of a backend.

    Raises:
        ConfigurationError: there is no such backend.
    """
    module, _, attribute = BACKENDS[require_backend(name)].partition(":")
    predictor = getattr(importlib.import_module(module), attribute)()
    if not isinstance(predictor, Predictor):
        raise ConfigurationError(f"{BACKENDS[name]} is not a predictor; it needs model, validate and predict")
    return predictor
