"""Genetic perturbations in a question: where they stand in it, which gene, and what is done to it.

The names that are found are read by the rules of :mod:`gca_core.knowledge.bundled.genetic`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gca_core.knowledge.bundled.catalogue import PerturbationCatalogue
from gca_core.knowledge.bundled.gene_sets import known_symbols
from gca_core.knowledge.bundled.genetic import kind_of, parse_genetic

_FILLER_WORDS = """double combined of the against targeting for gene a an by with via using crispr cas9
    crispr-cas9 crispr/cas9 background"""
_FILLER = frozenset(_FILLER_WORDS.split())
_AND = frozenset({"and", "or", "plus", "&", "with"})
_REACH = 4
_PHRASE = 4
# nothing was done to a wild type, and what was done to a floxed gene isn't said
_KO = re.compile(r"^([A-Z][A-Z0-9]+)(KO|KD|OE)$")
_GLUED = re.compile(r"(?:sg|g|si|sh|oe)-?[A-Z]|[A-Z][A-Z0-9]+(?:KO|KD|OE)$")
_NO_CHANGE = re.compile(r"\+/\+|(?:fl|flox|wt)/(?:fl|flox|wt)", re.IGNORECASE)
_METHOD_ALONE = re.compile(r"crispr(?:[-/]?cas9)?", re.IGNORECASE)
# how certain methods show themselves beside the word for the outcome
_STRONGER = {"knockdown": ("CRISPRi",), "overexpression": ("CRISPRa",)}


@dataclass(frozen=True)
class GeneticPhrase:
    """A gene and what is done to it; ``start`` and ``stop`` bound the words that say so.

    ``gene`` is None where the word that should be one is no known gene symbol; ``mode`` is empty for a genotype that
    says of no change.
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
    if any(not _METHOD_ALONE.fullmatch(words[start]) for _, start, _ in marks):
        marks = [mark for mark in marks if not _METHOD_ALONE.fullmatch(words[mark[1]]) or mark[2] - mark[1] > 1]
    found: list[GeneticPhrase] = []
    for i, word in enumerate(words):
        # a gene and what is done to it in one word, as in siTNF and TNFKO
        glued = parse_genetic(_KO.sub(r"\1 \2", word)) if _GLUED.match(word) and kind_of(word) is None else None
        if glued is not None:
            found.append(GeneticPhrase(glued[1].name, glued[0], i, i + 1, word, glued[0]))
    joined = {phrase.start for phrase in found}
    marks = [mark for mark in marks if mark[1] not in joined]
    for mode, start, stop in marks:
        place = _gene_place(words, start, stop, catalogue, marks)
        if place is None:
            continue
        gene = gene_symbol(_bare(words[place]), catalogue) if mode else None
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
    if entry is None:
        return None
    coding = entry.ligands if len(entry.ligands) == 1 else ()
    return next((name for name in (*coding, entry.name, *entry.synonyms) if name in symbols), None)


def _marks(words: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """What is done, and the words that say it; the longest phrase first."""
    i = 0
    while i < len(words):
        for width in range(min(_PHRASE, len(words) - i), 0, -1):
            text = " ".join(words[i : i + width])
            kind = kind_of(text.rpartition("-")[2] if width == 1 and _joined(text) else text)
            if kind is not None or _NO_CHANGE.fullmatch(text):
                yield kind.name if kind else "", i, i + width
                i += width
                break
        else:
            i += 1


def _joined(word: str) -> bool:
    """Whether a word is a gene and what is done to it in one, as in ``STAT1-deficient``."""
    head, dash, tail = word.rpartition("-")
    return bool(dash and head) and kind_of(word) is None and kind_of(tail) is not None


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
