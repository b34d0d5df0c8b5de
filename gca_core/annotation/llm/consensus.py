"""What several models agree on, judged on the Cell Ontology."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from gca_core.knowledge.bundled.ontology import CellOntology


@dataclass(frozen=True)
class Vote:
    """One model's label for a cluster, with its Cell Ontology id where it has one."""

    model: str
    label: str
    term: str | None


@dataclass(frozen=True)
class Consensus:
    """Where the votes lead.

    Attributes:
        term: None where no vote has a term.
        support: votes for the term or something below it.
        agreed: whether these are more than half.
    """

    term: str | None
    support: int
    agreed: bool


def find_consensus(votes: Sequence[Vote], ontology: CellOntology, score: Callable[[str], float]) -> Consensus:
    """The most specific term that more than half of the votes are, or lie below.

    Candidates are the voted terms and the parents that two of them share directly. Without a majority, the voted
    term with the best evidence is given, as not agreed.

    Args:
        votes: one or more.
        score: evidence for a term, higher is better.
    """
    terms = [vote.term for vote in votes if vote.term is not None]
    if not terms:
        return Consensus(None, 0, agreed=False)
    candidates = set(terms) | {
        p for a, b in combinations(sorted(set(terms)), 2) for p in _shared_parents(a, b, ontology)
    }
    support = {c: sum(ontology.is_a(term, c) for term in terms) for c in candidates}
    majority = [c for c in candidates if 2 * support[c] > len(votes)]
    if majority:
        best = min(majority, key=lambda c: (-len(ontology.ancestors(c)), -support[c], -score(c), c))
        return Consensus(best, support[best], agreed=True)
    best = min(set(terms), key=lambda c: (-score(c), c))
    return Consensus(best, support[best], agreed=False)


def _shared_parents(a: str, b: str, ontology: CellOntology) -> set[str]:
    above_a, above_b = ontology.ancestors(a), ontology.ancestors(b)
    return {parent for parent, steps in above_a.items() if steps == 1 and above_b.get(parent) == 1}
