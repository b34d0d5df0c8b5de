"""Reading a question by rules: which cell type, which perturbation.

The longest phrase that names something wins, perturbations first, so that "stem cell factor" is no
stem cell and "interferon beta" no beta cell. A word of seven letters or more with one letter wrong is corrected, and
the query says so; anything less certain is refused with suggestions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from gca_core.config import require
from gca_core.errors import QueryParsingError
from gca_core.grounding.models import Expectation
from gca_core.haystack.models import StructuredQuery
from gca_core.haystack.question.genetic import GeneticPhrase, find_genetic
from gca_core.haystack.question.word_lists import (
    CELL_LINES,
    CELL_NAMES,
    MIXTURES,
    NOT_ALONE,
    SPECIES,
    STOP,
    cell_variants,
    singular,
)
from gca_core.haystack.question.words import Match, Words, scan, split_words
from gca_core.knowledge.bundled.catalogue import (
    PerturbationCatalogue,
    PerturbationEntry,
    PerturbationType,
    normalise_name,
)
from gca_core.knowledge.bundled.genetic import genetic
from gca_core.knowledge.bundled.ontology import CellOntology
from gca_core.knowledge.bundled.tissues import resolve_tissue, tissue_label

MAX_QUESTION = 1000
LONG_ENOUGH = 7
MOST_SUGGESTED = 20
EXAMPLE = "ask like: How would CD14+ monocytes respond to interferon beta?"
_BLOCKING_AFTER = re.compile(
    r"^(inhibitors?|inhibition|blockade|blockers?|blocking|antagonists?|antagonism|neutrali[sz]\w*|antibod\w+|"
    r"receptors?|deficien\w+|depletion|withdrawal|withdrawn|withheld|removal|removed|deprivation)$"
)
_BLOCKING_BEFORE = re.compile(r"^(anti|blocking|block|inhibiting|inhibit|neutrali[sz]ing|without|lacking|minus)$")
_LEADING = frozenset({"in", "within", "inside", "from", "among", "during"})
_TYPE = re.compile(r"type ([123])\b", re.IGNORECASE)
_CUES = frozenset({"to", "with", "by", "under", "upon", "after"})
_CELL_WORD = re.compile(r"^\w*(cells?|cytes?|blasts?|phages?|clasts?|phils?)$", re.IGNORECASE)
_NUMBERS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
            "nine": "9", "ten": "10", "twelve": "12", "thirteen": "13", "fifteen": "15"}  # fmt: skip
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"tumour", re.IGNORECASE), "tumor"),
    (re.compile(r"^(?:recombinant|human|rh|rhu)[- ]?(?=\w{2})", re.IGNORECASE), ""),
    (re.compile(r"^([^\W\d_]+|[\u03b1-\u03c9])[- ]interferon$", re.IGNORECASE), r"interferon \1"),
    (re.compile(r"^(interleukin|IL)[- ](" + "|".join(_NUMBERS) + r")\b", re.IGNORECASE), ""),
)


@dataclass(frozen=True)
class _Perturbation:
    """What the question asks to be done to the cells, and the words that say so."""

    match: Match
    entry: PerturbationEntry | None


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
            asks to block one, or concerns another species; ``reason`` says which, ``suggestions`` what may be meant.
    """
    text = check_question(question)
    words = split_words(text)
    found = _find_perturbation(words, catalogue, extra_perturbations)
    used = frozenset(found.match.places) if found else frozenset()
    tissues = scan(words.words, _tissue_phrase, used)
    cell, notes = _find_cell_type(words, used, tissues, ontology)
    if found is None:
        raise _no_perturbation(words, cell, catalogue)
    if cell is None:
        raise _no_cell_type(words, found.match, ontology)
    name = found.match.name
    if found.match.guess:
        notes.append(f"{found.match.text!r} was read as {name!r}")
    if siblings := _siblings(found, catalogue):
        notes.append(f"{found.match.text!r} was read as {name!r}; it may also mean {', '.join(siblings)}")
    return make_query(
        text, cell.name, cell.text, name, found.match.text, found.entry, ontology=ontology, dataset=dataset,
        ambiguities=notes, tissues=_named_tissues(tissues, cell),
    )  # fmt: skip


