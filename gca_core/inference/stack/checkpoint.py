"""Checkpoints of arc-stack: looked at and loaded with weights only, so that a file can't run code."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gca_core.config import require
from gca_core.errors import GcaError, MissingModelError

MODEL_CLASS = "ICL_FinetunedModel"
# a checkpoint that was only pretrained lacks them, and can't generate
FINETUNED = ("model.query_pos_embedding", "model.cls.0.weight")
_FORCE, _UNFORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def require_stack(module: str) -> Any:
    """A module of arc-stack.

    Raises:
        MissingModelError: it isn't installed.
    """
    try:
        return require(module, "stack")
    except GcaError as error:
        raise MissingModelError(f"the backend 'stack' can't run here: {error}") from None


def load_model(path: Path, n_genes: int, name: str) -> Any:
    """The model of a checkpoint in evaluation mode, on the GPU where there is one.

    Args:
        path: a local ``.ckpt``.
        n_genes: length of the gene list that goes with it.
        name: what to call it in messages.

    Raises:
        MissingModelError: arc-stack is missing, or the file is no fine-tuned checkpoint with weights only.
    """
    torch, loading = require_stack("torch"), require_stack("stack.model_loading")
    if path.suffix != ".ckpt":
        raise MissingModelError(
            f"the checkpoint {name!r} is no .ckpt; other forms hold a pickled model and aren't read"
        )
    with _weights_only():
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:
            words = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MissingModelError(
                f"the checkpoint {name!r} is refused, it can't be read with weights only: {words}"
            ) from None
        config = _config(found, name)
        lacking = [key for key in FINETUNED if key not in found["state_dict"]]
        if lacking:
            raise MissingModelError(
                f"the checkpoint {name!r} lacks {', '.join(lacking)}: it was pretrained and not fine-tuned, and only "
                "fine-tuned ones (such as Stack-Large-Aligned) can generate"
            )
        if config["n_genes"] != n_genes:
            raise MissingModelError(
                f"the checkpoint {name!r} knows {config['n_genes']} genes and the gene list holds {n_genes}; name the "
                "list that came with it"
            )
        del found
        return loading.load_model_from_checkpoint(str(path), model_class=MODEL_CLASS)


def _config(found: Any, name: str) -> dict[str, Any]:
    parameters = found.get("hyper_parameters", {}) if isinstance(found, dict) else {}
    config = parameters.get("model_config") if hasattr(parameters, "get") else None
    if not isinstance(config, dict) or "n_genes" not in config or not isinstance(found.get("state_dict"), dict):
        raise MissingModelError(
            f"the checkpoint {name!r} has no hyper_parameters.model_config and state_dict, as arc-stack writes them"
        )
    return config


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make arc-stack's own call of ``torch.load``, which names no mode, one with weights only, in any torch."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _UNFORCE)}
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        del os.environ[_FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})
