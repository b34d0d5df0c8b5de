"""What goes wrong between here and a provider, and whether trying again can help."""

import re
from collections.abc import Iterator
from typing import Any

from gca_core.errors import LLMError
from gca_core.http import parse_retry_after

_RETRYABLE = {408, 409, 425, 429, 500, 502, 503, 504, 529}
# exceptions of the providers' clients, by name so that none has to be imported
_TIMEOUTS = {"APITimeoutError", "TimeoutException", "TimeoutError"}
_BROKEN = {"APIConnectionError", "TransportError", "ConnectionError", "RemoteProtocolError"}
_NOT_SENT = {"ConnectError", "ConnectTimeout", "ConnectionRefusedError", "gaierror"}
_NO_CREDIT = re.compile(r"insufficient_quota|billing|credit balance", re.IGNORECASE)
_MAX_TEXT = 300


class ProviderError(LLMError):
    """A call failed.

    Attributes:
        retryable: whether the same call may succeed later.
        retry_after_s: how long the provider asks to wait.
        may_be_billed: the request was sent and its outcome is unknown.
        status: of the HTTP answer, where there was one.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool,
        retry_after_s: float | None = None,
        may_be_billed: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.may_be_billed = may_be_billed
        self.status = status


class BudgetError(LLMError):
    """The next call could exceed the budget, so it was not made."""


class InvalidAnswerError(LLMError):
    """An answer did not fit the schema, also after the repair turn.

    Attributes:
        data: the last answer as JSON data, for whoever can use parts of it; None where it was no JSON.
    """

    def __init__(self, message: str, *, data: Any = None) -> None:
        super().__init__(message)
        self.data = data


def describe_failure(error: BaseException, *, name: str, secret: str | None = None) -> ProviderError:
    """A :class:`ProviderError` from whatever a provider's client raised; ``secret`` is blotted out."""
    chain = list(_chain(error))
    kinds = {cls.__name__ for each in chain for cls in type(each).__mro__}
    text = _short(str(error) or type(error).__name__, secret)
    status = next((code for each in chain if (code := _status(each)) is not None), None)
    if status is not None:
        no_credit = status == 429 and _NO_CREDIT.search(text) is not None
        return ProviderError(
            f"{name} answered with HTTP {status}: {text}{_advice(status)}",
            retryable=status in _RETRYABLE and not no_credit,
            retry_after_s=next((wait for each in chain if (wait := _retry_after(each)) is not None), None),
            status=status,
        )
    sent = not kinds & _NOT_SENT
    if kinds & _TIMEOUTS:
        return ProviderError(f"{name} did not answer in time: {text}", retryable=True, may_be_billed=sent)
    if kinds & _BROKEN:
        return ProviderError(f"the connection to {name} failed: {text}", retryable=True, may_be_billed=sent)
    # what the clients raise over an answer that is none
    unreadable = isinstance(error, (ValueError, TypeError, AttributeError, KeyError))
    what = "gave an answer that can't be read" if unreadable else "could not be asked"
    return ProviderError(f"{name} {what}: {text}", retryable=unreadable, may_be_billed=True)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _status(error: BaseException) -> int | None:
    for value in (getattr(error, "status_code", None), getattr(error, "code", None)):
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return None


def _retry_after(error: BaseException) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None)
    return None if headers is None else parse_retry_after(dict(headers))


def _advice(status: int) -> str:
    if status in {401, 403}:
        return ". check the API key and what it may use"
    if status == 404:
        return ". check the model's name and the base URL"
    return ""


def _short(text: str, secret: str | None) -> str:
    if secret:
        text = text.replace(secret, "***")
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."
