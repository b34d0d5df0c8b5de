"""Perturbations of a gene, read by rule: "CRISPRi STAT1", "JAK2 knockout", "siRNA against MYC".

What is expected: the gene itself goes its way, and the pathways that the catalogue's entries acting on
the same gene agree on, turned round where an entry acts on it the other way.
"""

import re
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from gca_core.errors import ConfigurationError
from gca_core.knowledge.bundled.catalogue import (
    ExpectedGene,
    ExpectedPathway,
    PerturbationCatalogue,
    PerturbationEntry,
    PerturbationType,
)
from gca_core.knowledge.bundled.gene_sets import known_symbols
from gca_core.knowledge.bundled.names import plain_signs, tokens

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
        r"knock(?:ed|ing)?[\s-]?outs?|crispr(?:[\s/-]?cas9)?(?:\s+(?:knock[\s-]?out|ko|deletion))?|ko|delet(?:ion|ed|ing)|"
        r"loss(?:[\s-]of[\s-]function)?|lof|null|deficien(?:t|cy)|sg[\s-]?rna|gene disruption|disrupt(?:ion|ed)|"
        r"ablat(?:ion|ed|ing)",
        r"sg|g",
        r"\s?-/-",
    ),
    GeneticKind(
        "knockdown",
        "down",
        True,
        r"knock(?:ed|ing)?[\s-]?downs?|kd|si[\s-]?rnas?|sh[\s-]?rnas?|rnai|silenc(?:ing|ed?)|"
        r"antisense(?: oligonucleotides?)?|asos?|morpholinos?|deplet(?:ion|ed)|haploinsufficien(?:cy|t)",
        r"si|sh",
        r"\s?(?:\+/-|-/\+)",
    ),
    GeneticKind(
        "overexpression",
        "up",
        True,
        r"over[\s-]?express(?:ion|ed|ing)|oe|(?:ectopic|forced)(?: expression)?|cdna|orf|"
        r"transgen(?:e|ic)(?: expression)?|gain[\s-]of[\s-]function|gof",
        r"oe",
    ),
)

KNOCKOUT = next(kind for kind in KINDS if kind.name == "knockout")


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
_KIND_WORDS = tuple((kind, re.compile(rf"(?i:{kind.words})|{kind.suffixes}")) for kind in KINDS)
TREATMENT = "treatment"
# other words for them, without a plural
_ADDED = dict.fromkeys(("compound", "chemical", "small_molecule", "ligand", "stimulation"), TREATMENT) | {
    "stimulu": "stimulus"
}
_PARENTHESES = re.compile(r"\s*\([^()]*\)$")
_CONTROL_GUIDE = re.compile(
    r"(?i)(?:sg[-_]?)?(?:non[-_ ]?(?:targeting|targetting|cutting)|ntc|neg[-_ ]?(?:ctrl|control)|intergenic|"
    r"safe[-_ ]?(?:harbou?r|target(?:ing)?)|aavs1|rosa26)(?:[-_ ]?\d+)?|sg[-_]?(?:ctrl|control|nt|lacz|e?gfp)"
)
_NO_GENE = frozenset({"ctrl", "control", "nt"})
_GUIDE_PART = re.compile(r"(?i)(?:sg|g|sgrna|grna|guide)?\d*|[\d.]+(?:-P\d(?:P\d)?)?|-")
_GUIDE = re.compile(r"sg[-_]?[A-Z]\S+|\S+[-_](?:sg|g|sgRNA|gRNA|guide)[-_]?\d*|\S+-P1P2|\S+\+ctrl|ctrl\+\S+")


@lru_cache(maxsize=10_000)
def kind_of(text: str) -> GeneticKind | None:
    """The way to change a gene that a word or two name, such as ``CRISPR-cas9``, ``KO`` or ``-/-``; else None."""
    return next((kind for kind, words in _KIND_WORDS if words.fullmatch(text.strip())), None)


