"""Words of a question, and the phrases among them that name something."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gca_core.haystack.question.word_lists import AMOUNT, HARMLESS, STOP
from gca_core.knowledge.bundled.names import plain_signs

MAX_PHRASE = 8
_EDGES = "?!.,;:\"'()[]{}\u201c\u201d\u2018\u2019"
_CLAUSE_END = re.compile(r"[,;:.()]$")
_JOINED = re.compile(
    r"-(treated|stimulated|exposed|primed|induced|activated|pulsed|conditioned|matured|polari[sz]ed)\b", re.IGNORECASE
)
# "TNF / 24 h", "IFNG/control": what stands behind the slash is what it is compared with, or nothing
_SLASH = re.compile(
    r"(?<![-+\w])/|/(?![-+\w])|/(?=(?:control|ctrl|untreated|unstimulated|vehicle|mock|medium)\b)", re.I
)
_FLOXED = re.compile(r"(?<=\w)((?:fl|flox|wt)/(?:fl|flox|wt))(?!\w)", re.IGNORECASE)
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

    def qualifiers(self, match: Match, taken: frozenset[int]) -> list[str]:
        """Words beside a match, in its clause, that nothing has read; at most three on each side."""
        clause = self.clause_of(match.start)
        before, after = range(match.start - 1, clause.start - 1, -1), range(match.stop, clause.stop)
        unread = lambda place: place not in taken and self.words[place].casefold() not in HARMLESS  # noqa: E731
        found = [list(itertools.takewhile(unread, places))[:_QUALIFIERS] for places in (before, after)]
        return [self.words[place] for place in (*found[0][::-1], *found[1])]


def split_words(text: str) -> Words:
    """Words without punctuation, amounts and the joints of ``IL-4-treated``."""
    signs = _FLOXED.sub(r" \1", plain_signs(text))
    plain = _SLASH.sub(" ", _PLUS.sub(" with ", _JOINED.sub(r" \1", AMOUNT.sub(" ", signs))))
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
