"""Checkpoints: weights without any code in them, and a JSON registry that names them.

A checkpoint is a folder with ``registry.json`` and ``weights-<hash>.pt``. The registry is written last
and holds the SHA-256 of the weights, so that a reader sees the old pair or the new one.
"""

import io
import pickle
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from gca_core import __version__
from gca_core.errors import ConfigurationError, DataValidationError, complaints
from gca_core.io import as_path, as_uri, join_uri, read_json, require_file, safe_name, sha256_bytes, staged, write_json
from gca_core.latent.data.adapter import Registry
from gca_core.latent.model.network import Architecture

REGISTRY = "registry.json"
FORMAT = "gca-latent-1"


class Checkpoint(BaseModel, extra="forbid", frozen=True):
    """Content of ``registry.json``."""

    format: Literal["gca-latent-1"]
    written_by: str
    torch: str
    weights: str
    weights_sha256: str
    architecture: Architecture
    registry: Registry


def save_checkpoint(uri: str, state: Mapping[str, Tensor], architecture: Architecture, registry: Registry) -> str:
    """Write a checkpoint to the folder ``uri`` and return its URI; weights no longer named are removed.

    Raises:
        ConfigurationError: the folder can't be written to, or its disk is full; a checkpoint that was there is
            as it was.
    """
    try:
        return _save(uri, state, architecture, registry)
    except OSError as error:
        raise ConfigurationError(
            f"the checkpoint can't be written to {uri!r}: {error.strerror or error}; free some space or name another "
            "folder. A checkpoint that was there before is as it was"
        ) from None


def _save(uri: str, state: Mapping[str, Tensor], architecture: Architecture, registry: Registry) -> str:
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, buffer)
    digest = sha256_bytes(buffer.getvalue())
    name = f"weights-{digest[:12]}.pt"
    with staged(join_uri(uri, name)) as target:
        target.write_bytes(buffer.getvalue())
    checkpoint = Checkpoint(
        format=FORMAT,
        written_by=f"airflow-provider-gca {__version__}",
        torch=str(torch.__version__),
        weights=name,
        weights_sha256=digest,
        architecture=architecture,
        registry=registry,
    )
    write_json(join_uri(uri, REGISTRY), checkpoint)
    for old in as_path(uri).glob("weights-*.pt"):
        if old.name != name:
            old.unlink()
    return as_uri(uri)


def load_checkpoint(uri: str) -> tuple[dict[str, Tensor], Architecture, Registry]:
    """Read weights, architecture and registry from the folder ``uri``; nothing in it is executed.

    Raises:
        DataValidationError: a file is missing, damaged or of another format.
    """
    try:
        checkpoint = Checkpoint.model_validate(read_json(join_uri(uri, REGISTRY), what="checkpoint's registry"))
    except ValidationError as error:
        raise DataValidationError(
            f"{uri!r} holds no checkpoint of format {FORMAT}; {REGISTRY}: {complaints(error, at_most=5)}"
        ) from None
    if safe_name(checkpoint.weights) != checkpoint.weights:
        raise DataValidationError(f"{REGISTRY} in {uri!r} names weights {checkpoint.weights!r}, which is no file name")
    data = require_file(join_uri(uri, checkpoint.weights), what="checkpoint's weights").read_bytes()
    if sha256_bytes(data) != checkpoint.weights_sha256:
        raise DataValidationError(
            f"the weights {checkpoint.weights} in {uri!r} are damaged or cut short ({len(data)} bytes, the checksum "
            "in registry.json does not match); copy the folder again or train anew"
        )
    try:
        state = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataValidationError(f"the weights in {uri!r} can't be read: {error}") from None
    return state, checkpoint.architecture, checkpoint.registry
