"""What a tool asks for: targets of a drug, pathways of a gene, what a gene acts with, what a tissue is called.

Every answer comes from the bundled snapshot and is read once per process. The same questions put to public
services are in :mod:`gca_core.knowledge.online`.
"""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel

from gca_core.knowledge.bundled.catalogue import (
    Ambiguity,
    ExpectedGene,
    ExpectedPathway,
    PerturbationCatalogue,
    PerturbationType,
    load_catalogue,
)
from gca_core.knowledge.bundled.footprints import load_footprints
from gca_core.knowledge.bundled.gene_sets import GO_BP, load_gene_sets, set_ids, sets_of_gene
from gca_core.knowledge.bundled.genetic import resolve_perturbation
from gca_core.knowledge.bundled.interactions import LigandReceptor, Neighbour, load_interactions, pairs_of_gene

SNAPSHOT = "snapshot"
Collection = Literal["hallmark", "reactome", "go_bp", "progeny"]
T = TypeVar("T")


@dataclass(frozen=True)
class Lookup(Generic[T]):
    """An answer with where it comes from.

    Attributes:
        value: the answer.
        source: ``snapshot``, or the service that gave it.
        missing: services that were asked for and gave nothing, each with the reason: ``reactome: timed out``.
    """

    value: T
    source: str = SNAPSHOT
    missing: tuple[str, ...] = ()


class DrugTargets(BaseModel, frozen=True):
    """What a perturbation acts on, and what is expected of it.

    Args:
        name: the catalogue's name.
        family: what it is grouped with.
        targets: genes with their direction; receptors and direct targets first.
        ambiguity: what else the asked name may mean.
    """

    name: str
    type: PerturbationType
    family: str
    targets: tuple[ExpectedGene, ...]
    response: tuple[ExpectedGene, ...]
    pathways: tuple[ExpectedPathway, ...]
    footprints: tuple[ExpectedPathway, ...]
    evidence: str
    ambiguity: Ambiguity | None = None


class PathwayMembership(BaseModel, frozen=True):
    """A gene in a set.

    Args:
        name: of the set.
        collection: ``hallmark``, ``reactome``, ``go_bp`` or ``progeny``.
        identifier: stable id of the set; empty where there is none.
        size: how many genes it holds.
        weight: of a footprint gene, signed; None for plain sets.
    """

    name: str
    collection: Collection
    identifier: str = ""
    size: int
    weight: float | None = None


def drug_targets(name: str, catalogue: PerturbationCatalogue | None = None) -> DrugTargets | None:
    """Targets and expectations of a drug, cytokine or perturbation of a gene; None where the name is unknown."""
    known = catalogue or load_catalogue()
    entry = resolve_perturbation(name, known)
    if entry is None:
        return None
    shown = entry.model_dump(include={"name", "type", "family", "evidence"})
    return DrugTargets(
        **shown,
        targets=entry.targets,
        response=entry.response,
        pathways=entry.pathways,
        footprints=entry.footprints,
        ambiguity=known.ambiguity(name),
    )


def pathways_of(
    gene: str, collections: tuple[Collection, ...] = ("hallmark", "reactome", "progeny"), max_size: int | None = None
) -> tuple[PathwayMembership, ...]:
    """The sets that hold a gene, collection by collection, smallest set first.

    Args:
        gene: human symbol.
        collections: any of ``hallmark``, ``reactome``, ``go_bp`` and ``progeny``.
        max_size: leave out larger sets.
    """
    found: list[PathwayMembership] = []
    for collection in collections:
        found += _footprints_of(gene) if collection == "progeny" else _sets_of(gene, collection)
    return tuple(m for m in found if max_size is None or m.size <= max_size)


def neighbours(gene: str, limit: int | None = 25, string_path: str | None = None) -> tuple[Neighbour, ...]:
    """Genes that act together with ``gene``, strongest first.

    Args:
        gene: human symbol.
        limit: at most so many; None for all.
        string_path: a table of STRING links that the user downloaded.
    """
    return load_interactions(string_path).neighbours(gene, limit)


def ligand_receptors(gene: str) -> tuple[LigandReceptor, ...]:
    """The ligand-receptor pairs in which a gene takes part, on either side."""
    return pairs_of_gene().get(gene, ())


def _sets_of(gene: str, collection: Literal["hallmark", "reactome", "go_bp"]) -> list[PathwayMembership]:
    sets, ids = load_gene_sets(collection), {} if collection == GO_BP else set_ids(collection)
    return [
        PathwayMembership(
            name=name,
            collection=collection,
            identifier=name[name.rindex("(GO:") + 1 : -1] if collection == GO_BP else ids.get(name, ""),
            size=len(sets[name]),
        )
        for name in sets_of_gene(collection).get(gene, ())
    ]


def _footprints_of(gene: str) -> list[PathwayMembership]:
    return [
        PathwayMembership(name=name, collection="progeny", size=len(genes), weight=genes[gene])
        for name, genes in load_footprints().items()
        if gene in genes
    ]
