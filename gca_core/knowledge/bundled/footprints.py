"""PROGENy footprints: genes that respond to a signalling pathway, with signed weights."""

import gzip
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from gca_core.knowledge.bundled.files import reading


@cache
def load_footprints() -> Mapping[str, Mapping[str, float]]:
    """Pathway (such as ``JAK-STAT``) to gene to weight; a positive weight rises with activity.

    Source: Schubert et al., Nature Communications 2018; the 200 genes with the smallest p-value per pathway.
    """
    footprints: dict[str, dict[str, float]] = {}
    with reading("progeny.tsv.gz") as (path,), gzip.open(path, "rt", encoding="utf-8") as source:
        for line in source:
            pathway, gene, weight = line.rstrip("\n").split("\t")
            footprints.setdefault(pathway, {})[gene] = float(weight)
    return MappingProxyType({pathway: MappingProxyType(genes) for pathway, genes in footprints.items()})
