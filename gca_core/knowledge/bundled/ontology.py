"""The Cell Ontology: labels, names as the field writes them, and how terms relate.

The terms are those of the bundled release (CC BY 4.0, Diehl AD et al., J Biomed Semantics 2016;7:44); the
names the field uses for them, such as "CD14+ monocytes" or "Treg", are a curated list of this project.
"""

import csv
import functools
import gzip
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.files import reading

_IDENTIFIER = re.compile(r"CL[:_](\d{7})", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_PLUS = re.compile(r"(?<=[^\W_])\+")
_MINUS = re.compile(r"(?<=\d)[-\u2212](?=$|[\s/,)_])")
_MIN_SIMILARITY = 0.3


class CellOntology:
    """An immutable Cell Ontology.

    Args:
        version: of the release.
        terms: id to (label, synonyms, {ancestor id: shortest distance}).
        replaced: obsolete id to the id that replaces it.
        aliases: names of the field, as pairs of name and id; they win over synonyms.

    Raises:
        DataValidationError: an alias names an unknown id.
    """

    def __init__(
        self,
        version: str,
        terms: Mapping[str, tuple[str, list[str], dict[str, int]]],
        replaced: Mapping[str, str] | None = None,
        aliases: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.version = version
        self._labels = {identifier: term[0] for identifier, term in terms.items()}
        self._ancestors: dict[str, Mapping[str, int]] = {i: MappingProxyType(term[2]) for i, term in terms.items()}
        self._replaced = dict(replaced or {})
        pairs = list(aliases)
        for name, identifier in pairs:
            if identifier not in self._labels:
                raise DataValidationError(f"the alias {name!r} names the unknown term {identifier!r}")
        # pairs of name and id by source, in the order in which they are asked
        labels = [(label, identifier) for identifier, label in self._labels.items()]
        self._sources = (pairs, labels, [(name, identifier) for identifier, term in terms.items() for name in term[1]])

    # indices are made when they are asked for: most work knows terms by their ids

    @functools.cached_property
    def _exact(self) -> dict[str, str]:
        return unique_index(self._sources[1], plain_key)

    @functools.cached_property
    def _indices(self) -> list[dict[str, str]]:
        words = {name: _tokens(name) for source in self._sources for name, _ in source}
        keys = ({name: key(found) for name, found in words.items()} for key in (" ".join, _loose))
        return [unique_index(source, by_name.__getitem__) for by_name in keys for source in self._sources]

    @functools.cached_property
    def _synonyms(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, set[str]] = {identifier: set() for identifier in self._labels}
        for name, identifier in (*self._sources[2], *self._sources[0]):
            found[identifier].add(name)
        return {identifier: tuple(sorted(names)) for identifier, names in found.items()}

    @functools.cached_property
    def _descendants(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {identifier: {identifier} for identifier in self._labels}
        for identifier, ancestors in self._ancestors.items():
            for ancestor in ancestors:
                found.setdefault(ancestor, {ancestor}).add(identifier)
        return found

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, identifier: str) -> str:
        """The label of a term."""
        return self._labels[self._known(identifier)]

    def synonyms(self, identifier: str) -> tuple[str, ...]:
        """The synonyms of a term and the names that the field uses for it, in alphabetical order."""
        return self._synonyms[self._known(identifier)]

    def resolve(self, text: str) -> str | None:
        """The id that a text means, or None.

        Tried in this order: an id (an obsolete one gives its replacement); a label, letter by letter but for
        case; then, with case, punctuation, plurals and "+" normalised, the names of the field, labels and
        synonyms; last the same without the word "cell" and in any word order. A name that means several terms
        of one of these sources means none there.
        """
        identifier = _IDENTIFIER.fullmatch(text.strip())
        if identifier is not None:
            term = f"CL:{identifier[1]}"
            return term if term in self._labels else self._replaced.get(term)
        exact = self._exact.get(plain_key(text))
        if exact is not None:
            return exact
        keys = (name_key(text), loose_key(text))
        for position, index in enumerate(self._indices):
            found = index.get(keys[position // 3])
            if found is not None:
                return found
        return None

    def suggest(self, text: str, n: int = 3) -> list[str]:
        """Labels of the ``n`` terms whose names look most like ``text``; O(number of names)."""
        wanted = _trigrams(text)
        scores: dict[str, float] = {}
        for name, identifier in itertools.chain.from_iterable(self._sources):
            other = _trigrams_cached(name)
            score = 2 * len(wanted & other) / (len(wanted) + len(other))
            scores[identifier] = max(score, scores.get(identifier, 0.0))
        best = sorted(scores, key=lambda i: (-scores[i], i))[:n]
        return [self._labels[i] for i in best if scores[i] >= _MIN_SIMILARITY]

    def ancestors(self, identifier: str) -> Mapping[str, int]:
        """All ancestors of a term with their shortest distance; the term itself is not among them."""
        return self._ancestors[self._known(identifier)]

    def lineage(self, identifier: str) -> tuple[str, ...]:
        """Ids from the root of the ontology to the term, one step each.

        Where a term has several parents the most specific one is followed, then the smaller id.
        """
        path = [self._known(identifier)]
        while parents := [i for i, distance in self._ancestors[path[-1]].items() if distance == 1]:
            path.append(max(sorted(parents), key=lambda i: len(self._ancestors[i])))
        return tuple(reversed(path))

    def descendants(self, identifier: str) -> frozenset[str]:
        """All terms below a term, and the term itself."""
        return frozenset(self._descendants[self._known(identifier)])

    def is_a(self, child: str, parent: str) -> bool:
        """Whether ``child`` is ``parent`` or lies below it."""
        return self._known(child) == self._known(parent) or parent in self._ancestors[child]

    def distance(self, a: str, b: str) -> int | None:
        """Length of the shortest path from ``a`` to ``b`` through a common ancestor; None if there is none."""
        up_a, up_b = self._upwards(a), self._upwards(b)
        return min((up_a[i] + up_b[i] for i in up_a.keys() & up_b.keys()), default=None)

    def common_parent(self, identifiers: Iterable[str]) -> str:
        """The most specific term that all of ``identifiers`` are, or lie below.

        Where several qualify, the one nearest to them all is taken, then the smaller id.

        Raises:
            DataValidationError: no ids, an unknown one, or nothing in common.
        """
        paths = [self._upwards(identifier) for identifier in identifiers]
        if not paths:
            raise DataValidationError("no terms given; a common parent needs at least one")
        shared = set.intersection(*(set(path) for path in paths))
        lowest = {i for i in shared if not any(i in self._ancestors[other] for other in shared)}
        if not lowest:
            raise DataValidationError("the terms have no common ancestor")
        return min(lowest, key=lambda i: (sum(path[i] for path in paths), i))

    def _upwards(self, identifier: str) -> dict[str, int]:
        return {self._known(identifier): 0} | dict(self._ancestors[identifier])

    def _known(self, identifier: str) -> str:
        if identifier not in self._labels:
            raise DataValidationError(f"{identifier!r} is no term in use of the Cell Ontology {self.version}")
        return identifier


@functools.cache
def load_ontology() -> CellOntology:
    """The bundled Cell Ontology, read once per process."""
    with reading("cell_ontology.json.gz", "cell_ontology_aliases.tsv") as (packed, table):
        data: dict[str, Any] = json.loads(gzip.decompress(packed.read_bytes()))
        lines = table.read_text(encoding="utf-8").splitlines()
        aliases = [(row["alias"], row["ontology_id"]) for row in csv.DictReader(lines, delimiter="\t")]
        return CellOntology(data["version"], data["terms"], data["replaced"], aliases)


def unique_index(pairs: Iterable[tuple[str, str]], key: Any) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for name, identifier in pairs:
        found.setdefault(key(name), set()).add(identifier)
    return {name: next(iter(ids)) for name, ids in found.items() if name and len(ids) == 1}


def plain_key(text: str) -> str:
    return " ".join(text.casefold().split())


def name_key(text: str) -> str:
    return " ".join(_tokens(text))


def loose_key(text: str) -> str:
    return _loose(_tokens(text))


def _loose(words: list[str]) -> str:
    return " ".join(sorted(w for w in words if w != "cell") or words)


def _tokens(text: str) -> list[str]:
    """Lower-case words; "+" after a word reads "positive", "-" after a digit at a word's end "negative"."""
    folded = (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()
    # most of the 40,000 names that are read have no sign
    if "+" in folded:
        folded = _PLUS.sub(" positive ", folded)
    if "-" in folded or "\u2212" in folded:
        folded = _MINUS.sub(" negative ", folded)
    return [_singular(word) for word in _WORD.findall(folded)]


def _singular(word: str) -> str:
    if word[-1] != "s" or len(word) < 3 or word.endswith(("ss", "us", "is")):
        return word
    return word[:-1]


def _trigrams(text: str) -> frozenset[str]:
    padded = f"  {name_key(text)} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


_trigrams_cached = functools.lru_cache(maxsize=20_000)(_trigrams)
