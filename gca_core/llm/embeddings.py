"""Text embeddings without a model: hashed words and character n-grams.

Good for finding names that are spelled alike ("interferon beta", "IFN-beta"); it knows nothing of meaning.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

DIM = 1536
_SIZES = (3, 4, 5)
_WORD = re.compile(r"\w+")
_GREEK = re.compile(r"GREEK (?:SMALL|CAPITAL) LETTER (\w+)")


class HashedTextEmbeddings:
    """Deterministic embeddings, the same on every machine; the methods are those of langchain-core's.

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
