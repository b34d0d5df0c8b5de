"""The perturbation catalogue: names, synonyms, and what each perturbation is expected to do.

Compiled for this project from common knowledge of immunology and pharmacology; every entry says
``evidence: curated`` and carries no reference, since none was read from a file.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gca_core.config import require
from gca_core.errors import DataValidationError

CATALOGUE_PATH = Path(__file__).parent / "data" / "perturbations.json"
SUGGESTION_CUTOFF = 60.0

_MINUS_SIGN = "\u2212"
_DROPPED = re.compile(r"[^a-z0-9+ ]+")

Direction = Literal["up", "down"]


class PerturbationType(StrEnum):
    """What kind of thing is done to the cells."""

    CYTOKINE = "cytokine"
    GROWTH_FACTOR = "growth_factor"
    CHEMOKINE = "chemokine"
    DRUG = "drug"
    STIMULUS = "stimulus"
    GENETIC = "genetic"
    OTHER = "other"


class ExpectedGene(BaseModel):
    """A gene symbol and the direction it is expected to go."""

    model_config = ConfigDict(frozen=True)

    gene: str = Field(min_length=1)
    direction: Direction


class ExpectedPathway(BaseModel):
    """A gene-set or footprint name and the direction it is expected to go."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(min_length=1)
    direction: Direction


class PerturbationEntry(BaseModel):
    """One perturbation.

    Args:
        name: the canonical name.
        type: what kind of thing it is.
        family: what it is grouped with, such as ``type I interferon`` or ``JAK inhibitor``.
        synonyms: other spellings; matched exactly after normalisation.
        targets: what it acts on, and whether that is switched on or off.
        response: genes whose expression is expected to change.
        pathways: gene sets of the bundled collections expected to change.
        footprints: PROGENy pathways expected to change.
        evidence: where the entry comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    type: PerturbationType
    family: str = Field(min_length=1)
    synonyms: tuple[str, ...] = ()
    targets: tuple[ExpectedGene, ...] = ()
    response: tuple[ExpectedGene, ...] = ()
    pathways: tuple[ExpectedPathway, ...] = ()
    footprints: tuple[ExpectedPathway, ...] = ()
    evidence: Literal["curated"] = "curated"


def normalise_name(text: str) -> str:
    """A name without case, Greek letters, hyphens, spaces and punctuation: ``IFN-β`` becomes ``ifnbeta``."""
    return _spaced(text).replace(" ", "")


def tokens(text: str) -> list[str]:
    """The normalised words of a text, in order."""
    return _spaced(text).split()


def _spaced(text: str) -> str:
    lowered = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_DROPPED.sub("", "".join(map(_plain, lowered))).split())


def _plain(character: str) -> str:
    """Greek letters by name, dashes and separators as spaces."""
    if character.isascii():
        return " " if character in "-_/\t\n" else character
    name = unicodedata.name(character, "")
    if name.startswith("GREEK SMALL LETTER "):
        return name.removeprefix("GREEK SMALL LETTER ").split()[0].lower().replace("lamda", "lambda")
    return " " if character == _MINUS_SIGN or unicodedata.category(character) in {"Pd", "Zs"} else character


class PerturbationCatalogue:
    """Entries by name and synonym; a lookup is exact after normalisation, never fuzzy.

    Raises:
        DataValidationError: two entries claim the same name.
    """

    def __init__(self, entries: Iterable[PerturbationEntry], *, version: str) -> None:
        self.version = version
        self._entries = {entry.name: entry for entry in entries}
        self._by_key: dict[str, str] = {}
        for entry in self._entries.values():
            for name in (entry.name, *entry.synonyms):
                owner = self._by_key.setdefault(normalise_name(name), entry.name)
                if owner != entry.name:
                    raise DataValidationError(
                        f"the catalogue names {name!r} under {owner!r} and {entry.name!r}; a name belongs to one entry"
                    )

    @property
    def entries(self) -> Mapping[str, PerturbationEntry]:
        """Entries by canonical name."""
        return self._entries

    @property
    def keys(self) -> Mapping[str, str]:
        """Normalised name or synonym to canonical name."""
        return self._by_key

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> PerturbationEntry | None:
        """The entry with this canonical name."""
        return self._entries.get(name)

    def resolve(self, text: str) -> PerturbationEntry | None:
        """The entry whose name or synonym is ``text`` after normalisation, or None."""
        name = self._by_key.get(normalise_name(text))
        return self._entries[name] if name is not None else None

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


def parse_catalogue(text: str) -> PerturbationCatalogue:
    """A catalogue from its JSON text.

    Raises:
        DataValidationError: the text is not a catalogue.
    """
    try:
        data = json.loads(text)
        entries = [_entry(item) for item in data["entries"]]
        return PerturbationCatalogue(entries, version=str(data["version"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataValidationError(f"the perturbation catalogue is not valid: {error}") from None


@cache
def load_catalogue() -> PerturbationCatalogue:
    """The bundled catalogue."""
    return parse_catalogue(CATALOGUE_PATH.read_text(encoding="utf-8"))


def _entry(item: Mapping[str, object]) -> PerturbationEntry:
    """An entry from its compact form, in which ``+NAME`` is expected up and ``-NAME`` down."""
    expanded = dict(item)
    for field, key in (("targets", "gene"), ("response", "gene"), ("pathways", "name"), ("footprints", "name")):
        signed = expanded.get(field, ())
        if not isinstance(signed, list | tuple):
            raise TypeError(f"{field} of {item.get('name')!r} is not a list")
        expanded[field] = [_signed(str(value), key) for value in signed]
    return PerturbationEntry.model_validate(expanded)


def _signed(text: str, key: str) -> dict[str, str]:
    if text[:1] not in "+-" or len(text) < 2:
        raise ValueError(f"{text!r} does not begin with + or -")
    return {key: text[1:], "direction": "up" if text[0] == "+" else "down"}