def make_query(
    text: str,
    cell_type_id: str,
    cell_text: str,
    name: str,
    perturbation_text: str,
    entry: PerturbationEntry | None,
    *,
    ontology: CellOntology,
    dataset: str | None = None,
    ambiguities: Iterable[str] = (),
    tissues: Mapping[str, str] = MappingProxyType({}),
    reader: str = "rules",
) -> StructuredQuery:
    """A query from what was found; ``entry`` is None for what only the atlas knows."""
    return StructuredQuery(
        question=text,
        cell_type_id=cell_type_id,
        cell_type=ontology.label(cell_type_id),
        cell_type_text=cell_text,
        perturbation=name,
        perturbation_text=perturbation_text,
        perturbation_type=entry.type if entry else PerturbationType.OTHER,
        family=entry.family if entry else "",
        expectation=expectation_of(entry),
        dataset=dataset,
        in_catalogue=entry is not None,
        tissues=dict(tissues),
        ambiguities=tuple(ambiguities),
        reader=reader,
        notes=() if entry else (f"{name!r} is known to the atlas alone: nothing is expected of it",),
    )


def check_question(question: str) -> str:
    """The question in one line.

    Raises:
        QueryParsingError: it is empty, too long, or about another species.
    """
    text = " ".join(question.split())
    if not text:
        raise QueryParsingError(f"the question is empty; {EXAMPLE}", reason="empty")
    if len(text) > MAX_QUESTION:
        raise QueryParsingError(
            f"the question has {len(text)} characters; at most {MAX_QUESTION} are read", reason="too_long"
        )
    if species := SPECIES.search(text):
        raise QueryParsingError(
            f"the question is about {species.group(0)!r}; only human cells can be asked about: name a human cell type",
            reason="species",
        )
    return text


def expectation_of(entry: PerturbationEntry | None) -> Expectation:
    """What the catalogue expects of an entry."""
    if entry is None:
        return Expectation()
    return Expectation(
        targets=entry.targets, response=entry.response, pathways=entry.pathways, footprints=entry.footprints
    )


def resolve_cell_phrase(phrase: str, ontology: CellOntology) -> str | None:
    """The Cell Ontology id that a phrase means, or None; "cell" itself means none."""
    if len(phrase) < 2 or phrase.casefold() in NOT_ALONE:
        return None
    for variant in cell_variants(phrase):
        if variant.casefold() in NOT_ALONE:
            continue
        named = CELL_NAMES.get(variant.casefold())
        identifier = named if named is not None and named in ontology else ontology.resolve(variant)
        if identifier not in {None, "CL:0000000"} and not _is_tissue(variant, ontology.label(identifier)):
            return identifier
    return None


def _is_tissue(phrase: str, label: str) -> bool:
    """Whether a phrase names a tissue, and the ontology took it for the cell that is named after it."""
    return label.casefold() == f"{phrase.casefold()} cell" and resolve_tissue(phrase) is not None


def resolve_perturbation_phrase(phrase: str, catalogue: PerturbationCatalogue) -> str | None:
    """The catalogue's name for a phrase, or None."""
    for variant in _perturbation_variants(phrase):
        if (name := catalogue.keys.get(normalise_name(variant))) is not None:
            return name
    return None


def _perturbation_variants(phrase: str) -> list[str]:
    rewritten = phrase
    for pattern, new in _REWRITES[:-1]:
        rewritten = pattern.sub(new, rewritten)
    spelled = _REWRITES[-1][0].sub(lambda m: f"{m[1]} {_NUMBERS[m[2].casefold()]}", phrase)
    return list(dict.fromkeys((phrase, rewritten, spelled)))


def _find_perturbation(
    words: Words, catalogue: PerturbationCatalogue, extra: Callable[[], Iterable[str]]
) -> _Perturbation | None:
    genetic = find_genetic(words.words, catalogue)
    used = frozenset(place for phrase in genetic for place in range(phrase.start, phrase.stop))
    lookup = partial(resolve_perturbation_phrase, catalogue=catalogue)
    matches = scan(words.words, lookup, used)
    if genetic:
        return _genetic(genetic, matches, catalogue)
    if not matches:
        others = {normalise_name(name): name for name in extra()}
        matches = scan(words.words, lambda phrase: others.get(normalise_name(phrase)))
    matches = matches or _corrected(words, catalogue)
    names = list(dict.fromkeys(match.name for match in matches))
    if len(names) > 1:
        raise _several_perturbations(names)
    if not matches:
        return None
    _refuse_blocking(words.words, matches[0], catalogue)
    return _Perturbation(matches[0], catalogue.get(names[0]))


