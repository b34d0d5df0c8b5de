"""Genetic perturbations in a question: where they stand in it, which gene, and what is done to it.

The names that are found are read by the rules of :mod:`gca_core.knowledge.bundled.genetic`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gca_core.knowledge.bundled.catalogue import PerturbationCatalogue
from gca_core.knowledge.bundled.gene_sets import known_symbols

_MODES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (mode, re.compile(rf"^(?:{pattern})$"))
    for mode, pattern in (
        ("CRISPRi", r"crispri|dcas9-krab"),
        ("CRISPRa", r"crispra|dcas9-vp\d+"),
        (
            "knockout",
            r"knock-?outs?|ko|knocked-?out|knocking-?out|deletion|deleted|deleting|ablation|ablated|null|deficien\w+|"
            r"-?/-?|loss(?:of)?|loss-of-function|lof",
        ),
        (
            "knockdown",
            r"sirnas?|shrnas?|rnai|knock-?downs?|kd|knocked-?down|knocking-?down|silenc\w+|depletion|depleted",
        ),
        ("overexpression", r"over-?express\w*|oe|ectopic|transgen\w*|gain-of-function|gof"),
    )
)
_FILLER_WORDS = """double combined of the against targeting for gene a an by with via using crispr cas9
    crispr-cas9 crispr/cas9"""
_FILLER = frozenset(_FILLER_WORDS.split())
_AND = frozenset({"and", "or", "plus", "&", "with"})
_REACH = 4
_TWO_WORDS = {("knock", "out"), ("knocking", "out"), ("knocked", "out"), ("knock", "down"), ("knocking", "down"),
              ("knocked", "down"), ("over", "expression"), ("loss", "of"), ("gain", "of")}  # fmt: skip
# how certain methods show themselves beside the word for the outcome
_STRONGER = {"knockdown": ("CRISPRi",), "overexpression": ("CRISPRa",)}


@dataclass(frozen=True)
class GeneticPhrase:
    """A gene and what is done to it; ``start`` and ``stop`` bound the words that say so.

    ``gene`` is None where the word that should be one is no known gene symbol.
    """

    mode: str
    gene: str | None
    start: int
    stop: int
    text: str
    word: str

    @property
    def name(self) -> str:
        """The name as the catalogue's rules give it: ``STAT1 knockout``, ``GATA1 CRISPRi``."""
        return f"{self.gene} {self.mode}"


def find_genetic(words: Sequence[str], catalogue: PerturbationCatalogue) -> list[GeneticPhrase]:
    """The genetic perturbations that words name, in order."""
    marks = list(_marks(words))
    found: list[GeneticPhrase] = []
    for mode, start, stop in marks:
        place = _gene_place(words, start, stop, catalogue, marks)
        if place is None:
            continue
        gene = gene_symbol(_bare(words[place]), catalogue)
        first, last = min(place, start), max(place + 1, stop)
        text = " ".join(words[first:last])
        if place >= 2 and words[place - 1].casefold() in _AND and gene_symbol(words[place - 2], catalogue):
            other = gene_symbol(words[place - 2], catalogue)
            found.append(GeneticPhrase(mode, other, place - 2, last, text, words[place - 2]))
        found.append(GeneticPhrase(mode, gene, first, last, text, _bare(words[place])))
    return _merged(found)


def gene_symbol(word: str, catalogue: PerturbationCatalogue) -> str | None:
    """The gene that a word means: a symbol, or a catalogue name such as ``IL-6`` with a symbol among its names."""
    symbols = known_symbols()
    for candidate in (word, word.upper(), word.upper().replace("-", "")):
        if candidate in symbols:
            return candidate
    entry = catalogue.resolve(word)
    names = (entry.name, *entry.synonyms) if entry is not None else ()
    return next((name for name in names if name in symbols), None)


def _marks(words: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """What is done, and the words that say it."""
    lowered = [word.casefold() for word in words]
    i = 0
    while i < len(words):
        pair = tuple(lowered[i : i + 2])
        width = 2 if pair in _TWO_WORDS else 1
        text = "".join(pair) if width == 2 else lowered[i].rpartition("-")[2] if _joined(words[i]) else lowered[i]
        for mode, pattern in _MODES:
            if pattern.match(text):
                yield mode, i, i + width
                break
        i += width


def _joined(word: str) -> bool:
    """Whether a word is a gene and what is done to it in one, as in ``STAT1-deficient``."""
    head, dash, tail = word.rpartition("-")
    return bool(dash and head) and any(p.match(tail.casefold()) for _, p in _MODES)


def _bare(word: str) -> str:
    return word.rpartition("-")[0] if _joined(word) else word


def _gene_place(
    words: Sequence[str],
    start: int,
    stop: int,
    catalogue: PerturbationCatalogue,
    marks: Sequence[tuple[str, int, int]],
) -> int | None:
    """Where the gene stands: in the word itself, just before it, or after it."""
    if _joined(words[start]):
        return start
    taken = {i for _, first, last in marks for i in range(first, last)}
    before = _nearest(words, range(start - 1, max(-1, start - 1 - _REACH), -1), taken)
    after = _nearest(words, range(stop, min(len(words), stop + _REACH)), taken)
    for place in (before, after):
        if place is not None and gene_symbol(words[place], catalogue) is not None:
            return place
    # a word of capitals and digits is meant as a gene, known or not
    return next((p for p in (before, after) if p is not None and re.fullmatch(r"[A-Z][A-Z0-9-]{2,}", words[p])), None)


def _nearest(words: Sequence[str], places: range, taken: set[int]) -> int | None:
    for place in places:
        if place in taken or words[place].casefold() in _FILLER:
            continue
        return place
    return None


def _merged(found: Sequence[GeneticPhrase]) -> list[GeneticPhrase]:
    """One phrase per gene: the method, where it is named beside the outcome."""
    kept: dict[str, GeneticPhrase] = {}
    for phrase in found:
        known = kept.get(phrase.word.casefold())
        if known is None:
            kept[phrase.word.casefold()] = phrase
            continue
        stronger = phrase.mode in _STRONGER.get(known.mode, ())
        start, stop = min(known.start, phrase.start), max(known.stop, phrase.stop)
        mode = phrase.mode if stronger else known.mode
        kept[phrase.word.casefold()] = GeneticPhrase(mode, known.gene, start, stop, known.text, known.word)
    return list(kept.values())
