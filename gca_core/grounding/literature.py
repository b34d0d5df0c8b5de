"""What publications say of the strongest genes of a prediction, by counts of PubMed.

Nothing is asked unless a person switched PubMed on in ``GCA_ONLINE_SOURCES``; then symbols of genes and the names of
the perturbation and the cell type leave the machine, and answers are kept by the client's cache.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gca_core.grounding.models import GeneEvidence, Literature
from gca_core.knowledge.bundled.catalogue import Direction
from gca_core.knowledge.online.lookups import OnlineKnowledge, ask, shared_online
from gca_core.knowledge.online.settings import Source

OFF = "PubMed is not switched on in GCA_ONLINE_SOURCES"
MAX_NAMES = 4
_NEAR = 5
_SAID: dict[Direction, tuple[str, ...]] = {
    "up": ("induced", "induction", "upregulated", "increased"),
    "down": ("suppressed", "suppression", "downregulated", "decreased", "reduced"),
}
_UNSAFE = re.compile(r"[^\w\s+.,/()'-]")


def search_literature(
    genes: Sequence[tuple[str, Direction]],
    perturbation: Sequence[str],
    cell_type: str,
    online: OnlineKnowledge | None = None,
) -> Literature:
    """Ask PubMed about each gene; unknown where it is off, fails, or the perturbation is not one of the catalogue.

    Args:
        genes: symbols with their predicted direction.
        perturbation: its name and synonyms; the first few are searched.
        cell_type: its name.
        online: the process's own where None.
    """
    online = online or shared_online()
    if Source.PUBMED not in online.settings.online_sources:
        return Literature(reason=OFF)
    if not perturbation:
        return Literature(reason="the perturbation is not in the catalogue, and names of the atlas alone are not sent")
    if not genes:
        return Literature(reason="no gene is differentially expressed")
    found = []
    answers, cached = online.answers(Source.PUBMED)
    agent = _any(perturbation[:MAX_NAMES])
    for gene, direction in genes:
        both = f"{_quoted(gene)} AND {agent}"
        opposite: Direction = "down" if direction == "up" else "up"
        counts: dict[str, int] = {}
        queries = {
            "publications": both,
            "in_cell_type": f"{both} AND {_any([cell_type])}",
            "supporting": f"{agent} AND {_near(gene, direction)}",
            "contradicting": f"{agent} AND {_near(gene, opposite)}",
        }
        for field, query in queries.items():
            answer = ask(online.literature(query, 0))
            if answer.value is None:
                return Literature(reason=f"PubMed did not answer: {'; '.join(answer.missing)}")
            counts[field] = answer.value.count
            if not counts["publications"]:
                break
        found.append(GeneEvidence(gene=gene, direction=direction, **counts))
    told = any(evidence.publications for evidence in found)
    reason = "" if told else f"PubMed names none of {len(found)} genes with the perturbation"
    now, now_cached = online.answers(Source.PUBMED)
    return Literature(evidence=tuple(found), reason=reason, answers=now - answers, answers_cached=now_cached - cached)


def _any(names: Sequence[str]) -> str:
    return f"({' OR '.join(map(_quoted, names))})"


def _near(gene: str, direction: Direction) -> str:
    """The gene within a few words of one that says where it goes."""
    phrases = (f'"{_plain(gene)} {word}"[Title/Abstract:~{_NEAR}]' for word in _SAID[direction])
    return f"({' OR '.join(phrases)})"


def _quoted(text: str) -> str:
    return f'"{_plain(text)}"[Title/Abstract]'


def _plain(text: str) -> str:
    """Names as words: nothing in them is an operator or a field of PubMed."""
    return " ".join(_UNSAFE.sub(" ", text).split())