@dataclass(frozen=True)
class AddedKind:
    """What is added to cells: a type of perturbation, or any of them (``treatment``)."""

    name: str

    def holds(self, found: PerturbationType) -> bool:
        """Whether a perturbation of this type is of the kind."""
        return found == self.name or (self.name == TREATMENT and found is not PerturbationType.GENETIC)


def read_kind(text: str) -> GeneticKind | AddedKind:
    """The kind of perturbation that a word means: ``CRISPR-cas9`` is a knockout, ``drugs`` are drugs.

    Raises:
        ConfigurationError: it means none.
    """
    if (kind := kind_of(text)) is not None:
        return kind
    word = re.sub(r"[\s-]+", "_", text.strip().casefold()).removesuffix("s")
    added = [TREATMENT, *(t.value for t in PerturbationType)]
    if (plain := _ADDED.get(word, word)) in added:
        return AddedKind(plain)
    raise ConfigurationError(
        f"{text!r} is no kind of perturbation; use one of {', '.join([*(k.name for k in KINDS), *added])}"
    )


def changes_gene(name: str) -> bool:
    """Whether a stored name ends with a way to change a gene, as ``KLF1+BAK1 knockout`` does, a guide aside."""
    return kind_of(_PARENTHESES.sub("", name).rpartition(" ")[2]) is not None


def is_guide(name: str) -> bool:
    """Whether a name is written as screens write guides: ``sgTNF``, ``TNF_sg1``, ``TNF+ctrl``."""
    return _GUIDE.fullmatch(name) is not None


def is_control_guide(name: str) -> bool:
    """Whether a name is one of guides without a target: ``non-targeting``, ``NTC``, ``AAVS1``, ``NegCtrl0``."""
    return _CONTROL_GUIDE.fullmatch(name) is not None


def guide_target(name: str, symbols: Callable[[], Container[str]] = known_symbols) -> str | None:
    """The one gene that a screen's name means: TNF for ``TNF``, ``sgTNF-2``, ``TNF_sg1`` and ``TNF+ctrl``.

    None where it means none or several, as ``KLF1+BAK1`` does.
    """
    if (parsed := parse_genetic(name, symbols)) is not None:
        return parsed[0]
    parts = [part for part in re.split(r"[\s+|;,_]+", name) if not _GUIDE_PART.fullmatch(part)]
    genes = [part for part in parts if not is_control_guide(part) and part.casefold() not in _NO_GENE]
    if len(set(genes)) != 1:
        return None
    plain = re.sub(r"^sg[-_]?(?=[A-Z])", "", genes[0])
    written = (genes[0], plain, re.sub(r"-\d+$", "", plain))
    return next((gene for text in written if (gene := _symbol(text, symbols())) is not None), None)


def parse_genetic(text: str, symbols: Callable[[], Container[str]] = known_symbols) -> tuple[str, GeneticKind] | None:
    """The gene and what is done to it, or None where the text is no such perturbation.

    Args:
        text: the whole name, nothing else around it.
        symbols: gives the human gene symbols that count; called only when a pattern fits.
    """
    name = " ".join(plain_signs(text).split())
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
    """An entry of the catalogue by name or synonym, else one made by the rules for genes, else None.

    What stands in parentheses behind a gene's perturbation, as the guide in ``TNF knockout (TNF_sg1)``, is left out.
    """
    return catalogue.resolve(text) or genetic(_PARENTHESES.sub("", text), catalogue)


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
        seen = {"up": "up", "down": "down"} if direction == kind.direction else {"up": "down", "down": "up"}
        votes.update((p.name, seen[p.direction]) for p in expected)
    needed = MIN_AGREEMENT * len(acting)
    best = sorted((key for key, count in votes.items() if count >= needed), key=lambda key: (-votes[key], key))
    return [{"name": name, "direction": direction} for name, direction in best[:MAX_PATHWAYS]]
