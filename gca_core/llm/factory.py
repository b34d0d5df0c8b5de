"""Chat models by name, through langchain's packages, each imported only when it is used."""

import importlib.util
import os
from typing import Any, Protocol

from pydantic import SecretStr

from gca_core.config import load_settings, require
from gca_core.errors import ConfigurationError
from gca_core.llm.models import ChatOptions, LlmConfig

# package, extra, own address, variables with the key
_HOMES: dict[str, tuple[str, str, str | None, tuple[str, ...]]] = {
    "openai": ("langchain_openai", "openai", "https://api.openai.com/v1", ("OPENAI_API_KEY",)),
    "openai-compatible": ("langchain_openai", "openai", None, ()),
    "anthropic": ("langchain_anthropic", "anthropic", "https://api.anthropic.com", ("ANTHROPIC_API_KEY",)),
    "google": (
        "langchain_google_genai",
        "gemini",
        "https://generativelanguage.googleapis.com",
        ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    ),
}
# local servers want some key and look at none
_NO_KEY = "none"


class ChatModel(Protocol):
    """The part of langchain-core's ``BaseChatModel`` that is used."""

    def invoke(self, input: Any, /) -> Any:  # noqa: A002
        """An ``AIMessage`` for role and text pairs."""
        ...


def find_key(config: LlmConfig) -> SecretStr:
    """The key for a model that was named.

    The provider's own variable is read only for the provider's own address, so that a key never goes to another
    one; for a given address it is the key given with it, or ``GCA_LLM_API_KEY``.

    Raises:
        ConfigurationError: there is none, and the provider needs one.
    """
    if config.api_key is not None:
        return config.api_key
    if config.base_url is not None:
        shared = load_settings().llm_api_key
        if shared is not None:
            return shared
        if config.provider == "openai-compatible":
            return SecretStr(_NO_KEY)
        raise ConfigurationError(f"{config.identity} needs a key; set GCA_LLM_API_KEY or use a gca_llm connection")
    variables = _HOMES[config.provider][3]
    for variable in variables:
        if os.environ.get(variable):
            return SecretStr(os.environ[variable])
    raise ConfigurationError(f"{config.name} needs a key; set {' or '.join(variables)} or use a gca_llm connection")


def api_address(config: LlmConfig) -> str | None:
    """Where a model is called: the given address, else the provider's own, whatever variables of others say."""
    return config.base_url or _HOMES[config.provider][2]


def check_ready(config: LlmConfig) -> None:
    """Check, without importing or calling anything, that the model can be made.

    Raises:
        ConfigurationError: its package is not installed, or there is no key.
    """
    module, extra, _, _ = _HOMES[config.provider]
    if importlib.util.find_spec(module) is None:
        require(module, extra)
    find_key(config)


def make_chat_model(config: LlmConfig, options: ChatOptions) -> ChatModel:
    """A chat model that makes one try per call: retries and the budget are the client's matter.

    Address and key are always handed over, so that no variable of another tool redirects the call.

    Raises:
        ConfigurationError: as :func:`check_ready`.
    """
    module, extra, _, _ = _HOMES[config.provider]
    package = require(module, extra)
    arguments: dict[str, Any] = {
        "model": config.model,
        "base_url": api_address(config),
        "api_key": find_key(config),
        "temperature": options.temperature,
        "timeout": options.timeout_s,
        "max_retries": 0,
        "cache": False,
    }
    if config.provider == "anthropic":
        made = package.ChatAnthropic(**arguments, max_tokens=options.max_output_tokens)
    elif config.provider == "google":
        # of max_retries, one means a single try here
        arguments |= {"max_retries": 1, "vertexai": False}
        made = package.ChatGoogleGenerativeAI(**arguments, max_tokens=options.max_output_tokens)
    elif config.provider == "openai-compatible":
        # the base class sends max_tokens, which other servers understand
        base = require("langchain_openai.chat_models.base", extra)
        made = base.BaseChatOpenAI(**arguments, max_tokens=options.max_output_tokens, use_responses_api=False)
    else:
        made = package.ChatOpenAI(**arguments, max_completion_tokens=options.max_output_tokens)
    chat_model: ChatModel = made
    return chat_model
