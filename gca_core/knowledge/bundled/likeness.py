"""How alike two perturbations act, from what the catalogue expects of them, with its sign.

Four parts are compared: what they act on, the genes expected to respond, the pathways and footprints expected to
change, and the family. Of the first three a signed cosine is taken: the same direction counts for, the opposite
against. What either leaves out is left out of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from gca_core.knowledge.bundled.catalogue import PerturbationEntry, PerturbationType

SIMILARITY_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"targets": 0.4, "response": 0.3, "pathways": 0.2, "family": 0.1}
)
# entries of which little is known can't be found very alike
LEAST_KNOWN = 0.5
_NAMED = 3


@dataclass(frozen=True)
class Features:
    """What is compared of a perturbation: the sign of each item by part, and its family."""

    parts: Mapping[str, Mapping[str, int]]
    family: str
    genetic: bool

    @classmethod
    def of(cls, entry: PerturbationEntry) -> Features:
        """The features of an entry."""
        parts = {part: _signs(entry, fields) for part, fields in _FIELDS.items()}
        return cls(parts, entry.family, entry.type is PerturbationType.GENETIC)


def perturbation_similarity(a: PerturbationEntry, b: PerturbationEntry) -> float:
    """How alike two perturbations act, -1..1.

    An inhibitor of what the other activates gets a negative value, whatever the family.
    """
    return compare(Features.of(a), Features.of(b))


def compare(a: Features, b: Features) -> float:
    """:func:`perturbation_similarity` by features."""
    total = known = 0.0
    for part in _FIELDS:
        first, second = a.parts[part], b.parts[part]
        if first and second:
            known += SIMILARITY_WEIGHTS[part]
            total += SIMILARITY_WEIGHTS[part] * _signed_cosine(first, second)
    # a knockout is no relative of every other knockout
    if not a.genetic and not b.genetic:
        known += SIMILARITY_WEIGHTS["family"]
        total += SIMILARITY_WEIGHTS["family"] * (a.family == b.family)
    return total / max(known, LEAST_KNOWN)


def likeness_matrix(entries: Sequence[PerturbationEntry | None]) -> npt.NDArray[np.float64]:
    """:func:`perturbation_similarity` of each pair, (n, n); NaN where either is unknown."""
    import scipy.sparse as sp

    found = [None if entry is None else Features.of(entry) for entry in entries]
    total, known = np.zeros((2, len(found), len(found)))
    for part in _FIELDS:
        signs = [features.parts[part] if features else {} for features in found]
        place = {name: i for i, name in enumerate(sorted({name for row in signs for name in row}))}
        at = [(i, place[name], sign / math.sqrt(len(row))) for i, row in enumerate(signs) for name, sign in row.items()]
        rows, columns, values = zip(*at, strict=True) if at else ((), (), ())
        unit = sp.csr_matrix((values, (rows, columns)), shape=(len(found), max(len(place), 1)), dtype=np.float64)
        total += SIMILARITY_WEIGHTS[part] * (unit @ unit.T).toarray()
        has = np.array([bool(row) for row in signs], dtype=float)
        known += SIMILARITY_WEIGHTS[part] * np.outer(has, has)
    plain = np.array([features is not None and not features.genetic for features in found], dtype=float)
    families = np.array([features.family if features else "" for features in found], dtype=object)
    both = SIMILARITY_WEIGHTS["family"] * np.outer(plain, plain)
    total, known = total + both * (families[:, None] == families[None, :]), known + both
    unknown = np.array([features is None for features in found], dtype=bool)
    return np.where(unknown[:, None] | unknown[None, :], np.nan, total / np.maximum(known, LEAST_KNOWN))


def shared(a: PerturbationEntry, b: PerturbationEntry) -> str:
    """What two perturbations have in common in the same direction, in words."""
    words = []
    one, other = Features.of(a), Features.of(b)
    for part in _FIELDS:
        common = [name for name, sign in one.parts[part].items() if other.parts[part].get(name) == sign]
        if common:
            more = f" and {len(common) - _NAMED} more" if len(common) > _NAMED else ""
            words.append(f"{part} {', '.join(common[:_NAMED])}{more}")
    if one.family == other.family and not one.genetic:
        words.append(f"the family {one.family}")
    return "; ".join(words)


_FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"targets": ("targets",), "response": ("response",), "pathways": ("pathways", "footprints")}
)


def _signs(entry: PerturbationEntry, fields: tuple[str, ...]) -> dict[str, int]:
    items = [item for field in fields for item in getattr(entry, field)]
    return {getattr(i, "gene", None) or i.name: 1 if i.direction == "up" else -1 for i in items}


def _signed_cosine(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    return sum(a[key] * b[key] for key in a.keys() & b.keys()) / math.sqrt(len(a) * len(b))
