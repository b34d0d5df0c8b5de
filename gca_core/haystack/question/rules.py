"""Reading a question by rules: which cell type, which perturbation.

The longest phrase that names something wins, perturbations first, so that "stem cell factor" is no
stem cell and "interferon beta" no beta cell. A word of seven letters or more with one letter wrong is corrected, and
the query says so; anything less certain is refused with suggestions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from gca_core.config import require
from gca_core.errors import QueryParsingError
from gca_core.haystack.models import StructuredQuery
from gca_core.haystack.question.genetic import GeneticPhrase, find_genetic
from gca_core.haystack.question.names import (
    MOST_SUGGESTED,
    make_query,
    other_meanings,
    resolve_cell_phrase,
    resolve_perturbation_phrase,
    several_perturbations,
    unknown_cell_type,
    unknown_perturbation,
)
from gca_core.haystack.question.word_lists import CELL_LINES, MIXTURES, SPECIES, STOP, cell_variants
from gca_core.haystack.question.words import Match, Words, scan, split_words
from gca_core.knowledge.bundled.catalogue import PerturbationCatalogue, PerturbationEntry, PerturbationType
from gca_core.knowledge.bundled.genetic import genetic
from gca_core.knowledge.bundled.names import normalise_name
from gca_core.knowledge.bundled.ontology import CellOntology
from gca_core.knowledge.bundled.tissues import resolve_tissue, tissue_label

MAX_QUESTION = 1000
LONG_ENOUGH = 7
EXAMPLE = "ask like: How would CD14+ monocytes respond to interferon beta?"
# nouns and participles behind a name; a verb there says what the perturbation does: "TNF blocks ..."
_BLOCKING_AFTER = re.compile(
    r"inhibit(?:ors?|ion|ed)|block(?:ade|ers?|ing|ed)|antagoni(?:sts?|sm|[sz]ed)|neutrali[sz]\w*|antibod\w+|mabs?|traps?|"
    r"nanobod\w+|decoys?|degraders?|degraded|degradation|protacs?|suppress(?:ors?|ion|ed)|receptors?|deficien\w+|free|"
    r"deplet(?:ion|ed)|withdrawal|withdrawn|withheld|remov(?:al|ed)|depriv(?:ation|ed)|starv(?:ation|ed)|lack(?:ing)?|"
    r"absent|down-?regulat(?:ion|ed)|mutants?|mutat(?:ion|ed)"
)
_BLOCKING_BEFORE = re.compile(
    r"anti|block\w*|inhibit\w*|antagoni\w+|neutrali[sz]\w*|antibod\w+|mabs?|degrad\w+|suppress\w*|withdr\w+|withheld|"
    r"remov\w+|depriv\w+|deplet\w+|starv\w+|lack\w*|absen\w+|minus|down-?regulat\w+"
)
_NEGATION = re.compile(r"no|not|never|without|w/o|non|lack\w*|absen\w+|minus")
_OF = frozenset({"of", "the", "to", "against", "from", "for", "any", "all", "a", "an"})
_BY = _OF | {"with", "by", "in", "added", "treated", "treatment", "stimulated", "exposed", "exposure", "given"}
_BEHIND = frozenset(
    {"the", "is", "was", "being", "has", "been", "signaling", "signalling", "pathway", "activity", "protein"}
)
_LEADING = frozenset({"in", "within", "inside", "from", "among", "during"})
_CUES = frozenset({"to", "with", "by", "under", "upon", "after"})
_CELL_WORD = re.compile(r"^\w*(cells?|cytes?|blasts?|phages?|clasts?|phils?)$", re.IGNORECASE)


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
    cell, others = _find_cell_type(words, used, ontology)
    if found is None:
        raise _no_perturbation(words, cell, catalogue)
    if cell is None:
        raise _no_cell_type(words, found.match, ontology)
    # most questions name none, and the names of tissues take longer to read than all else
    tissues = scan(words.words, _tissue_phrase, used.union(cell.places))
    read = used.union(*(m.places for m in (cell, *others, *tissues)))
    notes = _uncertain(words, cell, others, read, ontology)
    name = found.match.name
    if found.match.guess:
        notes.append(f"{found.match.text!r} was read as {name!r}")
    notes += other_meanings(found.match.text, name, catalogue)
    return make_query(
        text, cell.name, cell.text, name, found.match.text, found.entry, ontology=ontology, dataset=dataset,
        ambiguities=notes, tissues={m.name: tissue_label(m.name) for m in tissues},
    )  # fmt: skip


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
        raise several_perturbations(names)
    if not matches:
        return None
    _refuse_blocking(words, matches[0], catalogue)
    return _Perturbation(matches[0], catalogue.get(names[0]))


def _genetic(
    phrases: Sequence[GeneticPhrase], matches: Sequence[Match], catalogue: PerturbationCatalogue
) -> _Perturbation:
    if unchanged := next((p for p in phrases if not p.mode), None):
        raise QueryParsingError(
            f"{unchanged.text!r} is a genotype without a known change; write what is asked as in STAT1 knockout",
            reason="genotype",
        )
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
        raise several_perturbations(names)
    phrase = phrases[0]
    return _Perturbation(Match(phrase.start, phrase.stop, phrase.name, phrase.text), genetic(phrase.name, catalogue))


def _names(entry: PerturbationEntry | None) -> tuple[str, ...]:
    return (entry.name, *entry.synonyms) if entry else ()


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


def _tissue_phrase(phrase: str) -> str | None:
    if phrase.casefold() in STOP or any(_CELL_WORD.match(word) for word in phrase.split()):
        return None
    return resolve_tissue(phrase)


def _find_cell_type(words: Words, used: frozenset[int], ontology: CellOntology) -> tuple[Match | None, list[Match]]:
    """The one cell type, and the others that only say where the cells are, or the same less exactly."""
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
    found = specific[0] if specific else None
    return found, [match for match in matches if match is not found]


def _uncertain(
    words: Words, match: Match, others: Sequence[Match], taken: frozenset[int], ontology: CellOntology
) -> list[str]:
    label, matches = ontology.label(match.name), [match, *others]
    context = [other for other in others if _is_context(other, matches, words)]
    notes = [f"{other.text!r} was read as where the cells are from" for other in context]
    if match.guess:
        notes.append(f"{match.text!r} was read as {label!r}")
    if unread := words.qualifiers(match, taken):
        notes.append(f"{' '.join(unread)!r} beside {match.text!r} was not understood; it was read as {label!r}")
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
    words = split_words(text)
    for match in scan(words.words, partial(resolve_perturbation_phrase, catalogue=catalogue)):
        if match.name == name:
            _refuse_blocking(words, match, catalogue)


def _refuse_blocking(words: Words, match: Match, catalogue: PerturbationCatalogue) -> None:
    clause, lowered = words.clause_of(match.start), [word.casefold() for word in words.words]
    before, after = lowered[clause.start : match.start][::-1], lowered[match.stop : clause.stop]
    if (
        _BLOCKING_BEFORE.fullmatch(re.split(r"[-\s]", _first_beyond(before, _OF))[-1])
        or _NEGATION.fullmatch(_first_beyond(before, _BY))
        or _BLOCKING_AFTER.fullmatch(_first_beyond(after, _BEHIND))
    ):
        raise _blocking(match.name, catalogue)


def _first_beyond(words: Iterable[str], filler: frozenset[str]) -> str:
    """The first word that is no filler."""
    return next((word for word in words if word not in filler), "")


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
        return several_perturbations([part for part in parts if part])
    return unknown_perturbation(phrase, catalogue)


def _no_cell_type(words: Words, taken: Match, ontology: CellOntology) -> QueryParsingError:
    if line := next((w for w in words.words if w.casefold() in CELL_LINES), None):
        return unknown_cell_type(line, ontology)
    rest = [w for _, w in _left_over(words.words, taken) if w.casefold() not in STOP - {"cell", "cells"}]
    named = [word for word in rest if word.casefold() not in {"cell", "cells"} and re.search(r"\w", word)]
    if not named:
        return QueryParsingError(f"the question names no cell type; {EXAMPLE}", reason="no_cell_type")
    last = max((i for i, word in enumerate(rest) if _CELL_WORD.match(word)), default=len(rest) - 1)
    return unknown_cell_type(" ".join(rest[: last + 1]), ontology)


def _left_over(words: Sequence[str], match: Match | None) -> list[tuple[int, str]]:
    return [(i, w) for i, w in enumerate(words) if match is None or not match.start <= i < match.stop]


def _after_cue(rest: Sequence[tuple[int, str]]) -> list[str]:
    """The words after the last "to", "with", "by", ... that are no filler."""
    places = [i for i, (_, word) in enumerate(rest) if word.casefold() in _CUES]
    if not places:
        return []
    return [word for _, word in rest[places[-1] + 1 :] if word.casefold() not in STOP]
