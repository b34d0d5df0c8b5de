"""Which cells prompt best, and whether the strategies find them, on data where the answer was put aside.

Run with ``python benchmarks/bench_haystack.py``. The bundled Kang 2018 cells are always there; the counts with
the authors' labels are looked for under GCA_BENCH_DATA (default ../shared/data) and skipped where they aren't.
Nothing is tuned: the options are the defaults, and the truth is opened after each run has ended.
"""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import spearmanr

from gca_core import io
from gca_core.atlas import IngestConfig, open_atlas
from gca_core.atlas.ingest import ingest
from gca_core.atlas.ingest.names import NameResolver
from gca_core.config import Settings, load_settings
from gca_core.datasets import kang2018_mini
from gca_core.grounding.score import score_prediction
from gca_core.haystack.context import HaystackContext, open_context
from gca_core.haystack.decide import best_of
from gca_core.haystack.demo.holdout import TruthComparison, compare_changes, compare_with_truth, split_withheld
from gca_core.haystack.models import HaystackRun, IterationConfig
from gca_core.haystack.question.names import expectation_of
from gca_core.haystack.run import run_haystack
from gca_core.haystack.steps import load_run, predicted_change
from gca_core.inference.resample import draw, solve_rates
from gca_core.knowledge.bundled.ontology import load_ontology
from gca_core.matrix.compare import log_fold_change
from gca_core.matrix.kinds import to_csr
from gca_core.matrix.normalise import log_normalise
from gca_core.runs.state import StateRef
from gca_core.store import embedded

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GCA_BENCH_DATA", ROOT.parent / "shared" / "data")) / "cells"
KANG = "kang2018_ifnb_9069x14053_counts.h5ad"
CLASSICAL, NON_CLASSICAL, DENDRITIC = "CL:0002057", "CL:0002396", "CL:0000451"
PERTURBATION = "interferon beta"
IDS, CONDITION = "cell_type_ontology_id", "condition"
AUTHORS_TYPES = {
    "CD14+ Monocytes": "CL:0002057",
    "FCGR3A+ Monocytes": "CL:0002396",
    "CD4 T cells": "CL:0000624",
    "CD8 T cells": "CL:0000625",
    "B cells": "CL:0000236",
    "NK cells": "CL:0000623",
    "Dendritic cells": "CL:0000451",
    "Megakaryocytes": "CL:0000556",
}
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """A cell type to predict, and what it could be predicted from."""

    identifier: str
    label: str
    truth: Array
    others: dict[str, Array]

    @property
    def mean_shift(self) -> Array:
        """The mean response of all other types."""
        return np.mean(list(self.others.values()), axis=0)


def cells_of(cells: ad.AnnData, identifier: str, condition: str) -> ad.AnnData:
    own = (cells.obs[IDS] == identifier).to_numpy(dtype=bool, na_value=False)
    return cells[own & (cells.obs[CONDITION] == condition).to_numpy()]


def responses(cells: ad.AnnData) -> dict[str, Array]:
    """The measured response of every labelled type."""
    identifiers = sorted(cells.obs[IDS].dropna().astype(str).unique())
    return {i: log_fold_change(cells_of(cells, i, "stim").X, cells_of(cells, i, "ctrl").X) for i in identifiers}


def target_of(measured: dict[str, Array], identifier: str) -> Target:
    others = {i: change for i, change in measured.items() if i != identifier}
    return Target(identifier, load_ontology().label(identifier), measured[identifier], others)


def figures(comparison: TruthComparison) -> str:
    return f"{comparison.pearson_lfc:8.3f} {comparison.de_overlap_50:8.2f}"