def _genetic(
    phrases: Sequence[GeneticPhrase], matches: Sequence[Match], catalogue: PerturbationCatalogue
) -> _Perturbation:
    unknown = next((p for p in phrases if p.gene is None), None)
    if unknown is not None:
        raise QueryParsingError(
            f"{unknown.word!r} is no gene symbol of the bundled gene sets; write it as in STAT1 knockout",
            reason="unknown_gene",
        )
    own = {normalise_name(p.word) for p in phrases}
    # the gene may also stand elsewhere in the question, under its protein's name
    others = [m.name for m in matches if not own & {normalise_name(n) for n in _names(catalogue.get(m.name))}]
    names = list(dict.fromkeys([*(p.name for p in phrases), *others]))
    if len(names) > 1:
        raise _several_perturbations(names)
    phrase = phrases[0]
    return _Perturbation(Match(phrase.start, phrase.stop, phrase.name, phrase.text), genetic(phrase.name, catalogue))


def _names(entry: PerturbationEntry | None) -> tuple[str, ...]:
    return (entry.name, *entry.synonyms) if entry else ()


def _siblings(found: _Perturbation, catalogue: PerturbationCatalogue) -> list[str]:
    """What else the question's word for the perturbation may mean, as IL-1 alpha for "IL-1"."""
    ambiguity = catalogue.ambiguities.get(normalise_name(found.match.text))
    return [name for name in ambiguity.meanings if name != found.match.name] if ambiguity else []


def _several_perturbations(names: Sequence[str]) -> QueryParsingError:
    return QueryParsingError(
        f"the question names {len(names)} perturbations ({', '.join(names)}); ask about one at a time",
        suggestions=tuple(names),
        reason="several_perturbations",
    )


def _corrected(words: Words, catalogue: PerturbationCatalogue) -> list[Match]:
    """Long single words with one letter wrong, where that makes one name."""
    distance = require("rapidfuzz.distance.OSA", "haystack").distance
    keys = [key for key in catalogue.keys if len(key) >= LONG_ENOUGH and key.isalpha()]

    def lookup(phrase: str) -> str | None:
        key = normalise_name(phrase)
        if " " in phrase or len(key) < LONG_ENOUGH or not key.isalpha():
            return None
        near = {catalogue.keys[k] for k in keys if k[0] == key[0] and distance(k, key, score_cutoff=1) <= 1}
        return near.pop() if len(near) == 1 else None

    return scan(words.words, lookup, guess=True)


def _named_tissues(tissues: Sequence[Match], cell: Match) -> dict[str, str]:
    """UBERON id and label of the tissues that are named beside the cell type."""
    return {m.name: tissue_label(m.name) for m in tissues if not set(m.places) & set(cell.places)}


def _tissue_phrase(phrase: str) -> str | None:
    if phrase.casefold() in STOP or any(_CELL_WORD.match(word) for word in phrase.split()):
        return None
    return resolve_tissue(phrase)


def _find_cell_type(
    words: Words, used: frozenset[int], tissues: Sequence[Match], ontology: CellOntology
) -> tuple[Match | None, list[str]]:
    """The one cell type, and what about it is uncertain."""
    matches = scan(words.words, partial(resolve_cell_phrase, ontology=ontology), used)
    matches = matches or _corrected_cells(words, used, ontology)
    context = [m for m in matches if _is_context(m, matches, words)]
    rest = [m for m in matches if m not in context]
    specific = [m for m in rest if not any(o.name != m.name and ontology.is_a(o.name, m.name) for o in rest)]
    identifiers = list(dict.fromkeys(match.name for match in specific))
    if len(identifiers) > 1:
        labels = tuple(ontology.label(identifier) for identifier in identifiers)
        raise QueryParsingError(
            f"the question names {len(labels)} cell types ({'; '.join(labels)}); ask about one at a time",
            suggestions=labels,
            reason="several_cell_types",
        )
    if not specific:
        return None, []
    every = set(used).union(*(match.places for match in (*matches, *tissues)))
    return specific[0], _uncertain(words, specific[0], context, every, ontology)


