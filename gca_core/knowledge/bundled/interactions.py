"""Which genes act together: ligands with receptors, and genes that share a small pathway.

The pairs are CellPhoneDB's. Functional neighbours come from Reactome sets of at most ``MAX_SET`` genes and from
those pairs; STRING joins in when a user has downloaded it and says where it is.
"""

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel

from gca_core import io
from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.files import reading
from gca_core.knowledge.bundled.gene_sets import load_gene_sets

NETWORK_COLLECTION = "reactome"
MAX_SET = 50
PAIR_WEIGHT = 1.0
MIN_STRING_SCORE = 400.0
_STRING_COLUMNS = (("a", "b"), ("preferredName_A", "preferredName_B"), ("protein1", "protein2"), ("gene1", "gene2"))
_SCORE_COLUMNS = ("combined_score", "score")


class LigandReceptor(BaseModel, frozen=True):
    """A ligand and its receptor, each as the genes of its subunits."""

    ligand: tuple[str, ...]
    receptor: tuple[str, ...]


class Neighbour(BaseModel, frozen=True):
    """A gene that acts together with another.

    Args:
        gene: its symbol.
        weight: the sum over what the two share: 1/(n - 1) for a set of n genes, 1 for a ligand-receptor pair,
            and the score of STRING from 0 to 1.
        evidence: what they share, best first.
    """

    gene: str
    weight: float
    evidence: tuple[str, ...]


class InteractionGraph:
    """Functional neighbours, found gene by gene.

    Args:
        sets: small gene sets by name; larger ones than ``max_set`` are left out.
        pairs: ligands with receptors.
        links: further weighted links, such as STRING's, as gene to gene to weight.
        max_set: largest set whose members count as neighbours.
    """

    def __init__(
        self,
        sets: Mapping[str, frozenset[str]],
        pairs: Iterable[LigandReceptor] = (),
        links: Mapping[str, Mapping[str, float]] | None = None,
        *,
        max_set: int = MAX_SET,
    ) -> None:
        self._sets = {name: genes for name, genes in sets.items() if 2 <= len(genes) <= max_set}
        self._of_gene: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self._sets, key=lambda n: (len(self._sets[n]), n)):
            for gene in self._sets[name]:
                self._of_gene[gene].append(name)
        self._bound: dict[str, set[str]] = defaultdict(set)
        for pair in pairs:
            for ligand in pair.ligand:
                self._bound[ligand].update(pair.receptor)
            for receptor in pair.receptor:
                self._bound[receptor].update(pair.ligand)
        self._links = links or {}

    def neighbours(self, gene: str, limit: int | None = None) -> tuple[Neighbour, ...]:
        """Genes that act together with ``gene``, strongest first, then by name; O(members of its sets)."""
        weights: dict[str, float] = defaultdict(float)
        evidence: dict[str, list[str]] = defaultdict(list)

        def add(other: str, weight: float, reason: str) -> None:
            if other != gene:
                weights[other] += weight
                evidence[other].append(reason)

        for other in sorted(self._bound.get(gene, ())):
            add(other, PAIR_WEIGHT, "ligand-receptor")
        for other, score in self._links.get(gene, {}).items():
            add(other, score, "STRING")
        for name in self._of_gene.get(gene, ()):
            members = self._sets[name]
            for other in members:
                add(other, 1.0 / (len(members) - 1), name)
        ordered = sorted(weights, key=lambda other: (-weights[other], other))[:limit]
        return tuple(Neighbour(gene=g, weight=round(weights[g], 4), evidence=tuple(evidence[g])) for g in ordered)

    def shared(self, a: str, b: str) -> Neighbour | None:
        """``b`` as a neighbour of ``a``, or None where nothing links them."""
        return next((neighbour for neighbour in self.neighbours(a) if neighbour.gene == b), None)


@cache
def load_ligand_receptors() -> tuple[LigandReceptor, ...]:
    """The bundled pairs, by ligand and receptor."""
    with reading("ligand_receptor.tsv.gz") as (path,), gzip.open(path, "rt", encoding="utf-8") as source:
        rows = [line.rstrip("\n").split("\t") for line in source]
        return tuple(LigandReceptor(ligand=tuple(a.split("_")), receptor=tuple(b.split("_"))) for a, b in rows)


@cache
def pairs_of_gene() -> Mapping[str, tuple[LigandReceptor, ...]]:
    """Gene to the pairs in which it is a subunit of the ligand or of the receptor."""
    found: dict[str, list[LigandReceptor]] = defaultdict(list)
    for pair in load_ligand_receptors():
        for gene in dict.fromkeys((*pair.ligand, *pair.receptor)):
            found[gene].append(pair)
    return MappingProxyType({gene: tuple(pairs) for gene, pairs in found.items()})


@cache
def load_interactions(string_path: str | None = None) -> InteractionGraph:
    """The bundled graph, with STRING where its file is given.

    Raises:
        DataValidationError: the file is not a table of STRING links by gene symbol.
    """
    links = read_string(Path(string_path)) if string_path else None
    return InteractionGraph(load_gene_sets(NETWORK_COLLECTION), load_ligand_receptors(), links)


def read_string(path: Path) -> Mapping[str, Mapping[str, float]]:
    """STRING links as gene to gene to weight, from a table that a user downloaded; gzip is fine.

    The columns are ``a`` and ``b``, ``preferredName_A`` and ``preferredName_B``, or ``protein1`` and ``protein2``
    with gene symbols in them, apart by tabs, spaces or commas. Scores above 1 are per mille, and links below
    400 are left out; without a score column every link weighs 1.

    Raises:
        DataValidationError: there is no such file, or it has other columns, or protein ids instead of symbols.
    """
    io.require_file(path, what="STRING table")
    opener = gzip.open if path.suffix == ".gz" else open
    links: dict[str, dict[str, float]] = defaultdict(dict)
    with opener(path, "rt", encoding="utf-8") as source:
        header = source.readline().rstrip("\n").lstrip("#")
        delimiter = next((d for d in ("\t", ",", " ") if d in header), "\t")
        names = [name.strip().strip('"') for name in header.split(delimiter)]
        first, second, score = _columns(path, names)
        for row in csv.reader(source, delimiter=delimiter):
            a, b = row[first], row[second]
            if a.startswith("9606.ENSP"):
                raise DataValidationError(
                    f"{path.name} holds protein ids such as {a!r}; download the links with gene names"
                )
            weight = _score(row[score]) if score is not None else 1.0
            if weight is not None:
                links[a][b] = links[b][a] = weight
    if not links:
        raise DataValidationError(f"{path.name} holds no link; expected one pair of gene symbols in a line")
    return MappingProxyType(links)


def _columns(path: Path, names: list[str]) -> tuple[int, int, int | None]:
    for a, b in _STRING_COLUMNS:
        if a in names and b in names:
            score = next((names.index(name) for name in _SCORE_COLUMNS if name in names), None)
            return names.index(a), names.index(b), score
    raise DataValidationError(
        f"{path.name} has the columns {', '.join(names)}; expected one of "
        + "; ".join(f"{a} and {b}" for a, b in _STRING_COLUMNS)
    )


def _score(text: str) -> float | None:
    """A weight of 0 to 1, or None where STRING itself calls the link less than medium."""
    value = float(text)
    per_mille = value if value > 1 else value * 1000
    return per_mille / 1000 if per_mille >= MIN_STRING_SCORE else None
