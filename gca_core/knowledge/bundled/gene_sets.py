"""The bundled gene sets: MSigDB Hallmark, Reactome and GO biological process, as human gene symbols."""

import gzip
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import accumulate
from types import MappingProxyType

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.knowledge.bundled.files import reading
from gca_core.knowledge.bundled.footprints import load_footprints

COLLECTIONS = ("hallmark", "reactome")
GO_BP = "go_bp"


@cache
def load_gene_sets(collection: str) -> Mapping[str, frozenset[str]]:
    """Gene sets by name, in name order.

    Args:
        collection: ``hallmark`` (names such as ``HALLMARK_INTERFERON_ALPHA_RESPONSE``), ``reactome``
            (``Interferon alpha/beta signaling``) or ``go_bp`` (``response to type I interferon (GO:0034340)``).

    Raises:
        ConfigurationError: there is no such collection.
    """
    if collection == GO_BP:
        return load_go_bp()
    if collection not in COLLECTIONS:
        raise ConfigurationError(
            f"there is no gene-set collection {collection!r}; bundled are {', '.join((*COLLECTIONS, GO_BP))}"
        )
    sets: dict[str, frozenset[str]] = {}
    with reading(f"{collection}.tsv.gz") as (path,), gzip.open(path, "rt", encoding="utf-8") as source:
        for line in source:
            name, _, genes = line.rstrip("\n").split("\t")
            sets[name] = frozenset(genes.split())
    return MappingProxyType(sets)


def parse_gmt(text: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """Name and genes of each gene set in the text of a GMT file: a line of name, description and genes, apart by tabs.

    Raises:
        DataValidationError: a line has no genes; it is said as of the file ``name``.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        label, *fields = line.rstrip().split("\t")
        if genes := [gene for field in fields[1:] if (gene := field.strip())]:
            yield label.strip(), genes
        elif line.strip():
            raise DataValidationError(f"line {number} of {name!r} has no genes; expected name, description, genes")


@cache
def load_go_bp() -> Mapping[str, frozenset[str]]:
    """GO biological processes of 5 to 500 human genes, annotations propagated to parents, by name.

    The names carry their id, as in ``response to type I interferon (GO:0034340)``. The file holds the genes
    once, and per set a line of name and member places; each place after the first is the gap to the one before.
    """
    with reading("go_bp.tsv.gz") as (path,), gzip.open(path, "rt", encoding="utf-8") as source:
        genes = source.readline().split()
        sets = {}
        for line in source:
            name, gaps = line.rstrip("\n").split("\t")
            sets[name] = frozenset(map(genes.__getitem__, accumulate(map(int, gaps.split()))))
    return MappingProxyType(sets)


@cache
def set_ids(collection: str) -> Mapping[str, str]:
    """The stable id of each set by name; sets without one are absent."""
    if collection == GO_BP:
        return MappingProxyType({name: name[name.rindex("(GO:") + 1 : -1] for name in load_go_bp()})
    load_gene_sets(collection)
    with reading(f"{collection}.tsv.gz") as (path,), gzip.open(path, "rt", encoding="utf-8") as source:
        rows = [line.split("\t", 2)[:2] for line in source]
    return MappingProxyType({name: identifier for name, identifier in rows if identifier})


def find_gene_set(name: str) -> frozenset[str] | None:
    """The genes of a set of Hallmark or Reactome, else of GO where the name carries a GO id, else None."""
    for collection in COLLECTIONS:
        if (genes := load_gene_sets(collection).get(name)) is not None:
            return genes
    return load_go_bp().get(name) if "(GO:" in name else None


@cache
def sets_of_gene(collection: str) -> Mapping[str, tuple[str, ...]]:
    """Gene to the names of the sets that hold it, smallest set first."""
    sets = load_gene_sets(collection)
    found: dict[str, list[str]] = {}
    for name in sorted(sets, key=lambda n: (len(sets[n]), n)):
        for gene in sets[name]:
            found.setdefault(gene, []).append(name)
    return MappingProxyType({gene: tuple(names) for gene, names in found.items()})


@cache
def known_symbols() -> frozenset[str]:
    """Every human gene symbol that a bundled gene set or footprint holds."""
    with reading("go_bp.tsv.gz") as (path,), gzip.open(path, "rt", encoding="utf-8") as source:
        of_go = source.readline().split()
    sets = (genes for collection in COLLECTIONS for genes in load_gene_sets(collection).values())
    return frozenset(of_go).union(*sets, *load_footprints().values())