def _uncertain(
    words: Words, match: Match, context: Sequence[Match], taken: set[int], ontology: CellOntology
) -> list[str]:
    label = ontology.label(match.name)
    notes = [f"{c.text!r} was read as where the cells are from" for c in context]
    if match.guess:
        notes.append(f"{match.text!r} was read as {label!r}")
    if unread := words.qualifiers(match, taken):
        notes.append(f"{' '.join(unread)!r} before {match.text!r} was not understood; it was read as {label!r}")
    return notes


def _is_context(match: Match, matches: Sequence[Match], words: Words) -> bool:
    """Whether a type only says where the cells are.

    That is a mixture beside another type, a type just before another, as in "bone marrow mesenchymal stem cells",
    or one in a clause that begins with "In ...".
    """
    others = [m for m in matches if m.name != match.name]
    joined = match.stop - 1 not in words.ends and not match.text.endswith("s")
    if joined and any(m.start == match.stop for m in others):
        return True
    if match.name in MIXTURES:
        return any(m.name not in MIXTURES for m in others)
    clause = words.clause_of(match.start)
    leading = clause.start == 0 and words.words[0].casefold() in _LEADING and clause.stop < len(words.words)
    return leading and any(m.start >= clause.stop for m in others)


def _corrected_cells(words: Words, used: frozenset[int], ontology: CellOntology) -> list[Match]:
    distance = require("rapidfuzz.distance.OSA", "haystack").distance

    def lookup(phrase: str) -> str | None:
        word = next(cell_variants(phrase), "").casefold()
        if len(word) < LONG_ENOUGH or not word.isalpha() or word in STOP:
            return None
        near = {n for n in ontology.suggest(word) if n[0].casefold() == word[0] and distance(n.casefold(), word) <= 1}
        return ontology.resolve(near.pop()) if len(near) == 1 else None

    return scan(words.words, lookup, used, guess=True)


def refuse_changed_subject(text: str, name: str, catalogue: PerturbationCatalogue) -> None:
    """Refuse a reading as ``name`` where the question asks for blocking it.

    Raises:
        QueryParsingError: it does.
    """
    words = split_words(text).words
    for match in scan(words, partial(resolve_perturbation_phrase, catalogue=catalogue)):
        if match.name == name:
            _refuse_blocking(words, match, catalogue)


def _refuse_blocking(words: Sequence[str], match: Match, catalogue: PerturbationCatalogue) -> None:
    before = re.split(r"[-\s]", words[match.start - 1].casefold())[-1] if match.start else ""
    after = words[match.stop].casefold() if match.stop < len(words) else ""
    if _BLOCKING_BEFORE.match(before) or _BLOCKING_AFTER.match(after):
        raise _blocking(match.name, catalogue)


def _blocking(name: str, catalogue: PerturbationCatalogue) -> QueryParsingError:
    found = _blockers(name, catalogue)
    inhibitors = sorted(found, key=lambda n: (-found[n], n))
    hint = f", such as {', '.join(inhibitors[:3])}" if inhibitors else ""
    return QueryParsingError(
        f"the question seems to ask for blocking or lacking {name!r}, not for {name!r} itself; "
        f"name the blocking agent{hint}",
        suggestions=tuple(inhibitors[:MOST_SUGGESTED]),
        reason="blocking",
    )


def _blockers(name: str, catalogue: PerturbationCatalogue) -> dict[str, float]:
    """Drugs that switch off what a perturbation switches on, or itself; what is special to it counts most."""
    other = catalogue.get(name)
    if other is None:
        return {}
    uses = Counter(t.gene for e in catalogue.entries.values() for t in e.targets if t.direction == "up")
    worth = {t.gene: 1 / uses[t.gene] for t in other.targets if t.direction == "up"} | dict.fromkeys(other.ligands, 2.0)
    scores: dict[str, float] = {}
    for entry in catalogue.entries.values():
        off = {t.gene for t in entry.targets if t.direction == "down"} & worth.keys()
        if off and entry.type is PerturbationType.DRUG:
            scores[entry.name] = max(worth[gene] for gene in off)
    return scores


