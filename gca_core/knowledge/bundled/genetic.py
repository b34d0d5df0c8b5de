"""Perturbations of a gene, read by rule: "CRISPRi STAT1", "JAK2 knockout", "siRNA against MYC".

What is expected: the gene itself goes its way, and the pathways that the catalogue's entries acting on
the same gene agree on, turned round where an entry acts on it the other way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Literal

from gca_core.knowledge.bundled.catalogue import (
    ExpectedGene,
    ExpectedPathway,
    PerturbationCatalogue,
    PerturbationEntry,
    PerturbationType,
)
from gca_core.knowledge.bundled.gene_sets import known_symbols
from gca_core.knowledge.bundled.names import tokens

MIN_AGREEMENT = 0.5
MAX_PATHWAYS = 5

_SYMBOL = r"(?P<gene>[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)?)"
_OF = r"(?:\s+(?:of|against|targeting|for|on|the|gene))*\s+"


@dataclass(frozen=True)
class GeneticKind:
    """A way to change a gene.

    Attributes:
        name: as it stands in a canonical name: ``STAT1 knockout``.
        direction: where the gene's activity goes.
        transcript: whether its RNA is expected to go there too; a knockout often leaves RNA.
        words: how it is written, as a pattern.
        prefixes: what is joined to the symbol, as in ``siSTAT1``.
        suffixes: what follows the symbol, as in ``STAT1-/-``.
    """

    name: str
    direction: Literal["up", "down"]
    transcript: bool
    words: str
    prefixes: str = "(?!)"
    suffixes: str = "(?!)"


KINDS = (
    GeneticKind(
        "CRISPRi",
        "down",
        True,
        r"crispr[\s-]?i(?:nterference)?|crispr interference|d?cas9[\s-]?krab",
    ),
    GeneticKind(
        "CRISPRa",
        "up",
        True,
        r"crispr[\s-]?a(?:ctivation)?|crispr activation|d?cas9[\s-]?(?:vp64|vpr|vp16)",
    ),
    GeneticKind(
        "knockout",
        "down",
        False,
        r"knock[\s-]?out|knocked[\s-]out|crispr(?:[\s/-]?cas9)?(?:\s+(?:knock[\s-]?out|ko|deletion))?|ko|deletion|"
        r"deleted|loss|null|deficien(?:t|cy)|sg[\s-]?rna|gene disruption|disruption|ablation",
        r"sg|g",
        r"\s?(?:-/-|\(-/-\)|\u2212/\u2212)",
    ),
    GeneticKind(
        "knockdown",
        "down",
        True,
        r"knock[\s-]?down|knocked[\s-]down|kd|si[\s-]?rna|sh[\s-]?rna|rnai|silencing|silenced|silence|"
        r"antisense(?: oligonucleotide)?|aso|depletion|depleted|haploinsufficiency",
        r"si|sh",
        r"\s?(?:\+/-|-/\+)",
    ),
    GeneticKind(
        "overexpression",
        "up",
        True,
        r"over[\s-]?expression|over[\s-]?expressed|over[\s-]?expressing|oe|ectopic expression|forced expression|"
        r"cdna|orf|transgenic expression",
        r"oe",
    ),
)


def _patterns(kind: GeneticKind) -> tuple[re.Pattern[str], ...]:
    words = f"(?:{kind.words})"
    return (
        re.compile(rf"(?i:{words}){_OF}{_SYMBOL}"),
        re.compile(rf"(?i:{words})[\s:_-]{_SYMBOL}"),
        re.compile(rf"{_SYMBOL}(?:\s+gene)?[\s:_-]+(?i:{words})"),
        re.compile(rf"(?:{kind.prefixes})-?(?P<gene>[A-Z][A-Z0-9]+(?:-[A-Z0-9]+)?)"),
        re.compile(rf"{_SYMBOL}(?:{kind.suffixes})"),
    )


_PATTERNS = tuple((kind, pattern) for kind in KINDS for pattern in _patterns(kind))


def parse_genetic(text: str, symbols: Callable[[], Container[str]] = known_symbols) -> tuple[str, GeneticKind] | None:
    """The gene and what is done to it, or None where the text is no such perturbation.

    Args:
        text: the whole name, nothing else around it.
        symbols: gives the human gene symbols that count; called only when a pattern fits.
    """
    name = " ".join(text.split())
    for kind, pattern in _PATTERNS:
        found = pattern.fullmatch(name)
        if found is not None and (gene := _symbol(found["gene"], symbols())) is not None:
            return gene, kind
    return None


def genetic(text: str, catalogue: PerturbationCatalogue) -> PerturbationEntry | None:
    """The entry for a perturbation of a gene, made by rule; None where the text is none."""
    parsed = parse_genetic(text)
    if parsed is None:
        return None
    gene, kind = parsed
    target = ExpectedGene(gene=gene, direction=kind.direction)
    return PerturbationEntry(
        name=f"{gene} {kind.name}",
        type=PerturbationType.GENETIC,
        family=f"gene {kind.name}",
        targets=(target,),
        response=(target,) if kind.transcript else (),
        pathways=tuple(ExpectedPathway(**p) for p in _agreed(gene, kind, catalogue, "pathways")),
        footprints=tuple(ExpectedPathway(**p) for p in _agreed(gene, kind, catalogue, "footprints")),
    )


def resolve_perturbation(text: str, catalogue: PerturbationCatalogue) -> PerturbationEntry | None:
    """An entry of the catalogue by name or synonym, else one made by the rules for genes, else None."""
    return catalogue.resolve(text) or genetic(text, catalogue)


def _symbol(text: str, symbols: Container[str]) -> str | None:
    """The symbol as it is, or in capitals where a word of three letters or more is one."""
    if text in symbols:
        return text
    upper = text.upper()
    return upper if len(text) > 2 and upper in symbols and not set(tokens(text)) & _WORDS else None


_COMMON = "a an and are can cell cells for gene get had has impact large met not of or rest set the was"
_WORDS = frozenset(_COMMON.split())


def _agreed(
    gene: str, kind: GeneticKind, catalogue: PerturbationCatalogue, field: Literal["pathways", "footprints"]
) -> list[dict[str, Any]]:
    """Pathways that at least half of the entries acting on the gene expect, seen in its direction."""
    acting = catalogue.acting_on(gene)
    votes: Counter[tuple[str, str]] = Counter()
    for entry, direction in acting:
        expected: tuple[ExpectedPathway, ...] = getattr(entry, field)
        votes.update((p.name, p.direction if direction == kind.direction else _turned(p.direction)) for p in expected)
    needed = MIN_AGREEMENT * len(acting)
    best = sorted((key for key, count in votes.items() if count >= needed), key=lambda key: (-votes[key], key))
    return [{"name": name, "direction": direction} for name, direction in best[:MAX_PATHWAYS]]


def _turned(direction: str) -> str:
    return "down" if direction == "up" else "up"
