"""Genes of gene programs that any cell can run: the answer to interferon, division, growth, stress and respiration.

They say what a cell does, not what it is. The sets are the bundled Hallmark ones (CC BY 4.0, Liberzon A et al.,
Cell Systems 2015;1:417), and one of Reactome (CC0) for the heat shock that taking tissue apart causes.
"""

import functools
import re
from collections.abc import Iterable

from gca_core.knowledge.bundled.gene_sets import load_gene_sets

RESPONSE = ("HALLMARK_INTERFERON_ALPHA_RESPONSE", "HALLMARK_INTERFERON_GAMMA_RESPONSE")
GROWTH = ("HALLMARK_MYC_TARGETS_V1", "HALLMARK_MYC_TARGETS_V2")
STRESS = ("HALLMARK_UNFOLDED_PROTEIN_RESPONSE",)
HEAT_SHOCK = "Cellular response to heat stress"
RESPIRATION = ("HALLMARK_OXIDATIVE_PHOSPHORYLATION",)
DIVISION = ("HALLMARK_E2F_TARGETS", "HALLMARK_G2M_CHECKPOINT", "HALLMARK_MITOTIC_SPINDLE")


@functools.cache
def gene_program_genes() -> frozenset[str]:
    """Human symbols of all genes that belong to one of the gene programs."""
    sets = load_gene_sets("hallmark")
    named = RESPONSE + GROWTH + STRESS + RESPIRATION + DIVISION[:2]
    return frozenset(load_gene_sets("reactome")[HEAT_SHOCK]).union(*(sets[name] for name in named))


@functools.cache
def division_genes() -> frozenset[str]:
    """Human symbols of genes that two of the sets on cell division name: those that mark little else."""
    sets = load_gene_sets("hallmark")
    found = [frozenset(sets[name]) for name in DIVISION]
    return frozenset().union(*(a & b for i, a in enumerate(found) for b in found[i + 1 :]))


_TOGETHER = (
    re.compile(r"HLA-D.*|H2-(A|E)[AB]\d?|CD74"),
    re.compile(r"IG[HKL](?!MBP|ON).*|JCHAIN|MZB1"),
    re.compile(r"M?RP[LS]\d.*|RPLP\d|RPSA"),
)


def genes_that_go_together(genes: Iterable[str]) -> tuple[frozenset[str], ...]:
    """Those of ``genes``, by any species' symbols, that are on or off as one: a single piece of evidence.

    HLA class II, immunoglobulins, ribosomal proteins, and the programs of division, interferon and heat shock.
    """
    sets = load_gene_sets("hallmark")
    programs = (division_genes(), frozenset(sets[RESPONSE[0]]), frozenset(load_gene_sets("reactome")[HEAT_SHOCK]))
    known, taken = list(genes), set[str]()
    found = []
    patterns = [frozenset(g for g in known if pattern.fullmatch(g.upper())) for pattern in _TOGETHER]
    for named in (*patterns, *(frozenset(g for g in known if g.upper() in program) for program in programs)):
        group = named - taken
        taken |= group
        found.append(group)
    return tuple(found)
