"""What the score is measured against: gene sets, footprints and functional neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from gca_core import io
from gca_core.knowledge.bundled.footprints import load_footprints
from gca_core.knowledge.bundled.gene_sets import COLLECTIONS, load_gene_sets

REFERENCE_COLLECTION = "hallmark"
NETWORK_COLLECTION = "reactome"


# one is told from another by identity, so that what was made of it can be kept
@dataclass(frozen=True, eq=False)
class GroundingKnowledge:
    """Gene sets and footprints, and which sets serve as background and as network.

    Attributes:
        gene_sets: all sets by name.
        reference: names of the sets that an expected set is compared with.
        network: names of the sets whose members count as functional neighbours.
        footprints: signed footprint genes by signalling pathway.
        version: a hash of the content.
    """

    gene_sets: Mapping[str, frozenset[str]]
    reference: tuple[str, ...]
    network: tuple[str, ...]
    footprints: Mapping[str, Mapping[str, float]]
    version: str

    def neighbours(self, genes: Sequence[str], max_set: int) -> frozenset[str]:
        """Genes that share a network set of at most ``max_set`` members with at least two of ``genes``.

        One shared gene is enough where only one is given. The given genes are not among them.
        """
        given = frozenset(genes)
        needed = min(2, len(given))
        found: set[str] = set()
        for name in self.network:
            members = self.gene_sets[name]
            if len(members) <= max_set and needed and len(members & given) >= needed:
                found |= members
        return frozenset(found - given)


@cache
def load_knowledge() -> GroundingKnowledge:
    """The bundled knowledge."""
    collections = {name: load_gene_sets(name) for name in COLLECTIONS}
    sets = {name: genes for collection in collections.values() for name, genes in collection.items()}
    footprints = load_footprints()
    content = {
        "sets": {name: sorted(genes) for name, genes in sets.items()},
        "footprints": {name: dict(genes) for name, genes in footprints.items()},
    }
    return GroundingKnowledge(
        gene_sets=sets,
        reference=tuple(collections[REFERENCE_COLLECTION]),
        network=tuple(collections[NETWORK_COLLECTION]),
        footprints=footprints,
        version=f"bundled-{io.content_hash(content)[:12]}",
    )
