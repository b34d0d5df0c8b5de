"""The chain of immutable states of a run: ``state-<i>.json`` in its work folder.

Each file holds the state, its index and the hash of the file before it; a reference holds the URI and
the hash of the file itself. So whoever keeps the last reference can tell a change anywhere in the chain.
"""

import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from gca_core import io
from gca_core.errors import StoreError, complaints

Model = TypeVar("Model", bound=BaseModel)
_NAME = re.compile(r"state-(\d+)(?:-answer)?\.json")


class StateRef(BaseModel, frozen=True):
    """A state by place and content; small enough for XCom."""

    uri: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    iteration: int = Field(ge=0)


class _Envelope(BaseModel):
    iteration: int
    previous: str | None
    state: dict[str, Any]


def write_state(
    folder_uri: str,
    iteration: int,
    data: BaseModel,
    *,
    previous: StateRef | None = None,
    rewrite: bool = False,
    answer: bool = False,
) -> StateRef:
    """Write the state of an iteration; writing the same again changes nothing.

    Args:
        folder_uri: work folder of the run.
        iteration: index in the chain.
        data: the state.
        previous: the state it followed from.
        rewrite: remove the states after this index, and replace other content at it. For a run that was
            cut back on purpose.
        answer: a person's answer to the state of this index, which it follows.

    Raises:
        StoreError: other content stands at this index and ``rewrite`` is off, or ``previous`` isn't the
            state before.
    """
    if previous is not None and previous.iteration >= iteration + answer:
        raise StoreError(f"state {iteration} can't follow from state {previous.iteration}; expected an earlier one")
    uri = io.join_uri(folder_uri, f"state-{iteration}{'-answer' if answer else ''}.json")
    envelope = _Envelope(
        iteration=iteration,
        previous=None if previous is None else previous.sha256,
        state=data.model_dump(mode="json"),
    )
    text = _text(envelope)
    reference = StateRef(uri=uri, sha256=io.sha256_bytes(text.encode()), iteration=iteration)
    if rewrite:
        remove_states(folder_uri, iteration + 1)
        if not answer:
            io.as_path(io.join_uri(folder_uri, f"state-{iteration}-answer.json")).unlink(missing_ok=True)
    if io.as_path(uri).exists():
        if io.sha256_file(uri) == reference.sha256:
            return reference
        if not rewrite:
            raise StoreError(
                f"{uri} already holds another state; states are never changed. to recompute from iteration "
                f"{iteration}, cut the run back first"
            )
    io.write_text(uri, text)
    return reference


def read_state(ref: StateRef, model: type[Model]) -> Model:
    """Read a state back.

    Raises:
        StoreError: the file is missing, was changed since, or doesn't hold this model.
    """
    envelope = _read(ref.uri, ref.sha256)
    if envelope.iteration != ref.iteration:
        raise StoreError(f"{ref.uri} holds state {envelope.iteration}, expected {ref.iteration}")
    try:
        return model.model_validate(envelope.state)
    except ValidationError as error:
        raise StoreError(f"{ref.uri} does not hold a {model.__name__}: {complaints(error, at_most=3)}") from None


def remove_states(folder_uri: str, from_iteration: int) -> list[int]:
    """Remove the states at and after an index, last first; returns their indices."""
    folder = io.as_path(folder_uri)
    if not folder.exists():
        return []
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    states = sorted(((int(match[1]), path) for match, path in found if match), key=lambda s: (s[0], s[1].name))
    doomed = [(index, path) for index, path in states if index >= from_iteration]
    for _, path in doomed[::-1]:
        path.unlink(missing_ok=True)
    return sorted({index for index, _ in doomed})


def _text(envelope: _Envelope) -> str:
    data = envelope.model_dump(mode="json")
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=True) + "\n"


def _read(uri: str, sha256: str) -> _Envelope:
    path = io.as_path(uri)
    if not path.exists():
        raise StoreError(f"the state {uri} is gone; run again from the iteration that wrote it")
    content = path.read_bytes()
    if io.sha256_bytes(content) != sha256:
        raise StoreError(
            f"the state {uri} was changed after it was written (its hash is not {sha256[:12]}...); "
            "restore it, or cut the run back to before it"
        )
    return _Envelope.model_validate_json(content)
