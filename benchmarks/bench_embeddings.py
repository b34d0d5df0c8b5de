"""From which similarity two names count as alike, measured for an embedding model on the names of the catalogue.

Run with ``python benchmarks/bench_embeddings.py``; the model is that of ``GCA_EMBEDDINGS``, by default the
deterministic one. The threshold lets through 0.5 % of the pairs of names from different families.
"""

from __future__ import annotations

import numpy as np

from gca_core.knowledge.bundled.catalogue import load_catalogue
from gca_core.llm.embeddings import open_embeddings, similarity_threshold


def main() -> None:
    embeddings, entries = open_embeddings(), list(load_catalogue().entries.values())
    names, families = [e.name for e in entries], [e.family for e in entries]
    vectors, labels = np.asarray(embeddings.embed_documents(names)), np.asarray(families)
    first, second = np.triu_indices(len(names), k=1)
    similar = np.einsum("ij,ij->i", vectors[first], vectors[second])
    related = labels[first] == labels[second]
    measured = float(np.quantile(similar[~related], 0.995))
    threshold = similarity_threshold(embeddings.model)
    print(f"{embeddings.model}: {len(names)} names")
    print(f"measured: 99.5 % of pairs from different families stay below {measured:.3f}")
    print(f"in use:   {'none, it is measured when it is needed' if threshold is None else threshold}")
    cut = measured if threshold is None else threshold
    spelled = [(s, e.name) for e in entries for s in e.synonyms[:2]]
    synonyms = np.asarray(embeddings.embed_documents([s for s, _ in spelled]))
    own = np.array([synonyms[i] @ vectors[names.index(name)] for i, (_, name) in enumerate(spelled)])
    print(f"names and their own synonyms that reach it: {np.mean(own >= cut):.2f} of {len(own)}")
    print(f"pairs of one family that reach it:          {np.mean(similar[related] >= cut):.2f} of {related.sum()}")
    print(f"pairs of different families that reach it:  {np.mean(similar[~related] >= cut):.4f} of {(~related).sum()}")


if __name__ == "__main__":
    main()
