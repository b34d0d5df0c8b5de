"""Reading a question by rules: which cell type, which perturbation.

The longest phrase that names something wins, perturbations first, so that "stem cell factor" is no
stem cell and "interferon beta" no beta cell. Nothing is matched fuzzily: what isn't known exactly is
refused with suggestions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gca_core.errors import QueryParsingError
from gca_core.grounding.models import Expectation
from gca_core.haystack.models import StructuredQuery
from gca_core.knowledge.catalogue import PerturbationCatalogue, PerturbationEntry, PerturbationType, normalise_name
from gca_core.knowledge.ontology import CellOntology

MAX_QUESTION = 1000
MAX_PHRASE = 8
_EDGES = "?!.,;:\"'()[]{}\u201c\u201d\u2018\u2019"
_SPECIES = re.compile(
    r"\b(mouse|mice|murine|mus musculus|rats?|zebrafish|drosophila|macaques?|porcine|pigs?|bovine|canine|dogs?|"
    r"rabbits?|yeast)\b",
    re.IGNORECASE,
)
# one word that the ontology takes for a cell, but a question doesn't
_ALONE_WORDS = (
    "alpha beta gamma delta epsilon cell cells blood stem b t be plasma epithelial progenitor culture cultured"
)
_NOT_ALONE = frozenset(_ALONE_WORDS.split())
_BLOCKING_AFTER = re.compile(
    r"^(inhibitors?|inhibition|blockade|blockers?|blocking|antagonists?|antagonism|neutrali[sz]\w*|antibod\w+|"
    r"receptors?|knockout|knockdown|deficien\w+|depletion|ko|withdrawal|removal)$"
)
_BLOCKING_BEFORE = re.compile(r"^(anti|blocking|inhibiting|neutrali[sz]ing|without|lacking)$")
_STOP_WORDS = """a an the of in to by with under upon after on for from and or is are be how what which would do does
    did will can could should happens happen if when we my me you give given show tell predict respond responds
    response responses react reacts reaction change changes look looks like treated treat treatment stimulated
    stimulate stimulation exposed exposure effect effects human gene genes expression cell cells their its it this
    that"""
_STOP = frozenset(_STOP_WORDS.split())
_JOINED = re.compile(r"-(treated|stimulated|exposed|primed|induced|activated)\b", re.IGNORECASE)
_CELL_WORD = re.compile(r"^\w*(cells?|cytes?|blasts?|phages?|clasts?|phils?)$", re.IGNORECASE)
_CUES = frozenset({"to", "with", "by", "under", "upon", "after"})


@dataclass(frozen=True)
class _Match:
    start: int
    stop: int
    name: str
    text: str


def parse_question(
    question: str,
    *,
    ontology: CellOntology,
    catalogue: PerturbationCatalogue,
    extra_perturbations: Callable[[], Iterable[str]] = tuple,
    dataset: str | None = None,
) -> StructuredQuery:
    """Read a question such as "How would CD14+ monocytes respond to interferon beta?".

    Args:
        question: one human cell type and one perturbation, in any order.
        ontology: where cell types are looked up.
        catalogue: where perturbations are looked up first.
        extra_perturbations: called for further names, such as those of the atlas, when the catalogue has none.
        dataset: restricts the run to a dataset of the atlas.

    Raises:
        QueryParsingError: the question is empty, names no, an unknown, or several cell types or perturbations,
            asks to block one, or concerns another species; ``suggestions`` holds what may be meant.
    """
    text = " ".join(question.split())
    if not text:
        raise QueryParsingError(
            "the question is empty; ask like: How would CD14+ monocytes respond to interferon beta?"
        )
    if len(text) > MAX_QUESTION:
        raise QueryParsingError(f"the question has {len(text)} characters; at most {MAX_QUESTION} are read")
    if species := _SPECIES.search(text):
        raise QueryParsingError(f"the question is about {species.group(0)!r}; only human cells can be asked about")
    words = _words(text)
    found, name, entry = _find_perturbation(words, catalogue, extra_perturbations)
    cell = _find_cell_type(words, found, ontology)
    if found is None or name is None:
        raise _no_perturbation(words, cell, catalogue)
    if cell is None:
        raise _no_cell_type(words, found, ontology)
    return StructuredQuery(
        question=text,
        cell_type_id=cell.name,
        cell_type=ontology.label(cell.name),
        cell_type_text=cell.text,
        perturbation=name,
        perturbation_text=found.text,
        perturbation_type=entry.type if entry else PerturbationType.OTHER,
        family=entry.family if entry else "",
        expectation=expectation_of(entry),
        dataset=dataset,
        in_catalogue=entry is not None,
        notes=() if entry else (f"{name!r} is known to the atlas alone: nothing is expected of it",),
    )


def expectation_of(entry: PerturbationEntry | None) -> Expectation:
    """What the catalogue expects of an entry."""
    if entry is None:
        return Expectation()
    return Expectation(
        targets=entry.targets, response=entry.response, pathways=entry.pathways, footprints=entry.footprints
    )


def _words(text: str) -> list[str]:
    split = _JOINED.sub(r" \1", text)
    return [word for word in (part.strip(_EDGES) for part in split.split()) if word]


def _find_perturbation(
    words: Sequence[str], catalogue: PerturbationCatalogue, extra: Callable[[], Iterable[str]]
) -> tuple[_Match | None, str | None, PerturbationEntry | None]:
    matches = _scan(words, lambda phrase: catalogue.keys.get(normalise_name(phrase)))
    if not matches:
        others = {normalise_name(name): name for name in extra()}
        matches = _scan(words, lambda phrase: others.get(normalise_name(phrase)))
    names = list(dict.fromkeys(match.name for match in matches))
    if len(names) > 1:
        raise QueryParsingError(
            f"the question names {len(names)} perturbations ({', '.join(names)}); ask about one at a time",
            suggestions=tuple(names),
        )
    if not matches:
        return None, None, None
    _refuse_blocking(words, matches[0], catalogue)
    return matches[0], names[0], catalogue.get(names[0])


def _find_cell_type(words: Sequence[str], taken: _Match | None, ontology: CellOntology) -> _Match | None:
    def resolve(phrase: str) -> str | None:
        if phrase.casefold() in _NOT_ALONE:
            return None
        identifier = ontology.resolve(phrase)
        return None if identifier == "CL:0000000" else identifier

    used = frozenset(range(taken.start, taken.stop)) if taken else frozenset()
    matches = _scan(words, resolve, used)
    specific = [m for m in matches if not any(o.name != m.name and ontology.is_a(o.name, m.name) for o in matches)]
    identifiers = list(dict.fromkeys(match.name for match in specific))
    if len(identifiers) > 1:
        labels = tuple(ontology.label(identifier) for identifier in identifiers)
        raise QueryParsingError(
            f"the question names {len(labels)} cell types ({'; '.join(labels)}); ask about one at a time",
            suggestions=labels,
        )
    return specific[0] if specific else None


def _scan(
    words: Sequence[str], lookup: Callable[[str], str | None], used: frozenset[int] = frozenset()
) -> list[_Match]:
    """Non-overlapping phrases that mean something, longest first, then in order; O(words * phrase length)."""
    matches: list[_Match] = []
    taken = set(used)
    for length in range(min(MAX_PHRASE, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            span = range(start, start + length)
            if taken.intersection(span) or {words[start].casefold(), words[span[-1]].casefold()} & _STOP_EDGES:
                continue
            phrase = " ".join(words[start : start + length])
            if (name := lookup(phrase)) is not None:
                matches.append(_Match(start, start + length, name, phrase))
                taken.update(span)
    return sorted(matches, key=lambda match: match.start)


_STOP_EDGES = _STOP - {"cell", "cells", "a"}


def _refuse_blocking(words: Sequence[str], match: _Match, catalogue: PerturbationCatalogue) -> None:
    before = re.split(r"[-\s]", words[match.start - 1].casefold())[-1] if match.start else ""
    after = words[match.stop].casefold() if match.stop < len(words) else ""
    joined = match.text.casefold().startswith("anti-")
    if _BLOCKING_BEFORE.match(before) or _BLOCKING_AFTER.match(after) or joined:
        inhibitors = tuple(
            entry.name
            for entry in catalogue.entries.values()
            if entry.type is PerturbationType.DRUG and _blocks(entry, catalogue.get(match.name))
        )
        raise QueryParsingError(
            f"the question seems to ask for blocking or lacking {match.name!r}, not for {match.name!r} itself; "
            "name the blocking agent",
            suggestions=inhibitors[:3],
        )


def _blocks(entry: PerturbationEntry, other: PerturbationEntry | None) -> bool:
    switched_on = {t.gene for t in other.targets if t.direction == "up"} if other else set()
    return any(t.gene in switched_on and t.direction == "down" for t in entry.targets)


def _no_perturbation(words: Sequence[str], cell: _Match | None, catalogue: PerturbationCatalogue) -> QueryParsingError:
    rest = _left_over(words, cell)
    after_cue = _after_cue(rest)
    phrase = " ".join(after_cue or [word for word in (w for _, w in rest) if word.casefold() not in _STOP])
    key = normalise_name(phrase)
    family = [e.name for e in catalogue.entries.values() if key and normalise_name(e.family) in key]
    suggestions = tuple(family[:5] or _prefixed(key, catalogue) or catalogue.suggest(phrase))
    if not phrase:
        return QueryParsingError(
            "the question names no perturbation; ask like: How would CD14+ monocytes respond to interferon beta?"
        )
    hint = f"; did you mean {', '.join(suggestions)}?" if suggestions else "; name a cytokine, growth factor or drug"
    return QueryParsingError(f"the perturbation {phrase!r} is not known{hint}", suggestions=suggestions)


def _prefixed(key: str, catalogue: PerturbationCatalogue) -> list[str]:
    """Entries whose own name begins with what was asked, such as all interferons."""
    return [name for name in catalogue.entries if len(key) > 3 and normalise_name(name).startswith(key)][:5]


def _no_cell_type(words: Sequence[str], taken: _Match, ontology: CellOntology) -> QueryParsingError:
    rest = [word for _, word in _left_over(words, taken) if word.casefold() not in _STOP - {"cell", "cells"}]
    named = [word for word in rest if word.casefold() not in {"cell", "cells"}]
    if not named:
        return QueryParsingError(
            "the question names no cell type; ask like: How would CD14+ monocytes respond to interferon beta?"
        )
    last = max((i for i, word in enumerate(rest) if _CELL_WORD.match(word)), default=len(rest) - 1)
    phrase = " ".join(rest[: last + 1])
    suggestions = tuple(ontology.suggest(phrase))
    hint = f"; did you mean {', '.join(suggestions)}?" if suggestions else ""
    return QueryParsingError(
        f"the cell type {phrase!r} is not known to the Cell Ontology{hint}", suggestions=suggestions
    )


def _left_over(words: Sequence[str], match: _Match | None) -> list[tuple[int, str]]:
    return [(i, w) for i, w in enumerate(words) if match is None or not match.start <= i < match.stop]


def _after_cue(rest: Sequence[tuple[int, str]]) -> list[str]:
    """The words after the last "to", "with", "by", ... that are no filler."""
    places = [i for i, (_, word) in enumerate(rest) if word.casefold() in _CUES]
    if not places:
        return []
    return [word for _, word in rest[places[-1] + 1 :] if word.casefold() not in _STOP]