def withheld_run(
    cells: ad.AnnData, identifier: str, settings: Settings, context: HaystackContext, name: str, **options: float
) -> tuple[HaystackRun, TruthComparison]:
    """Ingest without the answer, run, and only then compare."""
    kept, truth = split_withheld(cells, identifier, perturbed_value="stim")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "atlas.h5ad"
        kept.write_h5ad(path)
        dataset = f"{name}-{identifier.removeprefix('CL:')}"
        config = IngestConfig(
            input_uri=str(path),
            dataset=dataset,
            perturbation_column=CONDITION,
            control_value="ctrl",
            perturbation_names={"stim": PERTURBATION},
            cell_type_column="cell_type",
            cell_type_id_column=IDS,
        )
        ontology = context.ontology
        ingest(
            config,
            open_atlas(settings, role="admin"),
            embed=context.embed,
            resolver=NameResolver(ontology.resolve, label_cell_type=ontology.label),
            embedding_model=context.embedding_model,
        )
    question = f"How would {identifier} respond to {PERTURBATION}?"
    outputs = run_haystack(
        question,
        config=IterationConfig.model_validate({"candidates_per_job": 50, **options}),
        settings=settings,
        dataset=dataset,
        context=context,
    )
    uri = outputs.state_uri
    state = StateRef(uri=uri, sha256=io.sha256_file(uri), iteration=outputs.n_iterations)
    assert outputs.h5ad_uri is not None
    compared = compare_with_truth(outputs.h5ad_uri, truth, cells_of(cells, identifier, "ctrl"))
    return load_run(state), compared


def show_prompt_types(target: Target, genes: list[str], context: HaystackContext) -> None:
    """Each other type's response as the prediction, beside no choice and a choice by chance."""
    ontology = load_ontology()
    expected = expectation_of(context.catalogue.get(PERTURBATION))
    print(
        f"\nprompt for {target.label}, {len(genes)} genes: Pearson and overlap of the 50 largest changes with the truth"
    )
    print(f"{'prompt':52s} {'steps':>5s} {'Pearson':>8s} {'overlap':>8s} {'score':>6s}")
    scores, agreements = [], []
    rows = sorted(target.others, key=lambda i: (ontology.distance(target.identifier, i) or 0, i))
    for identifier in rows:
        comparison = compare_changes(target.others[identifier], target.truth)
        score = score_prediction(target.others[identifier], genes, expected, context.knowledge).score or 0.0
        steps = ontology.distance(target.identifier, identifier)
        print(f"{ontology.label(identifier):52s} {steps!s:>5s} {figures(comparison)} {score:6.2f}")
        scores.append(score)
        agreements.append(comparison.pearson_lfc)
    mean = compare_changes(target.mean_shift, target.truth)
    score = score_prediction(target.mean_shift, genes, expected, context.knowledge).score or 0.0
    print(f"{'mean shift of all':52s} {'':5s} {figures(mean)} {score:6.2f}")
    chance = (
        np.mean(agreements),
        np.mean([compare_changes(c, target.truth).de_overlap_50 for c in target.others.values()]),
    )
    print(f"{'one type by chance (expected)':52s} {'':5s} {chance[0]:8.3f} {chance[1]:8.2f}")
    print(f"Spearman of grounding score and Pearson over these prompts: {spearmanr(scores, agreements).statistic:.2f}")


def show_run(name: str, run: HaystackRun, compared: TruthComparison, truth: Array) -> None:
    """What a run tried, and how good each was; the truth is opened here, after the run."""
    print(f"\n{name}: chosen candidate Pearson {compared.pearson_lfc:.3f}, overlap {compared.de_overlap_50:.2f}")
    best = best_of(run.evaluations())
    for record in run.iterations:
        for e in record.evaluations:
            if e.prediction_uri and e.query_uri:
                change, _ = predicted_change(e.prediction_uri, e.query_uri)
                found = compare_changes(change, truth)
                mark = "*" if e is best else " "
                prompt = f"{', '.join(e.candidate.strategies)}: {'; '.join(e.candidate.cell_types)}"
                print(f"{record.iteration}{mark} {figures(found)} {e.score or 0:6.2f}  {prompt}")


