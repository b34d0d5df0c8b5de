"""Answers as values: JSON out of a model's text, checked against a schema, with one turn to repair it."""

import json
import re
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gca_core.errors import complaints
from gca_core.llm.chat import ChatClient, Messages
from gca_core.llm.failures import InvalidAnswerError

T = TypeVar("T", bound=BaseModel)

MAX_ANSWER_CHARS = 1_000_000
MAX_FAULTS = 8
# brackets at which a value is tried, so that a text full of them ends
MAX_TRIES = 10_000
_THOUGHTS_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_OPENING = re.compile(r"[{\[]")
# strings are matched too, to be left as they are
_TRAILING_COMMA = re.compile(r'("(?:[^"\\\n]|\\.)*")|,(?=\s*[}\]])')
_DECODER = json.JSONDecoder()


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
    """The value that a text holds as JSON; of several that fit, the last.

    It may stand alone, in a code fence, between other words or behind a model's thoughts (``<think>``), whose drafts
    count only where no JSON comes after them.

    Raises:
        InvalidAnswerError: there is no JSON, or none that fits the schema.
    """
    found = find_json(_THOUGHTS_END.split(text)[-1]) or find_json(text)
    for data in reversed(found):
        # a schema whose fields all have defaults would fit any object
        if isinstance(data, dict) and data.keys() & schema.model_fields.keys():
            with suppress(ValidationError):
                return schema.model_validate(data)
    if not found:
        raise InvalidAnswerError("the answer holds no valid JSON")
    data = max(found, key=lambda data: len(json.dumps(data)))
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        faults = complaints(error, at_most=MAX_FAULTS)
    raise InvalidAnswerError(faults, data=data)


def find_json(text: str) -> list[Any]:
    """The JSON objects and arrays in a text, in order, without those inside others; a trailing comma does no harm.

    Raises:
        InvalidAnswerError: the text is too long.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise InvalidAnswerError(f"the answer has {len(text):,} characters; expected at most {MAX_ANSWER_CHARS:,}")
    text = _TRAILING_COMMA.sub(lambda match: match[1] or "", text)
    found, end, tries = [], 0, 0
    while tries < MAX_TRIES and (opening := _OPENING.search(text, end)):
        tries += 1
        try:
            data, end = _DECODER.raw_decode(text, opening.start())
            found.append(data)
        except ValueError:
            # also of a number of thousands of digits
            end = opening.end()
        except RecursionError:
            # a thousand levels that were read in vain
            end, tries = opening.end(), tries + 1000
    return found
