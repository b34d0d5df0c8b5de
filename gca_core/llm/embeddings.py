"""Text embeddings behind langchain-core's ``Embeddings``: hashed words without a model, or a provider's.

The hashed ones are good for finding names that are spelled alike ("interferon beta", "IFN-beta") and know nothing
of meaning. Every embedding has a name that is stored beside its vectors, so that two are never mixed, and a
similarity from which two names count as alike: it differs from model to model and is measured, not guessed.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from gca_core.config import Settings, load_settings, require
from gca_core.errors import ConfigurationError, LLMError
from gca_core.llm.factory import api_address, find_key
from gca_core.llm.failures import describe_failure
from gca_core.llm.models import LlmConfig, parse_model

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings as _Base
else:
    try:
        from langchain_core.embeddings import Embeddings as _Base
    except ImportError:
        _Base = object

DIM = 1536
BATCH = 256
TIMEOUT_S, RETRIES = 60.0, 3
# measured on the names of the catalogue by benchmarks/bench_embeddings.py
THRESHOLDS: Mapping[str, float] = MappingProxyType({"hashed-text-1536": 0.32})
_SIZES = (3, 4, 5)
_WORD = re.compile(r"\w+")
_GREEK = re.compile(r"GREEK (?:SMALL|CAPITAL) LETTER (\w+)")


class TextEmbeddings(Protocol):
    """What the atlas and its search need of embeddings: langchain-core's methods, and a name."""

    @property
    def model(self) -> str:
        """The name that is stored beside the vectors."""
        ...

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        ...

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text."""
        ...


class HashedTextEmbeddings(_Base):
    """Deterministic embeddings, the same on every machine.

    Features are words and their character 3- to 5-grams with word boundaries, each hashed to one place
    and a sign (Weinberger et al., 2009), weighted by 1 + log(count); vectors have length 1.

    Args:
        dim: numbers per vector.
    """

    def __init__(self, dim: int = DIM) -> None:
        if dim < 1:
            raise ValueError(f"dim is {dim}; expected at least 1")
        self.dim = dim

    @property
    def model(self) -> str:
        """The name that is stored beside the vectors."""
        return f"hashed-text-{self.dim}"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        return [self._embed(text).tolist() for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text."""
        return self.embed_documents([text])[0]

    def _embed(self, text: str) -> npt.NDArray[np.float64]:
        vector = np.zeros(self.dim)
        # in a fixed order, so that sums are the same to the last bit
        for feature, count in sorted(Counter(_features(text)).items()):
            digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "big")
            sign = 1.0 if digest & 1 else -1.0
            vector[(digest >> 1) % self.dim] += sign * (1.0 + np.log(count))
        norm = float(np.linalg.norm(vector))
        if norm == 0.0:
            vector[0] = norm = 1.0
        return vector / norm


class ProviderEmbeddings(_Base):
    """Embeddings of OpenAI, or of a server that speaks its language; texts leave the machine for its address.

    Args:
        config: provider ``openai`` or ``openai-compatible``, named explicitly by somebody.
        dim: numbers per vector that are asked for.

    Raises:
        ConfigurationError: another provider, no key, or the package is missing.
    """

    def __init__(self, config: LlmConfig, dim: int = DIM) -> None:
        if config.provider not in {"openai", "openai-compatible"}:
            raise ConfigurationError(
                f"{config.name} makes no embeddings here; use openai:text-embedding-3-large, or openai-compatible:MODEL"
                "@http://host/v1"
            )
        self.dim = dim
        self._config = config
        self._key = find_key(config)
        self._client: Any = require("langchain_openai", "openai").OpenAIEmbeddings(
            model=config.model,
            dimensions=dim,
            base_url=api_address(config),
            api_key=self._key,
            chunk_size=BATCH,
            max_retries=RETRIES,
            timeout=TIMEOUT_S,
            # texts go as they are, so that no tokeniser's file has to be fetched
            check_embedding_ctx_length=False,
        )

    @property
    def model(self) -> str:
        """The name that is stored beside the vectors."""
        return f"{self._config.model}-{self.dim}"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text, of length 1.

        Raises:
            LLMError: the provider failed after its retries, or sent other than one vector of ``dim`` numbers each.
        """
        return [v for start in range(0, len(texts), BATCH) for v in self._ask(texts[start : start + BATCH])]

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text."""
        return self.embed_documents([text])[0]

    def _ask(self, texts: list[str]) -> list[list[float]]:
        try:
            vectors = np.asarray(self._client.embed_documents(texts), dtype=np.float64)
        except Exception as error:
            secret = self._key.get_secret_value()
            raise describe_failure(error, name=self._config.name, secret=secret) from None
        norms = np.linalg.norm(vectors, axis=-1, keepdims=True) if vectors.ndim == 2 else np.zeros(1)
        if vectors.shape != (len(texts), self.dim) or not np.isfinite(vectors).all() or (norms == 0).any():
            raise LLMError(
                f"{self._config.name} sent vectors of shape {vectors.shape} for {len(texts)} texts; expected "
                f"{self.dim} numbers each: choose a model that makes so many"
            )
        return [list(map(float, vector)) for vector in vectors / norms]


def open_embeddings(settings: Settings | None = None) -> TextEmbeddings:
    """The embeddings of the settings: those of ``GCA_EMBEDDINGS``, else the hashed ones.

    Raises:
        ConfigurationError: the model that is named can't be used.
    """
    settings = settings or load_settings()
    if settings.embeddings is None:
        return HashedTextEmbeddings()
    return ProviderEmbeddings(parse_model(settings.embeddings))


def similarity_threshold(model: str) -> float | None:
    """The cosine similarity from which two names count as alike under a model; None where it wasn't measured."""
    return THRESHOLDS.get(model)


def _features(text: str) -> Iterator[str]:
    for word in _WORD.findall(_plain(text)):
        yield f"word:{word}"
        padded = f"<{word}>"
        for size in _SIZES:
            for start in range(len(padded) - size + 1):
                yield f"gram:{padded[start : start + size]}"


def _plain(text: str) -> str:
    """Lower case, without accents, Greek letters by name."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(_spelled(char) for char in decomposed if not unicodedata.combining(char)).casefold()


def _spelled(char: str) -> str:
    match = _GREEK.fullmatch(unicodedata.name(char, ""))
    return match[1] if match else char