def show_all_targets(cells: ad.AnnData, settings: Settings, context: HaystackContext, name: str) -> None:
    """Every type in turn as the target: default run, long run, and what they are held against."""
    measured = responses(cells)
    genes = [str(gene) for gene in cells.var_names]
    expected = expectation_of(context.catalogue.get(PERTURBATION))
    scores = {i: score_prediction(c, genes, expected, context.knowledge).score or 0.0 for i, c in measured.items()}
    rows = []
    for identifier in measured:
        target = target_of(measured, identifier)
        single = {i: compare_changes(c, target.truth).pearson_lfc for i, c in target.others.items()}
        _, short = withheld_run(cells, identifier, settings, context, name)
        run, long = withheld_run(cells, identifier, settings, context, name, score_threshold=9.9, plateau_window=10)
        rows.append(
            {
                "target": target.label[:36],
                "default": short.pearson_lfc,
                "loop": long.pearson_lfc,
                "tried": len(run.evaluations()),
                "mean shift": compare_changes(target.mean_shift, target.truth).pearson_lfc,
                "chance": np.mean(list(single.values())),
                "best single": max(single.values()),
                "score rho": spearmanr([scores[i] for i in single], list(single.values())).statistic,
            }
        )
    table = pd.DataFrame(rows).set_index("target")
    table.loc["mean"] = table.mean()
    print("\nPearson with the truth, each type withheld in turn (best single needs the truth to be found)")
    print("score rho: Spearman correlation of grounding score and Pearson over the single types")
    print(table.round(3).to_string())


def show_redraws(cells: ad.AnnData, genes: list[str], context: HaystackContext) -> None:
    """How far the score moves when cells are drawn again: predicted ones, and those of the prompt."""
    query = to_csr(cells_of(cells, CLASSICAL, "ctrl").X)[:500].astype(np.int64)
    treated, untreated = (to_csr(cells_of(cells, NON_CLASSICAL, condition).X) for condition in ("stim", "ctrl"))
    shift = log_fold_change(treated, untreated)
    before = np.asarray(log_normalise(query, dtype=np.float64).mean(axis=0)).ravel()
    rates = solve_rates(query, before, np.maximum(before + shift, 0))
    expected = expectation_of(context.catalogue.get(PERTURBATION))

    def score(change: Array) -> float:
        return score_prediction(change, genes, expected, context.knowledge).score or 0.0

    predicted, prompted = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        predicted.append(score(log_fold_change(draw(query, rates, rng), query)))
        rows = [rng.integers(0, group.shape[0], group.shape[0]) for group in (treated, untreated)]
        prompted.append(score(log_fold_change(treated[rows[0]], untreated[rows[1]])))
    print("\nstandard deviation of the score over 10 draws")
    print(f"predicted cells drawn again {np.std(predicted):.3f}; prompt cells bootstrapped {np.std(prompted):.3f}")


def show_leakage(cells: ad.AnnData) -> None:
    """Cells of the withheld type, by the authors' labels, that hide in the groups that prompts come from."""
    path = DATA / KANG
    if not path.is_file():
        print(f"\nskipped: {KANG} is not under {DATA}; set GCA_BENCH_DATA to the folder that holds cells/")
        return
    authors = ad.read_h5ad(path, backed="r").obs
    # cell names are unique only together with the condition, which they begin with
    labels = pd.Series(authors["cell_type"].astype(object).to_numpy(), index=authors.index)
    labels = labels[~labels.index.duplicated(keep=False)]
    kept, truth = split_withheld(cells, CLASSICAL, perturbed_value="stim")
    prompt = kept[(kept.obs[CONDITION] == "stim").to_numpy()]
    theirs = labels.reindex(prompt.obs_names)
    table = pd.crosstab(prompt.obs["cell_type"].astype(str), theirs.fillna("not labelled by the authors"))
    hidden = int((theirs == "CD14+ Monocytes").sum())
    print("\nprompt groups (rows, our labels) against the authors' labels (columns)")
    print(f"{hidden} of {prompt.n_obs} cells are CD14+ monocytes to the authors")
    print(table.to_string())
    answer = labels.reindex(truth.obs_names)
    agreed = (answer == "CD14+ Monocytes").sum() / max(answer.notna().sum(), 1)
    print(f"of the withheld cells that the authors labelled, {agreed:.1%} are CD14+ monocytes to them too")
    show_without_hidden(cells, (labels.reindex(cells.obs_names) == "CD14+ Monocytes").to_numpy())


