"""The perturbation catalogue: names, synonyms, and what each perturbation is expected to do.

Compiled for this project from immunology and pharmacology as published; every entry says
``evidence: curated`` and carries no reference, since none was read from a file. Perturbations of a
gene ("STAT1 knockout", "CRISPRi JAK2") are not listed but read by rule, see :mod:`gca_core.knowledge.bundled.genetic`.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from gca_core.config import require
from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.files import data_file
from gca_core.knowledge.bundled.names import normalise_name, variants

VERSION = "2026.11.3"
TABLES = ("catalogue_cytokines.tsv", "catalogue_drugs.tsv", "catalogue_stimuli.tsv")
PROFILES, AMBIGUOUS = "catalogue_profiles.tsv", "catalogue_ambiguous.tsv"
SUGGESTION_CUTOFF = 60.0
_SIGNED = {"targets": "gene", "response": "gene", "pathways": "name", "footprints": "name"}
_PLAIN_LISTS = ("ligands", "synonyms")
_PROFILE_COLUMNS = {"name", *_SIGNED}
_ENTRY_COLUMNS = {"name", "type", "family", "profile", *_PLAIN_LISTS, *_SIGNED}
_AMBIGUOUS_COLUMNS = {"name", "default", "meanings", "reason"}

Direction = Literal["up", "down"]


class PerturbationType(StrEnum):
    """What kind of thing is done to the cells."""

    CYTOKINE = "cytokine"
    GROWTH_FACTOR = "growth_factor"
    CHEMOKINE = "chemokine"
    HORMONE = "hormone"
    DRUG = "drug"
    STIMULUS = "stimulus"
    GENETIC = "genetic"
    OTHER = "other"


class ExpectedGene(BaseModel, frozen=True):
    """A gene symbol and the direction it is expected to go."""

    gene: str = Field(min_length=1)
    direction: Direction


class ExpectedPathway(BaseModel, frozen=True):
    """A gene-set or footprint name and the direction it is expected to go."""

    name: str = Field(min_length=1)
    direction: Direction


class PerturbationEntry(BaseModel, frozen=True, extra="forbid"):
    """One perturbation.

    Args:
        name: the canonical name.
        type: what kind of thing it is.
        family: what it is grouped with, such as ``type I interferon`` or ``JAK inhibitor``.
        ligands: genes that encode it, where it is a protein; several for a dimer.
        synonyms: other spellings; matched exactly after normalisation.
        targets: what it acts on, and whether that is switched on or off; receptors first.
        profile: the shared expectations it takes over, such as those of all glucocorticoids.
        response: genes whose expression is expected to change.
        pathways: gene sets of the bundled collections expected to change.
        footprints: PROGENy pathways expected to change.
        evidence: where the entry comes from.
        references: ids of publications that the build read from a file; none so far.
    """

    name: str = Field(min_length=1)
    type: PerturbationType
    family: str = Field(min_length=1)
    ligands: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    targets: tuple[ExpectedGene, ...] = ()
    profile: str = ""
    response: tuple[ExpectedGene, ...] = ()
    pathways: tuple[ExpectedPathway, ...] = ()
    footprints: tuple[ExpectedPathway, ...] = ()
    evidence: Literal["curated"] = "curated"
    references: tuple[str, ...] = ()


class Ambiguity(BaseModel, frozen=True):
    """A name that means several things.

    Args:
        name: as it is written.
        default: the entry it is taken for by convention; None where a guess would be wrong.
        meanings: what it may mean, entries of the catalogue or others.
        reason: why it is ambiguous, or why the default is the default.
    """

    name: str
    default: str | None = None
    meanings: tuple[str, ...] = ()
    reason: str = ""


class PerturbationCatalogue:
    """Entries by name and synonym; a lookup is exact after normalisation, never fuzzy.

    Args:
        entries: the perturbations.
        version: of the tables.
        ambiguities: names that mean several entries, with the one taken by convention.

    Raises:
        DataValidationError: two entries claim the same name, or an ambiguity names no entry.
    """

    def __init__(
        self, entries: Iterable[PerturbationEntry], *, version: str, ambiguities: Iterable[Ambiguity] = ()
    ) -> None:
        self.version = version
        self._entries = {entry.name: entry for entry in entries}
        self._by_key: dict[str, str] = {}
        for entry in self._entries.values():
            for name in (entry.name, *entry.synonyms):
                self._claim(name, entry.name)
        self._acting: dict[str, list[tuple[PerturbationEntry, Direction]]] = {}
        for _, entry in sorted(self._entries.items()):
            for target in entry.targets:
                self._acting.setdefault(target.gene, []).append((entry, target.direction))
        self._ambiguous: dict[str, Ambiguity] = {}
        for ambiguity in ambiguities:
            self._ambiguous[normalise_name(ambiguity.name)] = ambiguity
            self._settle(ambiguity)

    def _claim(self, name: str, owner: str) -> None:
        found = self._by_key.setdefault(normalise_name(name), owner)
        if found != owner:
            raise DataValidationError(
                f"the catalogue names {name!r} under {found!r} and {owner!r}; a name belongs to one entry"
            )

    def _settle(self, ambiguity: Ambiguity) -> None:
        if ambiguity.default is not None:
            if ambiguity.default not in self._entries:
                raise DataValidationError(
                    f"the ambiguous name {ambiguity.name!r} is taken for {ambiguity.default!r}, which is no entry"
                )
            self._claim(ambiguity.name, ambiguity.default)
        elif (owner := self._by_key.get(normalise_name(ambiguity.name))) is not None:
            raise DataValidationError(f"{ambiguity.name!r} is said to be undecided, but it is a name of {owner!r}")

    @property
    def entries(self) -> Mapping[str, PerturbationEntry]:
        """Entries by canonical name."""
        return self._entries

    @property
    def keys(self) -> Mapping[str, str]:
        """Normalised name or synonym to canonical name; an ambiguous name to what it is taken for."""
        return self._by_key

    @property
    def ambiguities(self) -> Mapping[str, Ambiguity]:
        """Ambiguous names by their normalised form."""
        return self._ambiguous

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> PerturbationEntry | None:
        """The entry with this canonical name."""
        return self._entries.get(name)

    def resolve(self, text: str) -> PerturbationEntry | None:
        """The entry whose name or synonym is ``text``, or None.

        Where the text as it stands is unknown, the same is tried without origin, dose, salt and parentheses;
        several entries found that way mean none. Ask :meth:`ambiguity` whether a name was settled by convention.
        """
        name = self._by_key.get(normalise_name(text))
        if name is None and not self.ambiguity(text):
            found = {self._by_key[key] for key in map(normalise_name, variants(text)) if key in self._by_key}
            name = found.pop() if len(found) == 1 else None
        return self._entries[name] if name is not None else None

    def ambiguity(self, text: str) -> Ambiguity | None:
        """What else ``text`` may mean, or None where it is not known to be ambiguous."""
        return self._ambiguous.get(normalise_name(text))

    def acting_on(self, gene: str) -> list[tuple[PerturbationEntry, Direction]]:
        """Entries that have a gene among their targets, with the direction, in name order."""
        return list(self._acting.get(gene, ()))

    def suggest(self, text: str, n: int = 3) -> list[str]:
        """Canonical names that look like ``text``, best first; for messages, never for resolving."""
        key = normalise_name(text)
        if not key:
            return []
        process, fuzz = require("rapidfuzz.process", "haystack"), require("rapidfuzz.fuzz", "haystack")
        hits = process.extract(
            key, sorted(self._by_key), scorer=fuzz.ratio, score_cutoff=SUGGESTION_CUTOFF, limit=4 * n
        )
        ordered = sorted(hits, key=lambda hit: (-hit[1], hit[0]))
        return list(dict.fromkeys(self._by_key[hit[0]] for hit in ordered))[:n]


def read_catalogue(folder: Path, *, version: str = VERSION) -> PerturbationCatalogue:
    """A catalogue from its tables in a folder.

    Raises:
        DataValidationError: a table is missing or not valid.
    """
    try:
        profiles = {row["name"]: _lists(row) for row in _rows(folder / PROFILES)}
        entries = [_entry(_lists(row), profiles) for table in TABLES for row in _rows(folder / table)]
        ambiguities = [
            Ambiguity(
                name=row["name"],
                default=row["default"] or None,
                meanings=tuple(_split(row["meanings"])),
                reason=row["reason"],
            )
            for row in _rows(folder / AMBIGUOUS)
        ]
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataValidationError(f"the perturbation catalogue in {folder} is not valid: {error}") from None
    return PerturbationCatalogue(entries, version=version, ambiguities=ambiguities)


@cache
def load_catalogue() -> PerturbationCatalogue:
    """The bundled catalogue."""
    return read_catalogue(data_file(PROFILES).parent)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as source:
        reader = csv.DictReader(source, delimiter="\t", quoting=csv.QUOTE_NONE)
        found = list(reader)
    expected = {PROFILES: _PROFILE_COLUMNS, AMBIGUOUS: _AMBIGUOUS_COLUMNS}.get(path.name, _ENTRY_COLUMNS)
    if set(reader.fieldnames or ()) != expected:
        raise ValueError(f"{path.name} has not the columns {', '.join(sorted(expected))}")
    return found


def _lists(row: Mapping[str, str]) -> dict[str, object]:
    """A row with its list columns split; names at ";", genes and footprints at spaces."""
    found: dict[str, object] = dict(row)
    for column in {*_SIGNED, *_PLAIN_LISTS} & row.keys():
        found[column] = _split(row[column]) if column in {"synonyms", "pathways"} else row[column].split()
    return found


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _entry(item: Mapping[str, object], profiles: Mapping[str, Mapping[str, object]]) -> PerturbationEntry:
    """An entry from its compact form, in which ``+NAME`` is expected up and ``-NAME`` down."""
    expanded = dict(item)
    name = str(item.get("profile") or "")
    if name and name not in profiles:
        raise ValueError(f"{item.get('name')!r} takes over the profile {name!r}, which does not exist")
    for field, key in _SIGNED.items():
        own, shared = item.get(field, ()), profiles[name][field] if name else ()
        if not isinstance(own, list | tuple) or not isinstance(shared, list | tuple):
            raise TypeError(f"{field} of {item.get('name')!r} is not a list")
        expanded[field] = _signed([*own, *shared], key)
    return PerturbationEntry.model_validate(expanded)


def _signed(values: Sequence[object], key: str) -> list[dict[str, str]]:
    found: dict[str, str] = {}
    for value in map(str, values):
        if value[:1] not in {"+", "-"} or len(value) < 2:
            raise ValueError(f"{value!r} does not begin with + or -")
        found.setdefault(value[1:], "up" if value[0] == "+" else "down")
    return [{key: name, "direction": direction} for name, direction in found.items()]
