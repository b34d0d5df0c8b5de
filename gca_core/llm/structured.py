"""Answers as values: JSON out of a model's text, checked against a schema, with one turn to repair it."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gca_core.llm.chat import ChatClient, Messages
from gca_core.llm.failures import InvalidAnswerError

T = TypeVar("T", bound=BaseModel)

MAX_ANSWER_CHARS = 1_000_000
MAX_FAULTS = 8
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def ask(client: ChatClient, messages: Messages, schema: type[T], *, repair_prompt: str) -> T:
    """Ask for a value of ``schema``.

    JSON in the text is read the same way from every provider, so that servers without a JSON mode do as well. An
    answer that doesn't fit goes back once, with what is wrong with it; one that was cut off does not, since the
    second would be as long.

    Args:
        repair_prompt: what to say then; ``{faults}`` in it becomes the list of faults.

    Raises:
        InvalidAnswerError: the answer doesn't fit.
        ProviderError, BudgetError: as :meth:`ChatClient.complete`.
    """
    reply = client.complete(messages)
    try:
        return parse_answer(reply.text, schema)
    except InvalidAnswerError as error:
        if reply.truncated:
            raise InvalidAnswerError(f"the answer was cut off at the output limit; {error}", data=error.data) from None
        repair = repair_prompt.replace("{faults}", str(error))
    second = client.complete([*messages, ("ai", reply.text), ("human", repair)])
    return parse_answer(second.text, schema)


def parse_answer(text: str, schema: type[T]) -> T:
    """The value that a text holds as JSON: alone, in a code fence, or between other words.

    Raises:
        InvalidAnswerError: there is no JSON, or it doesn't fit the schema.
    """
    data = find_json(text)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:MAX_FAULTS]]
        raise InvalidAnswerError("; ".join(faults), data=data) from None


def find_json(text: str) -> Any:
    """The first JSON object or array in a text.

    Raises:
        InvalidAnswerError: there is none.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise InvalidAnswerError(f"the answer has {len(text):,} characters; expected at most {MAX_ANSWER_CHARS:,}")
    fenced = _FENCE.search(text)
    for candidate in (text, fenced[1] if fenced else ""):
        start = min((i for i in (candidate.find("{"), candidate.find("[")) if i >= 0), default=-1)
        if start < 0:
            continue
        try:
            found, _ = json.JSONDecoder().raw_decode(candidate[start:])
        except (json.JSONDecodeError, RecursionError):
            continue
        return found
    raise InvalidAnswerError("the answer holds no valid JSON")