def show_without_hidden(cells: ad.AnnData, classical: npt.NDArray[np.bool_]) -> None:
    """What the prompt groups are worth once the cells of the withheld type that hide in them, controls too, are out."""
    own = (cells.obs[IDS] == CLASSICAL).to_numpy(dtype=bool, na_value=False)
    truth = responses(cells)[CLASSICAL]
    parts = {"all": cells, "without": cells[own | ~classical]}
    changes = {part: target_of(responses(kept), CLASSICAL).others for part, kept in parts.items()}
    ontology = load_ontology()
    relevance = {i: 1 / ((ontology.distance(CLASSICAL, i) or 0) + 1) for i in (NON_CLASSICAL, DENDRITIC)}
    print("\nPearson and overlap with the withheld response: all prompt cells, and without those hidden ones")
    for identifier in changes["all"]:
        hidden = int((classical & (cells.obs[IDS] == identifier).to_numpy(dtype=bool, na_value=False)).sum())
        compared = [figures(compare_changes(changes[part][identifier], truth)) for part in parts]
        print(f"{ontology.label(identifier):52s} {hidden:5d} {'  '.join(compared)}")
    pair = [np.average([c[i] for i in relevance], axis=0, weights=list(relevance.values())) for c in changes.values()]
    mean = [np.mean(list(c.values()), axis=0) for c in changes.values()]
    for name, both in (("CD16+ monocytes and dendritic cells", pair), ("mean shift of all", mean)):
        print(f"{name:58s} {'  '.join(figures(compare_changes(change, truth)) for change in both)}")


def authors_cells() -> ad.AnnData | None:
    """The counts with the authors' labels, or None, saying so."""
    if not (DATA / KANG).is_file():
        print(f"\nskipped: {KANG} is not under {DATA}; set GCA_BENCH_DATA to the folder that holds cells/")
        return None
    cells = ad.read_h5ad(DATA / KANG)
    cells = cells[~cells.obs_names.duplicated(keep=False) & cells.obs["cell_type"].notna().to_numpy()].copy()
    cells.obs[IDS] = cells.obs["cell_type"].astype(str).map(AUTHORS_TYPES)
    return cells


def main() -> None:
    logging.getLogger("gca_core").setLevel(logging.WARNING)
    home = Path(tempfile.mkdtemp(prefix="gca-"))
    try:
        settings = load_settings(home=home)
        context = open_context(settings)
        for name, cells in (("bundled", kang2018_mini()), ("authors", authors_cells())):
            if cells is None:
                continue
            genes = [str(gene) for gene in cells.var_names]
            print(f"\n=== {name}: {cells.n_obs} cells x {cells.n_vars} genes")
            target = target_of(responses(cells), CLASSICAL)
            show_prompt_types(target, genes, context)
            show_run("default run", *withheld_run(cells, CLASSICAL, settings, context, name), target.truth)
            options = {"score_threshold": 9.9, "plateau_window": 10}
            long = withheld_run(cells, CLASSICAL, settings, context, name, **options)
            show_run("five iterations", *long, target.truth)
            if name == "bundled":
                show_all_targets(cells, settings, context, name)
                show_redraws(cells, genes, context)
                show_leakage(cells)
    finally:
        embedded.remove(home)


if __name__ == "__main__":
    main()
