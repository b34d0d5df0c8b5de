"""From a name to the term of the ontology or the entry of the catalogue; what is near where there is none."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from gca_core.errors import QueryParsingError
from gca_core.grounding.models import Expectation
from gca_core.haystack.models import StructuredQuery
from gca_core.haystack.question.genetic import gene_symbol
from gca_core.haystack.question.word_lists import CELL_LINES, CELL_NAMES, NOT_ALONE, cell_variants, singular
from gca_core.knowledge.bundled.catalogue import PerturbationCatalogue, PerturbationEntry, PerturbationType
from gca_core.knowledge.bundled.genetic import GeneticKind, genetic, guide_target, read_kind, resolve_perturbation
from gca_core.knowledge.bundled.names import normalise_name
from gca_core.knowledge.bundled.ontology import CellOntology
from gca_core.knowledge.bundled.tissues import resolve_tissue

MOST_SUGGESTED = 20
_TYPE = re.compile(r"type ([123])\b", re.IGNORECASE)
_NUMBERS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
            "nine": "9", "ten": "10", "twelve": "12", "thirteen": "13", "fifteen": "15"}  # fmt: skip
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"tumour", re.IGNORECASE), "tumor"),
    (re.compile(r"^(?:recombinant|human|rh|rhu)[- ]?(?=\w{2})", re.IGNORECASE), ""),
    (re.compile(r"^([^\W\d_]+|[\u03b1-\u03c9])[- ]interferon$", re.IGNORECASE), r"interferon \1"),
    (re.compile(r"^(interleukin|IL)[- ](" + "|".join(_NUMBERS) + r")\b", re.IGNORECASE), ""),
)


def find_cell_type(text: str, ontology: CellOntology) -> str:
    """The Cell Ontology id of a name.

    Raises:
        QueryParsingError: there is none; ``suggestions`` are labels near it.
    """
    identifier = resolve_cell_phrase(text, ontology)
    if identifier is None:
        raise unknown_cell_type(text, ontology)
    return identifier


def find_perturbation(
    text: str, catalogue: PerturbationCatalogue, kind: str | None = None, extra: Callable[[], Iterable[str]] = tuple
) -> tuple[str, PerturbationEntry | None]:
    """The canonical name of a perturbation and its entry; None for what only ``extra`` names.

    Args:
        text: a name, such as ``IFN-b`` or ``STAT1 knockout``.
        catalogue: where it is looked up.
        kind: what is done, see :func:`gca_core.knowledge.bundled.genetic.read_kind`; ``TNF`` is a gene for a knockout
            and a cytokine else.
        extra: called for further names, such as those of the atlas.

    Raises:
        QueryParsingError: there is none, or it is of another kind; ``suggestions`` are names near it.
        ConfigurationError: there is no such kind.
    """
    wanted = read_kind(kind) if kind else None
    if isinstance(wanted, GeneticKind):
        gene = guide_target(text) or gene_symbol(text, catalogue)
        if gene is None:
            raise QueryParsingError(f"{text!r} is no gene symbol of the bundled gene sets", reason="unknown_gene")
        name = f"{gene} {wanted.name}"
        return name, genetic(name, catalogue)
    known = resolve_perturbation_phrase(text, catalogue)
    entry = catalogue.get(known) if known else resolve_perturbation(text, catalogue)
    if entry is None:
        others = {normalise_name(name): name for name in extra()}
        if (other := others.get(normalise_name(text))) is not None:
            return other, None
        raise unknown_perturbation(text, catalogue)
    if wanted is not None and not wanted.holds(entry.type):
        raise QueryParsingError(
            f"{text!r} is known as {entry.name!r}, which is of the kind {entry.type.value}, not {kind}; "
            "change the kind or the name",
            suggestions=(entry.type.value,),
            reason="other_kind",
        )
    return entry.name, entry


def other_meanings(text: str, name: str, catalogue: PerturbationCatalogue) -> list[str]:
    """A note of what else a word for a perturbation may mean, as IL-1 alpha for "IL-1"."""
    ambiguity = catalogue.ambiguity(text)
    others = [other for other in ambiguity.meanings if other != name] if ambiguity else []
    return [f"{text!r} was read as {name!r}; it may also mean {', '.join(others)}"] if others else []


def unknown_cell_type(phrase: str, ontology: CellOntology) -> QueryParsingError:
    """What to say of a cell type that the ontology doesn't have."""
    if (line := CELL_LINES.get(phrase.casefold())) is not None:
        label = ontology.label(line)
        return QueryParsingError(
            f"{phrase!r} is a cell line, and the Cell Ontology holds cell types; ask about {label!r}",
            suggestions=(label,),
            reason="cell_line",
        )
    suggestions = tuple(ontology.suggest(phrase))
    hint = f"; did you mean {', '.join(suggestions)}?" if suggestions else ""
    return QueryParsingError(
        f"the cell type {phrase!r} is not known to the Cell Ontology{hint}",
        suggestions=suggestions,
        reason="unknown_cell_type",
    )


def unknown_perturbation(phrase: str, catalogue: PerturbationCatalogue) -> QueryParsingError:
    """What to say of a perturbation that the catalogue doesn't have, or has several of."""
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


def several_perturbations(names: Sequence[str]) -> QueryParsingError:
    return QueryParsingError(
        f"the question names {len(names)} perturbations ({', '.join(names)}); ask about one at a time",
        suggestions=tuple(names),
        reason="several_perturbations",
    )


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
