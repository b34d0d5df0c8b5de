"""Do the strategies find the perturbation that acts most alike, when the asked one is not in the atlas?

Run with ``python benchmarks/bench_prompts.py``; it reads GCA_BENCH_DATA (default ../shared/data) and skips,
saying so, where that is absent. The atlas is made of real PBMC controls (Kang et al. 2018) to which the measured
responses to 22 cytokines (CytoSig) are applied, one group per cytokine and cell type. Each cytokine is asked for in
turn with its own groups withheld; the truth, the Pearson correlation of the measured responses, is opened after the
prompts are ranked.

A percentile of 1 means that the best of the 21 others was taken, 0.5 is chance. A strategy that finds nothing counts
as chance, and so does a cytokine without relatives in the family table. The catalogue is read and hashed before the
signatures are; nothing of it, or of the weights, was chosen by what comes out here.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from haystack_data import CONTROL, cytokine_cells, cytokine_signatures, measured

from gca_core import io
from gca_core.atlas import Atlas, IngestConfig, open_atlas
from gca_core.atlas.ingest import ingest
from gca_core.atlas.ingest.names import NameResolver
from gca_core.atlas.models import CellGroup
from gca_core.config import Settings, load_settings
from gca_core.errors import CellRetrievalError
from gca_core.haystack.context import HaystackContext, open_context
from gca_core.haystack.models import IterationConfig, PromptCandidate, Strategy, StructuredQuery
from gca_core.haystack.prompts.ranking import make_candidates, rank_candidates
from gca_core.haystack.prompts.strategies import make_candidate_pool, run_strategies
from gca_core.haystack.question.rules import parse_question
from gca_core.knowledge.bundled.catalogue import PerturbationCatalogue, load_catalogue
from gca_core.matrix.compare import pearson
from gca_core.store import embedded

SEED, PERMUTATIONS, RESAMPLES = 0, 20, 10_000
DATASET, TARGET = "cytokines", "CD14+ monocytes"
# which cytokines a textbook puts together: by structure and receptor, without the catalogue
FAMILIES = {
    "TGF-beta superfamily": ("BMP2", "BMP4", "BMP6", "TGFB1"),
    "TNF superfamily": ("CD40L", "TNFA"),
    "receptor tyrosine kinase ligands": ("EGF", "FGF2", "HGF", "VEGFA"),
    "beta-common chain": ("GMCSF", "IL3"),
    "granulocyte growth": ("GCSF",),
    "common gamma chain": ("IL2", "IL4", "IL21", "IL13"),
    "interleukin 6 family": ("OSM",),
    "interleukin 10 family": ("IL10",),
    "interleukin 1 family": ("IL1A",),
    "interleukin 17 family": ("IL17A",),
    "interferons": ("IFNG",),
}
Array = npt.NDArray[np.float64]


class WithheldAtlas(Atlas):
    """An atlas that does not show the groups of one perturbation."""

    def __init__(self, atlas: Atlas, withheld: str) -> None:
        super().__init__(atlas.dsn, atlas.store_root_uri)
        self._withheld = withheld

    def perturbations(self, dataset: str | None = None) -> list[str]:
        return [name for name in super().perturbations(dataset) if name != self._withheld]

    def groups(self, **conditions: object) -> list[CellGroup]:  # type: ignore[override]
        return [g for g in super().groups(**conditions) if g.perturbation != self._withheld]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Truth:
    """Measured responses by the catalogue's names, and how alike they are."""

    names: tuple[str, ...]
    responses: Mapping[str, Array]

    def likeness(self, asked: str, response: Array) -> float:
        """Pearson of a response with the asked one's."""
        return pearson(response, self.responses[asked])

    def best(self, asked: str) -> float:
        """The highest likeness that any other cytokine has."""
        return max(self.likeness(asked, self.responses[name]) for name in self.names if name != asked)

    def percentile(self, asked: str, response: Array) -> float:
        """The share of the other cytokines whose response is less like the asked one's; ties count half.

        One that is ``response`` itself is left out of the others.
        """
        own = self.likeness(asked, response)
        others = np.array([self.likeness(asked, self.responses[n]) for n in self.names if n != asked])
        same = np.isclose(others, own)
        itself = int(same.any())
        less = np.sum((others < own) & ~same) + 0.5 * (same.sum() - itself)
        return float(less / (len(others) - itself))

    def response_of(self, candidate: PromptCandidate, groups: Mapping[str, str]) -> Array:
        """A prompt's mean response, weighted as the prediction weighs it."""
        vectors = [self.responses[groups[group]] for group in candidate.cell_group_ids]
        return np.asarray(np.average(vectors, axis=0, weights=candidate.weights))

    def of_candidate(self, asked: str, candidate: PromptCandidate, groups: Mapping[str, str]) -> float:
        """The percentile of a prompt's mean response."""
        return self.percentile(asked, self.response_of(candidate, groups))