def _no_perturbation(words: Words, cell: Match | None, catalogue: PerturbationCatalogue) -> QueryParsingError:
    anti = next((w[5:] for w in words.words if w.casefold().startswith("anti-")), None)
    if anti and (name := resolve_perturbation_phrase(anti, catalogue)):
        return _blocking(name, catalogue)
    rest = _left_over(words.words, cell)
    phrase = " ".join(_after_cue(rest) or [w for _, w in rest if w.casefold() not in STOP])
    if not re.search(r"\w", phrase):
        return QueryParsingError(f"the question names no perturbation; {EXAMPLE}", reason="no_perturbation")
    parts = [resolve_perturbation_phrase(part, catalogue) for part in phrase.split("/")]
    if len(parts) > 1 and all(parts):
        return _several_perturbations([part for part in parts if part])
    if group := _group(phrase, catalogue):
        return QueryParsingError(
            f"the perturbation {phrase!r} is a group; name one of it, such as {', '.join(group[:5])}",
            suggestions=tuple(group),
            reason="ambiguous_perturbation",
        )
    suggestions = tuple(catalogue.suggest(phrase))
    hint = f"; did you mean {', '.join(suggestions)}?" if suggestions else "; name a cytokine, growth factor or drug"
    return QueryParsingError(
        f"the perturbation {phrase!r} is not known{hint}", suggestions=suggestions, reason="unknown_perturbation"
    )


def _group(phrase: str, catalogue: PerturbationCatalogue) -> list[str]:
    """The members of what names several: an ambiguous name, a family, or names that all begin so."""
    key = normalise_name(_TYPE.sub(lambda m: f"type {'I' * int(m[1])}", singular(phrase)))
    if len(key) < 3:
        return []
    if (ambiguity := catalogue.ambiguities.get(key)) is not None:
        return [name for name in ambiguity.meanings if name in catalogue.entries]
    families: dict[str, list[str]] = {}
    for entry in catalogue.entries.values():
        families.setdefault(normalise_name(entry.family), []).append(entry.name)
    named = [family for family in families if family and family in key]
    begun = [n for n in catalogue.entries if normalise_name(n).startswith(key) and not key[-1].isdigit()]
    group = families[max(named, key=len)] if named else begun
    return sorted(group)[:MOST_SUGGESTED] if len(group) > 1 else []


def _no_cell_type(words: Words, taken: Match, ontology: CellOntology) -> QueryParsingError:
    line = next((w for w in words.words if w.casefold() in CELL_LINES), None)
    if line is not None:
        label = ontology.label(CELL_LINES[line.casefold()])
        return QueryParsingError(
            f"{line!r} is a cell line, and the Cell Ontology holds cell types; ask about {label!r}",
            suggestions=(label,),
            reason="cell_line",
        )
    rest = [w for _, w in _left_over(words.words, taken) if w.casefold() not in STOP - {"cell", "cells"}]
    named = [word for word in rest if word.casefold() not in {"cell", "cells"} and re.search(r"\w", word)]
    if not named:
        return QueryParsingError(f"the question names no cell type; {EXAMPLE}", reason="no_cell_type")
    last = max((i for i, word in enumerate(rest) if _CELL_WORD.match(word)), default=len(rest) - 1)
    phrase = " ".join(rest[: last + 1])
    suggestions = tuple(ontology.suggest(phrase))
    hint = f"; did you mean {', '.join(suggestions)}?" if suggestions else ""
    return QueryParsingError(
        f"the cell type {phrase!r} is not known to the Cell Ontology{hint}",
        suggestions=suggestions,
        reason="unknown_cell_type",
    )


def _left_over(words: Sequence[str], match: Match | None) -> list[tuple[int, str]]:
    return [(i, w) for i, w in enumerate(words) if match is None or not match.start <= i < match.stop]


def _after_cue(rest: Sequence[tuple[int, str]]) -> list[str]:
    """The words after the last "to", "with", "by", ... that are no filler."""
    places = [i for i, (_, word) in enumerate(rest) if word.casefold() in _CUES]
    if not places:
        return []
    return [word for _, word in rest[places[-1] + 1 :] if word.casefold() not in STOP]
