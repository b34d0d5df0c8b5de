"""The bundled gene sets: MSigDB Hallmark and Reactome pathways, as human gene symbols."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from gca_core.errors import ConfigurationError

DATA = Path(__file__).parent / "data"
COLLECTIONS = ("hallmark", "reactome")


@cache
def load_gene_sets(collection: str) -> Mapping[str, frozenset[str]]:
    """Gene sets by name, in name order.

    Args:
        collection: ``hallmark`` (names such as ``HALLMARK_INTERFERON_ALPHA_RESPONSE``) or ``reactome``
            (names such as ``Interferon alpha/beta signaling``).

    Raises:
        ConfigurationError: there is no such collection.
    """
    if collection not in COLLECTIONS:
        raise ConfigurationError(
            f"there is no gene-set collection {collection!r}; bundled are {', '.join(COLLECTIONS)}"
        )
    sets: dict[str, frozenset[str]] = {}
    with gzip.open(DATA / f"{collection}.tsv.gz", "rt", encoding="utf-8") as source:
        for line in source:
            name, _, genes = line.rstrip("\n").split("\t")
            sets[name] = frozenset(genes.split())
    return MappingProxyType(sets)


def find_gene_set(name: str) -> frozenset[str] | None:
    """The genes of a set of any collection, or None."""
    for collection in COLLECTIONS:
        if (genes := load_gene_sets(collection).get(name)) is not None:
            return genes
    return None