def take_in(path: Path, settings: Settings, context: HaystackContext) -> None:
    config = IngestConfig(
        input_uri=str(path), dataset=DATASET, perturbation_column="perturbation", control_value=CONTROL,
        cell_type_column="cell_type", cell_type_id_column="cell_type_id",
    )  # fmt: skip
    resolver = NameResolver(context.ontology.resolve, label_cell_type=context.ontology.label)
    admin = open_atlas(settings, role="admin")
    ingest(config, admin, embed=context.embed, resolver=resolver, embedding_model=context.embedding_model)


def propose(query: StructuredQuery, context: HaystackContext) -> dict[str, list[PromptCandidate]]:
    """The prompts of each strategy in its own order, and the ranked list; empty where nothing is found."""
    config = IterationConfig()
    try:
        pool = make_candidate_pool(query, config, context)
    except CellRetrievalError:
        return {name: [] for name in (*Strategy, "ranked")}
    drafts = run_strategies(pool, config)
    found: dict[str, list[PromptCandidate]] = {
        s.value: make_candidates([d for d in drafts if d.strategy is s], pool.query_groups, config) for s in Strategy
    }
    every = make_candidates(drafts, pool.query_groups, config)
    return found | {"ranked": rank_candidates(every, config.weights, len(every))}


def evaluate(context: HaystackContext, truth: Truth) -> pd.DataFrame:
    """Percentile of the first prompt per strategy and of the ranked list, one row per cytokine; NaN is no prompt."""
    atlas = context.require_atlas()
    groups = {g.group_id: g.perturbation for g in atlas.groups(dataset=DATASET, is_control=False)}
    rows = {}
    for name in truth.names:
        question = f"How would {TARGET} respond to {name}?"
        query = parse_question(question, ontology=context.ontology, catalogue=load_catalogue(), dataset=DATASET)
        found = propose(query, replace(context, atlas=WithheldAtlas(atlas, name)))
        row = {s: truth.of_candidate(name, c[0], groups) if c else np.nan for s, c in found.items()}
        each = [truth.of_candidate(name, candidate, groups) for candidate in found["ranked"]]
        row["mean of the list"] = float(np.mean(each)) if each else np.nan
        first = found["ranked"][0] if found["ranked"] else None
        row["first"] = " + ".join(first.perturbations) if first else "nothing acts alike"
        row["relevance"] = first.relevance if first else np.nan
        row["pearson"] = truth.likeness(name, truth.response_of(first, groups)) if first else np.nan
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def by_families(truth: Truth, columns: Mapping[str, str]) -> pd.Series:
    """The mean percentile of the members of the same family; NaN where there is none."""
    values = {}
    for members in FAMILIES.values():
        for member in members:
            others = [columns[m] for m in members if m != member]
            found = [truth.percentile(columns[member], truth.responses[o]) for o in others]
            values[columns[member]] = float(np.mean(found)) if found else np.nan
    return pd.Series(values).reindex(truth.names)


def permuted(catalogue: PerturbationCatalogue, names: Sequence[str], rng: np.random.Generator) -> PerturbationCatalogue:
    """The catalogue in which what is known of the cytokines of the atlas is dealt out anew."""
    dealt = dict(zip(names, rng.permutation(list(names)), strict=True))
    kept = ("name", "synonyms", "ligands")
    entries = [
        catalogue.entries[dealt[e.name]].model_copy(update={field: getattr(e, field) for field in kept})
        if e.name in dealt
        else e
        for e in catalogue.entries.values()
    ]
    return PerturbationCatalogue(entries, version="permuted")


