"""What the accuracy to expect of a prompt is learned from, and what choosing by it is worth on left-out pairs.

Run with ``python benchmarks/bench_selection.py``; data that isn't there is skipped (:mod:`haystack_data`).
"""

from __future__ import annotations

import haystack_data as data
import haystack_simulated as simulated
from bench_responses import pooled

from gca_core.haystack.context import open_knowledge
from gca_core.haystack.models import IterationConfig
from gca_core.haystack.reference import AtlasReference
from gca_core.haystack.selection import learn_selection
from gca_core.responses.left_out import Support
from gca_core.responses.reference import Reference

BOTH, ELSEWHERE, ALONGSIDE, NEITHER = (
    Support(True, True),
    Support(True, False),
    Support(False, True),
    Support(False, False),
)


def show(name: str, found: data.Measured | None, *supports: Support) -> None:
    if found is None:
        return
    reference, context = Reference(pooled(found)), open_knowledge()
    for support in supports:
        atlas = AtlasReference(reference, found.genes, (), {}, f"bench-{name}")
        learned = learn_selection(atlas, support, IterationConfig(), context)
        if learned is None:
            continue
        weights = ", ".join(f"{term} {weight:.2f}" for term, weight in learned.weights.items())
        score = "-" if learned.by_score is None else f"{learned.by_score:.3f}"
        print(
            f"| {name}, {support} | {learned.n_pairs}, {learned.n_prompts} | {weights} | {learned.chosen:.3f} "
            f"| {score} | {learned.best:.3f} | {learned.at_threshold} |",
            flush=True,
        )


def main() -> None:
    print("| data, what is left | pairs, prompts | weights | chosen | by score | best | Pearson at score 7 |")
    print("|---|---|---|---|---|---|---|")
    kang = data.kang_cells()
    show("Kang 2018", data.measured(kang) if kang is not None else None, ELSEWHERE)
    show("bundled", data.measured(data.bundled_cells()), ELSEWHERE)
    show("simulated", data.measured(simulated.World(simulated.MAIN).atlas()), BOTH, ALONGSIDE, NEITHER)
    show("79 drugs", data.drugs(), BOTH)


if __name__ == "__main__":
    main()
