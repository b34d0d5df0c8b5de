"""Which chat model is called, how, and within which bounds."""

from __future__ import annotations

from typing import Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr

from gca_core.errors import ConfigurationError

Provider = Literal["openai", "anthropic", "google", "openai-compatible"]
PROVIDERS: tuple[str, ...] = get_args(Provider)


class _Value(BaseModel, frozen=True, extra="forbid"):
    """A value that never changes."""


class LlmConfig(_Value):
    """A model and how to reach it; the key shows neither in ``repr`` nor in JSON.

    Attributes:
        base_url: None means the provider's own address.
        api_key: None means the provider's variable, see :func:`gca_core.llm.factory.find_key`.
    """

    provider: Provider
    model: str = Field(min_length=1)
    base_url: str | None = None
    api_key: SecretStr | None = None

    @property
    def name(self) -> str:
        """``provider:model``, as results record it."""
        return f"{self.provider}:{self.model}"

    @property
    def identity(self) -> str:
        """The name with the address where one is given; never the key."""
        return f"{self.name}@{self.base_url}" if self.base_url else self.name


class ChatOptions(_Value):
    """How a model is called.

    Attributes:
        temperature: None leaves it to the provider, for models that accept no other.
        max_output_tokens: per call.
        timeout_s: silence of the provider after which a call counts as failed.
        max_retries: further tries of a call that failed for a passing reason.
        max_wait_s: longest pause between tries; a provider that asks for more is not asked again.
        max_concurrency: calls under way at a time.
    """

    temperature: float | None = Field(default=0.2, ge=0.0, le=2.0)
    max_output_tokens: int = Field(default=4096, ge=16)
    timeout_s: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=3, ge=0, le=20)
    max_wait_s: float = Field(default=60.0, gt=0)
    max_concurrency: int = Field(default=4, ge=1, le=64)


class TokenPrice(_Value):
    """What a model's tokens cost, as the user states it; none is built in."""

    input_per_million: float = Field(ge=0, allow_inf_nan=False)
    output_per_million: float = Field(ge=0, allow_inf_nan=False)
    currency: str = Field(default="USD", min_length=1)

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """In ``currency``."""
        return (input_tokens * self.input_per_million + output_tokens * self.output_per_million) / 1e6


class Budget(_Value):
    """Hard limits over all calls: none starts whose worst case would exceed them."""

    max_tokens: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0)


class Usage(_Value):
    """What was spent.

    Attributes:
        calls: requests that were sent, retries included.
        estimated_tokens: part of the tokens that no provider reported: upper bounds for answers without a
            count, and for calls that broke off after they were sent.
        cost: in ``currency``; None without prices.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    estimated_tokens: int = 0
    cost: float | None = None
    currency: str | None = None

    def since(self, before: Usage) -> Usage:
        """What was spent after ``before``."""
        return Usage(
            calls=self.calls - before.calls,
            input_tokens=self.input_tokens - before.input_tokens,
            output_tokens=self.output_tokens - before.output_tokens,
            estimated_tokens=self.estimated_tokens - before.estimated_tokens,
            cost=None if self.cost is None else round(self.cost - (before.cost or 0.0), 10),
            currency=self.currency,
        )


def parse_model(text: str, *, api_key: SecretStr | None = None) -> LlmConfig:
    """The model that ``provider:model`` names, or ``provider:model@http://host/v1`` with an address.

    Raises:
        ConfigurationError: not of this form, an unknown provider, or an address that is none.
    """
    address, base_url = text.strip(), None
    for scheme in ("@http://", "@https://"):
        head, found, rest = address.partition(scheme)
        if found:
            address, base_url = head, scheme[1:] + rest
    provider, _, model = address.partition(":")
    return checked_config(provider.strip(), model.strip(), base_url=base_url, api_key=api_key)


def parse_price(text: str) -> tuple[str, TokenPrice]:
    """Model and price out of ``provider:model=INPUT,OUTPUT``, per million tokens, or ``...,CURRENCY``.

    Raises:
        ConfigurationError: not of this form.
    """
    model, _, amounts = text.rpartition("=")
    parts = [part.strip() for part in amounts.split(",")]
    try:
        if not model.strip() or len(parts) not in {2, 3}:
            raise ValueError
        currency = {"currency": parts[2]} if len(parts) == 3 else {}
        price = TokenPrice(input_per_million=float(parts[0]), output_per_million=float(parts[1]), **currency)
    except ValueError:
        raise ConfigurationError(
            f"the price {text!r} does not fit; expected provider:model=INPUT,OUTPUT per million tokens"
        ) from None
    return model.strip(), price


def checked_config(
    provider: str, model: str, *, base_url: str | None = None, api_key: SecretStr | None = None
) -> LlmConfig:
    """A :class:`LlmConfig` from parts that users typed.

    Raises:
        ConfigurationError: an unknown provider, no model, or an address that is missing or none.
    """
    if provider not in PROVIDERS:
        raise ConfigurationError(
            f"the provider {provider!r} is not known; use one of {', '.join(PROVIDERS)}, as in provider:model"
        )
    if not model:
        raise ConfigurationError("no model is named; fill in the model, for instance the provider's small one")
    if provider == "openai-compatible" and not base_url:
        raise ConfigurationError(
            "openai-compatible needs the base URL of the endpoint, as in openai-compatible:model@http://host:8000/v1"
        )
    if base_url is not None:
        _check_url(base_url)
    return LlmConfig(provider=provider, model=model, base_url=base_url, api_key=api_key)


def _check_url(base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        host, secret = parts.hostname, parts.username or parts.password or parts.query
        _ = parts.port
    except ValueError:
        host, secret, parts = None, None, urlsplit("")
    if secret:
        raise ConfigurationError(
            "the base URL holds a user name, password or query, and it is written into results; give the key apart"
        )
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError(f"the base URL {base_url!r} is none; expected something like http://host:8000/v1")
