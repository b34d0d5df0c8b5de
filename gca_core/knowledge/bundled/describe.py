"""Everything that a word may mean to the snapshot, side by side."""

from collections import Counter

from pydantic import BaseModel

from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.catalogue import Ambiguity, ExpectedGene, load_catalogue
from gca_core.knowledge.bundled.footprints import load_footprints
from gca_core.knowledge.bundled.gene_sets import COLLECTIONS, GO_BP, find_gene_set, known_symbols, load_gene_sets
from gca_core.knowledge.bundled.interactions import LigandReceptor, Neighbour, load_ligand_receptors
from gca_core.knowledge.bundled.lookups import (
    DrugTargets,
    PathwayMembership,
    drug_targets,
    ligand_receptors,
    pathways_of,
)
from gca_core.knowledge.bundled.lookups import neighbours as neighbours_of
from gca_core.knowledge.bundled.ontology import load_ontology
from gca_core.knowledge.bundled.snapshot import SnapshotPart, snapshot_parts, snapshot_version
from gca_core.knowledge.bundled.tissues import load_tissues

MAX_LISTED = 10


class Term(BaseModel, frozen=True):
    """A term of an ontology with the labels from the root to it, where the ontology gives them."""

    identifier: str
    label: str
    lineage: tuple[str, ...] = ()


class GeneFacts(BaseModel, frozen=True):
    """What the snapshot holds of a gene.

    Args:
        acted_on_by: entries of the catalogue that act on it, as ``gene`` the entry's name, with the direction.
    """

    symbol: str
    pathways: tuple[PathwayMembership, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    pairs: tuple[LigandReceptor, ...] = ()
    acted_on_by: tuple[ExpectedGene, ...] = ()


class Description(BaseModel, frozen=True):
    """What a text means; parts that it doesn't mean are None."""

    text: str
    perturbation: DrugTargets | None = None
    ambiguity: Ambiguity | None = None
    gene: GeneFacts | None = None
    cell_type: Term | None = None
    tissue: Term | None = None
    gene_set: tuple[str, ...] | None = None


class SnapshotStatus(BaseModel, frozen=True):
    """The snapshot's parts and how much they hold."""

    version: str
    parts: tuple[SnapshotPart, ...]
    counts: dict[str, int]


def describe(text: str, limit: int = MAX_LISTED) -> Description:
    """Everything that a text may mean.

    Args:
        text: a perturbation, gene, cell type, tissue or gene set.
        limit: at most so many pathways, neighbours and pairs of a gene.

    Raises:
        DataValidationError: it means nothing here; the message says what looks like it.
    """
    catalogue, members = load_catalogue(), find_gene_set(text)
    found = Description(
        text=text,
        perturbation=drug_targets(text, catalogue),
        ambiguity=catalogue.ambiguity(text),
        gene=_gene(text, limit),
        cell_type=_cell_type(text),
        tissue=_tissue(text),
        gene_set=None if members is None else tuple(sorted(members)),
    )
    if not any(value for name, value in found if name != "text"):
        near = [*catalogue.suggest(text), *load_ontology().suggest(text)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise DataValidationError(f"{text!r} is no perturbation, gene, cell type, tissue or gene set here{hint}")
    return found


def snapshot_status() -> SnapshotStatus:
    """The snapshot's parts, with what each collection holds."""
    catalogue = load_catalogue()
    types = Counter(entry.type.value for entry in catalogue.entries.values())
    counts = {f"perturbations: {kind}": count for kind, count in sorted(types.items())}
    counts["perturbations in all"] = len(catalogue)
    counts["names and synonyms"] = len(catalogue.keys)
    counts["ambiguous names"] = len(catalogue.ambiguities)
    counts["cell types"] = len(load_ontology())
    counts["tissues"] = len(load_tissues())
    counts |= {f"gene sets: {name}": len(load_gene_sets(name)) for name in (*COLLECTIONS, GO_BP)}
    counts["footprints"] = len(load_footprints())
    counts["ligand-receptor pairs"] = len(load_ligand_receptors())
    return SnapshotStatus(version=snapshot_version(), parts=snapshot_parts(), counts=counts)


def _gene(text: str, limit: int) -> GeneFacts | None:
    symbol = next((s for s in (text.strip(), text.strip().upper()) if s in known_symbols()), None)
    if symbol is None:
        return None
    acting = load_catalogue().acting_on(symbol)
    return GeneFacts(
        symbol=symbol,
        pathways=pathways_of(symbol)[:limit],
        neighbours=neighbours_of(symbol, limit),
        pairs=ligand_receptors(symbol)[:limit],
        acted_on_by=tuple(ExpectedGene(gene=entry.name, direction=direction) for entry, direction in acting),
    )


def _cell_type(text: str) -> Term | None:
    ontology = load_ontology()
    identifier = ontology.resolve(text)
    if identifier is None:
        return None
    lineage = tuple(ontology.label(i) for i in ontology.lineage(identifier))
    return Term(identifier=identifier, label=ontology.label(identifier), lineage=lineage)


def _tissue(text: str) -> Term | None:
    tissues = load_tissues()
    identifier = tissues.resolve(text)
    return None if identifier is None else Term(identifier=identifier, label=tissues.label(identifier))