def interval(values: Array, rng: np.random.Generator) -> str:
    """Mean and the 95 % interval of a bootstrap over cytokines."""
    picks = rng.integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), (0.025, 0.975))
    return f"{values.mean():6.3f} [{low:.3f}, {high:.3f}]"


def with_chance(values: pd.Series) -> Array:
    """No prompt counts as chance."""
    return values.astype(float).fillna(0.5).to_numpy()


def report(
    line: Callable[[str], None], table: pd.DataFrame, families: pd.Series, shuffled: Array, truth: Truth
) -> None:
    rng = np.random.default_rng(SEED)
    line(f"{'arm':<34}{'cytokines':>10}  mean percentile [95 % interval]")
    arms = [s for s in (*(s.value for s in Strategy), "ranked") if s in table and table[s].notna().any()]
    for arm in arms:
        label = "ranked list, first" if arm == "ranked" else f"{arm}, first"
        line(f"{label:<34}{table[arm].notna().sum():>10}  {interval(with_chance(table[arm]), rng)}")
    line(f"{'ranked list, mean of all':<34}{table['ranked'].notna().sum():>10}  "
         f"{interval(with_chance(table['mean of the list']), rng)}")  # fmt: skip
    line(f"{'family table':<34}{families.notna().sum():>10}  {interval(with_chance(families), rng)}")
    line(f"{'permuted catalogue, ranked, first':<34}{len(table):>10}  {interval(shuffled, rng)}")
    line(f"{'random':<34}{len(table):>10}   0.500")
    ahead = with_chance(table["ranked"]) - with_chance(families)
    line(f"ranked list minus family table, paired: {interval(ahead, rng)}")
    line(f"ranked list minus permuted, paired:     {interval(with_chance(table['ranked']) - shuffled, rng)}")
    both = families.notna() & table["ranked"].notna()
    mean = table["ranked"][both].astype(float).mean()
    line(f"on the {both.sum()} that both arms answer: ranked {mean:.3f}, family table {families[both].mean():.3f}")
    line("")
    line(
        f"{'cytokine':<26}{'ranked':>8}{'family':>8}{'likeness':>10}{'Pearson':>9}{'best':>6}  first of the ranked list"
    )
    for name, row in table.iterrows():
        line(
            f"{name!s:<26}{row['ranked']:>8.2f}{families[name]:>8.2f}{row['relevance']:>10.2f}{row['pearson']:>9.2f}"
            f"{truth.best(str(name)):>6.2f}  {row['first']}"
        )


def main() -> None:
    catalogue = load_catalogue()
    frozen = io.content_hash([entry.model_dump(mode="json") for entry in catalogue.entries.values()])
    print(f"catalogue {catalogue.version}, {len(catalogue)} entries, sha256 {frozen}")
    begun = time.monotonic()
    signatures = cytokine_signatures()
    cells = None if signatures is None else cytokine_cells(signatures)
    if signatures is None or cells is None:
        return
    columns = {
        column: str(entry.name)
        for column in (m for members in FAMILIES.values() for m in members)
        if (entry := catalogue.resolve(column))
    }
    truth = Truth(tuple(map(str, signatures)), {str(name): signatures[name].to_numpy() for name in signatures})
    with tempfile.TemporaryDirectory(prefix="gca-") as folder:
        settings = load_settings(home=Path(folder))
        try:
            context = open_context(settings)
            path = Path(folder) / "cytokines.h5ad"
            cells.write_h5ad(path)
            made = measured(cells)
            shown = np.mean(
                [
                    pearson(c, signatures.loc[made.genes, name])
                    for c, name in zip(made.change, made.obs["perturbation"], strict=True)
                ]
            )
            take_in(path, settings, context)
            print(f"atlas made in {time.monotonic() - begun:.0f} s; Pearson of made and measured response {shown:.2f}")
            table = evaluate(context, truth)
            rng = np.random.default_rng(SEED)
            dealt = [replace(context, catalogue=permuted(catalogue, truth.names, rng)) for _ in range(PERMUTATIONS)]
            shuffled = np.mean([with_chance(evaluate(each, truth)["ranked"]) for each in dealt], axis=0)
        finally:
            embedded.remove(Path(folder))
    report(print, table, by_families(truth, columns), shuffled, truth)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
