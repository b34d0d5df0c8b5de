"""Words of a question, and the phrases among them that name something."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gca_core.haystack.question.word_lists import AMOUNT, HARMLESS, STOP

MAX_PHRASE = 8
_EDGES = "?!.,;:\"'()[]{}\u201c\u201d\u2018\u2019"
_CLAUSE_END = re.compile(r"[,;:.()]$")
_JOINED = re.compile(
    r"-(treated|stimulated|exposed|primed|induced|activated|pulsed|conditioned|matured|polari[sz]ed)\b", re.IGNORECASE
)
_DASHES = re.compile("[\u2010-\u2014\u2212]")
_PLUS = re.compile(r"(?<=\s)\+(?=\s)")
_STOP_EDGES = STOP - {"cell", "cells", "a"}
_QUALIFIERS = 3


@dataclass(frozen=True)
class Match:
    """Words ``start`` to ``stop`` name something; ``guess`` says that they had to be corrected for it."""

    start: int
    stop: int
    name: str
    text: str
    guess: bool = False

    @property
    def places(self) -> range:
        """The places of its words."""
        return range(self.start, self.stop)


@dataclass(frozen=True)
class Words:
    """The words of a question, and after which of them a clause ends."""

    words: tuple[str, ...]
    ends: frozenset[int]

    def clause_of(self, place: int) -> range:
        """The places of the clause that a word is in."""
        start = max((end + 1 for end in self.ends if end < place), default=0)
        stop = min((end + 1 for end in self.ends if end >= place), default=len(self.words))
        return range(start, stop)

    def qualifiers(self, match: Match, taken: set[int]) -> list[str]:
        """Words just before a match, in its clause, that nothing has read; at most three."""
        found: list[str] = []
        for place in range(match.start - 1, self.clause_of(match.start).start - 1, -1):
            word = self.words[place]
            if place in taken or word.casefold() in HARMLESS or len(found) == _QUALIFIERS:
                break
            found.insert(0, word)
        return found


def split_words(text: str) -> Words:
    """Words without punctuation, amounts and the joints of ``IL-4-treated``."""
    hyphens = _DASHES.sub("-", text)
    plain = _PLUS.sub(" with ", _JOINED.sub(r" \1", AMOUNT.sub(" ", hyphens)))
    words: list[str] = []
    ends: set[int] = set()
    for part in plain.split():
        word = part.strip(_EDGES)
        if word:
            words.append(word)
        if words and _CLAUSE_END.search(part):
            ends.add(len(words) - 1)
    return Words(tuple(words), frozenset(ends))


def scan(
    words: Sequence[str],
    lookup: Callable[[str], str | None],
    used: frozenset[int] = frozenset(),
    *,
    guess: bool = False,
) -> list[Match]:
    """Non-overlapping phrases that mean something, longest first, then in order; O(words * phrase length)."""
    matches: list[Match] = []
    taken = set(used)
    for length in range(min(MAX_PHRASE, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            span = range(start, start + length)
            if taken.intersection(span) or {words[start].casefold(), words[span[-1]].casefold()} & _STOP_EDGES:
                continue
            phrase = " ".join(words[start : start + length])
            if (name := lookup(phrase)) is not None:
                matches.append(Match(start, start + length, name, phrase, guess))
                taken.update(span)
    return sorted(matches, key=lambda match: match.start)
