"""Genes of gene programs that any cell can run: the answer to interferon, division, growth, stress and respiration.

They say what a cell does, not what it is. The sets are the bundled Hallmark ones (CC BY 4.0, Liberzon A et al.,
Cell Systems 2015;1:417), and one of Reactome (CC0) for the heat shock that taking tissue apart causes.
"""

import functools

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
