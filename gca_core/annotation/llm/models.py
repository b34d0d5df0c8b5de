"""What goes to a model, what has to come back, and what is kept of it."""

import re
import unicodedata
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from gca_core.annotation.models import Confidence
from gca_core.llm.models import Budget, ChatOptions, TokenPrice

CHUNK_SIZE = 20
MAX_LABEL = 200
MAX_TEXT = 600
MAX_LIST = 5
_SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,23}")
# longer symbols all have digits; longer words don't
_MAX_LETTERS = 12
_FORMULA = "=+@-"


def is_symbol(text: str) -> bool:
    """Whether a text can be a gene symbol: letters, digits, ``.-``, 24 characters at most, 12 without digits."""
    return _SYMBOL.fullmatch(text) is not None and (len(text) <= _MAX_LETTERS or any(c.isdigit() for c in text))


def clean_text(value: Any, limit: int = MAX_TEXT) -> Any:
    """A model's text on one line: no control or direction characters, nothing a spreadsheet would run.

    Anything but text is given back as it is, for the schema to refuse.
    """
    if not isinstance(value, str):
        return value
    # characters of category C are controls, formats, surrogates and the like
    plain = "".join(" " if unicodedata.category(char).startswith("C") else char for char in value[: 4 * limit])
    text = " ".join(plain.split()).lstrip(_FORMULA + " ")
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _short_list(value: Any) -> Any:
    if value is None:
        return []
    return value[:MAX_LIST] if isinstance(value, list) else value


def _plain_id(value: Any) -> Any:
    return str(value).strip().lower() if type(value) in {int, str} else value


Label = Annotated[str, BeforeValidator(lambda v: clean_text(v, MAX_LABEL)), Field(min_length=1)]
Text = Annotated[str, BeforeValidator(lambda v: "" if v is None else clean_text(v))]


class _Answer(BaseModel, frozen=True, extra="ignore"):
    """A value that never changes."""


class ProposedAlternative(_Answer):
    """Another label that a model would accept."""

    label: Label
    reason: Text = ""


class ClusterAnswer(_Answer):
    """What a model says about one cluster."""

    label: Label
    ontology_id: Annotated[str | None, BeforeValidator(lambda v: clean_text(v, 40) or None)] = None
    confidence: Annotated[
        Confidence, BeforeValidator(lambda v: v.strip().capitalize() if isinstance(v, str) else v)
    ] = Confidence.LOW
    rationale: Text = ""
    markers: Annotated[tuple[Text, ...], BeforeValidator(_short_list)] = ()
    alternatives: Annotated[tuple[ProposedAlternative, ...], BeforeValidator(_short_list)] = ()
    caveats: Annotated[tuple[Text, ...], BeforeValidator(_short_list)] = ()


class IdentifiedAnswer(ClusterAnswer):
    """A :class:`ClusterAnswer` with the opaque id of its cluster."""

    id: Annotated[str, BeforeValidator(_plain_id), Field(min_length=1, max_length=40)]


class BatchAnswer(_Answer):
    """The answer to one prompt."""

    clusters: tuple[IdentifiedAnswer, ...]


class LlmOptions(BaseModel, frozen=True, extra="forbid"):
    """How the LLM annotator works.

    Attributes:
        chunk_size: clusters per prompt.
        prices: by ``provider:model``; none is built in.
        use_cache: whether answers are read from and written to the cache.
        cache_dir: of the answers; None means ``GCA_CACHE_DIR`` or the user's cache directory.
    """

    chat: ChatOptions = ChatOptions()
    chunk_size: int = Field(default=CHUNK_SIZE, ge=1, le=200)
    budget: Budget = Budget()
    prices: dict[str, TokenPrice] = Field(default_factory=dict)
    use_cache: bool = True
    cache_dir: str | None = None


class ModelOutcome(BaseModel, frozen=True):
    """What one model said about all clusters, in their order.

    Attributes:
        answers: None where there is none.
        failures: why, where there is none.
        cached: how many answers came from the cache.
        batches: prompts that were asked, repair turns and re-asked ones included in their batch.
        notes: what was odd, such as clusters that were invented.
    """

    model: str
    answers: tuple[ClusterAnswer | None, ...]
    failures: tuple[str | None, ...]
    cached: int = 0
    batches: int = 0
    notes: tuple[str, ...] = ()
