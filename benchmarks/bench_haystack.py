"""The loop against everything that it has to beat, on questions whose answer was put aside.

Run with ``make bench-haystack``, or ``python benchmarks/bench_haystack.py --quick`` for a few questions of each kind.

1. simulated: an atlas of 61 perturbations, eight types and four donors (:mod:`haystack_simulated`);
2. drugs: 79 drugs in four types of PBMC, as vectors;
3. cytokines: 22 cytokines worked into real PBMC, each asked for with all its groups hidden;
4. Kang: interferon beta in PBMC, with a type or a donor hidden; and bundled, the cells of it that the package brings.

2, 3 and Kang need ../shared/data or GCA_BENCH_DATA and are skipped, saying so, where it is absent. Nothing is tuned
here, and the truth is opened after the choice. ``--held-back`` runs the configuration of the simulator that is kept for
the end. The backend is ``shift``: the mean response of the chosen cells, worked into the query cells.

``--checkpoint FOLDER`` asks some of 1 of ``stack`` instead, with a small checkpoint (``tiny_checkpoint.py simulated``);
arc-stack has to be importable, for example by ``PYTHONPATH=.venv-stack/lib/python3.11/site-packages``.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import anndata as ad
import haystack_data as data
import numpy as np
import pandas as pd
from haystack_arms import LOOP, ONE_ITERATION, Answer, answer_all
from haystack_cases import Array, Case, Truth, VectorAtlas, case_of, take_in
from haystack_simulated import HELD_BACK, MAIN, Config, Question, World
from scipy.stats import spearmanr

from gca_core.config import Settings, load_settings
from gca_core.haystack.context import HaystackContext, open_context
from gca_core.haystack.models import IterationConfig
from gca_core.haystack.question.names import expectation_of
from gca_core.matrix.compare import log_fold_change
from gca_core.store import embedded

Table = pd.DataFrame
SEED, RESAMPLES = 0, 10_000
THRESHOLD = IterationConfig().score_threshold
# questions of each setting; of each regime, in the simulated one
FULL = {"simulated": 8, "drugs": 79, "cytokines": 22, "kang": 8, "bundled": 8}
QUICK = {"simulated": 1, "drugs": 6, "cytokines": 2, "kang": 1, "bundled": 1}
STACK, STACK_QUESTIONS = "stack", 2
# arms without a prompt, so without a model
NO_PROMPT = {"mean shift of all types", "type's mean response", "nearest type", "reference", "oracle, one prompt"}
FIGURES = ["Pearson", "overlap of 50", "discrimination"]


def simulated(
    settings: Settings, context: HaystackContext, config: Config, n: int, bounds: IterationConfig | None = None
) -> Iterator[Case]:
    """``n`` questions of each regime."""
    world = World(config)
    cells = world.atlas()
    take_in(cells, "simulated", settings, context)
    pairs = cells.obs[["perturbation", "cell_type_id"]].astype(str).drop_duplicates()
    held = {(p, t) for p, t in pairs.itertuples(index=False) if p in world.drives}
    truths: dict[str, Array] = {}
    for question in world.questions(held, n):
        asked = question.cell_type_id
        if asked not in truths:
            truths[asked] = np.array([world.truth(name, asked, 100) for name in world.perturbations])
        place = world.perturbations.index(question.perturbation)
        truth = Truth(truths[asked][place], truths[asked], place)
        yield case_of(question, truth, context, "simulated", measured=True, config=bounds)


def of_stack(folder: str) -> IterationConfig:
    """Bounds of a loop that asks a small checkpoint."""
    return IterationConfig(
        backend="stack",
        checkpoint=f"{folder}/model.ckpt",
        gene_list_uri=f"{folder}/genes.json",
        query_cells=128,
        prompt_cells=256,
        diffusion_steps=2,
    )


def drugs(context: HaystackContext, n: int) -> Iterator[Case]:
    """Each drug in one type, with that pair hidden."""
    found = data.drugs()
    if found is None:
        return
    names = {name: entry.name for name in set(found.obs["perturbation"]) if (entry := context.catalogue.resolve(name))}
    found.obs["perturbation"] = found.obs["perturbation"].replace(names)
    atlas = VectorAtlas("drugs", found, context)
    rng = np.random.default_rng(SEED)
    order = rng.permutation(sorted(set(found.obs["perturbation"])))[:n]
    types = sorted(set(found.obs["cell_type_id"]))
    for i, name in enumerate(map(str, order)):
        asked = types[i % len(types)]
        rows = found.obs["cell_type_id"] == asked
        place = int(np.flatnonzero(found.obs["perturbation"][rows] == name)[0])
        question = Question("a drug in other types", name, asked, frozenset({(name, asked)}))
        others = found.change[rows.to_numpy()]
        truth = Truth(others[place], others, place)
        yield case_of(question, truth, with_atlas(context, atlas), "drugs", genes=found.genes)


def cytokines(settings: Settings, context: HaystackContext, n: int) -> Iterator[Case]:
    """Each cytokine in monocytes, hidden in every type; the truth is the measured signature."""
    signatures = data.cytokine_signatures()
    cells = None if signatures is None else data.cytokine_cells(signatures)
    if signatures is None or cells is None:
        return
    take_in(cells, "cytokines", settings, context)
    others = signatures.loc[cells.var_names].to_numpy().T
    types = [data.KANG_TYPES[label] for label in data.CYTOKINE_TYPES]
    for place, name in enumerate(list(signatures)[:n]):
        hidden = frozenset((str(name), t) for t in types)
        question = Question("a cytokine that no type has", str(name), types[0], hidden)
        yield case_of(question, Truth(others[place], others, place), context, "cytokines", measured=True)


def kang(settings: Settings, context: HaystackContext, n: int, cells: ad.AnnData | None) -> Iterator[Case]:
    """Interferon beta in a type, with that type hidden, or one donor's cells of it."""
    if cells is None:
        return
    take_in(cells, "kang", settings, context)
    name = "interferon beta"
    types = sorted(set(cells.obs["cell_type_id"]))
    asked = [Question("a type held out", name, t, frozenset({(name, t)})) for t in types[:n]]
    named = "donor" in cells.obs
    key = ["perturbation", "cell_type_id", *["donor"] * named]
    counts = cells.obs.groupby(key, observed=True).size().to_dict()
    # each type with one donor, of whom there are cells enough for a truth
    for place, t in enumerate(types[:n] if named else []):
        donors = np.roll(data.PAIRED_DONORS, place)
        enough = [d for d in donors if min(counts.get((name, t, d), 0), counts.get((data.CONTROL, t, d), 0)) >= 20]
        if enough:
            hidden = frozenset((name, other, str(enough[0])) for other in types)
            asked.append(Question("a donor held out", name, t, hidden))
    for question in asked:
        own = cells.obs["cell_type_id"] == question.cell_type_id
        donors = {key[2] for key in question.hidden if len(key) > 2}
        if donors:
            own &= cells.obs["donor"].isin(donors)
        treated = (own & (cells.obs["perturbation"] == name)).to_numpy()
        control = (own & (cells.obs["perturbation"] == data.CONTROL)).to_numpy()
        change = log_fold_change(cells.X[treated], cells.X[control])
        yield case_of(question, Truth(change, change[None], 0), context, "kang")


def with_atlas(context: HaystackContext, atlas: VectorAtlas) -> HaystackContext:
    """The same knowledge over vectors."""
    return HaystackContext(context.settings, context.ontology, context.catalogue, atlas)


def ask_all(
    name: str, sizes: dict[str, int], config: Config, part: int, parts: int, checkpoint: str | None = None
) -> tuple[Table, Table]:
    """Figures by question and arm, and what is to be said of each question's run; every ``parts``-th question.

    It has a home and a database of its own, so that several can be at work.
    """
    logging.getLogger("gca_core").setLevel(logging.WARNING)
    home = Path(tempfile.mkdtemp(prefix="gca-"))
    rows, runs = [], []
    try:
        # what is fitted to an atlas is kept with the rest of this process
        os.environ["GCA_CACHE_DIR"] = str(home / "cache")
        settings = load_settings(home=home)
        context = open_context(settings)
        for number, case in enumerate(cases_of(name, sizes, settings, context, config, checkpoint)):
            if number % parts != part:
                continue
            rng = np.random.default_rng([SEED, number])
            asked = case.question
            answers = answer_all(case, home / "runs" / f"{name}-{number}", rng, check=number == 0)
            key = {"regime": asked.regime, "question": number}
            for arm, answer in answers.items():
                figures = dict(zip(FIGURES, answer.utility, strict=True)) | {"U": answer.utility.mean}
                rows.append({**key, "arm": arm, "calls": answer.calls, **figures})
            runs.append({**key, **outcome(answers, asked), **agreement(case, rng)})
            print(
                f"  {name}: {asked.perturbation} in {case.query.cell_type}: {runs[-1]['ended']}",
                file=sys.stderr,
                flush=True,
            )
    finally:
        embedded.remove(home)
        shutil.rmtree(home, ignore_errors=True)
    return pd.DataFrame(rows), pd.DataFrame(runs)


def cases_of(
    name: str,
    sizes: dict[str, int],
    settings: Settings,
    context: HaystackContext,
    config: Config,
    checkpoint: str | None,
) -> Iterator[Case]:
    """The questions of a setting."""
    if name == STACK and checkpoint is not None:
        return simulated(settings, context, config, STACK_QUESTIONS, of_stack(checkpoint))
    n = sizes[name]
    if name == "simulated":
        return simulated(settings, context, config, n)
    if name == "drugs":
        return drugs(context, n)
    if name == "cytokines":
        return cytokines(settings, context, n)
    return kang(settings, context, n, data.bundled_cells() if name == "bundled" else data.kang_cells())


def outcome(answers: dict[str, Answer], asked: Question) -> dict[str, object]:
    """How a run ended, whether it took what it must not, and whether its iterations helped."""
    last, first = answers[LOOP], answers[ONE_ITERATION]
    chosen = last.chosen
    low = first.chosen is not None and (first.chosen.score or 0) < THRESHOLD
    return {
        "ended": answers[LOOP].ended,
        "decoy": bool(chosen and asked.decoys & set(chosen.candidate.perturbations)),
        "has decoy": bool(asked.decoys),
        "began low": low,
        "improved": low and last.utility.mean > first.utility.mean,
    }


def agreement(case: Case, rng: np.random.Generator) -> dict[str, float]:
    """Spearman of grounding score and U over all prompts that were tried, and with another perturbation's knowledge."""
    tried = [t for t in case.tried if t.evaluation.score is not None]
    if len(tried) < 4:
        return {"score": np.nan, "permuted": np.nan}
    asked = case.query
    others = [e for e in case.context.catalogue.entries.values() if e.type is asked.perturbation_type]
    wrong = expectation_of(others[rng.choice([i for i, e in enumerate(others) if e.family != asked.family])])
    dealt = [case.score(each.change, each.found, wrong).score for each in tried]
    utility = [case.truth.utility(each.change).mean for each in tried]
    pairs = {
        "score": [t.evaluation.score for t in tried],
        "permuted": [1.0 if score is None else score for score in dealt],
    }
    return {k: float(np.nan_to_num(spearmanr(v, utility).statistic)) if np.ptp(v) else 0.0 for k, v in pairs.items()}


def interval(values: Array) -> str:
    """Mean and 95 % interval of a bootstrap over questions."""
    rng = np.random.default_rng(SEED)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def show(name: str, rows: pd.DataFrame, runs: pd.DataFrame, backend: str) -> None:
    """A table for each regime, and what the runs came to."""
    for regime, own in rows.groupby("regime", sort=False):
        n = own["question"].nunique()
        print(f"\n### {name}: {regime} ({n} questions)\n")
        print(f"| arm | backend | calls | answered | {' | '.join(FIGURES)} | U | loop minus arm, U |")
        print(f"|{'---|' * (len(FIGURES) + 6)}")
        loop = own[own["arm"] == LOOP].set_index("question")["U"]
        for arm, found in own.groupby("arm", sort=False):
            ahead = loop - found.set_index("question")["U"]
            ran = "shift" if backend == STACK and arm in NO_PROMPT else backend
            figures = " | ".join(f"{value:.3f}" for value in found[FIGURES].mean()).replace("nan", "-")
            print(
                f"| {arm} | {ran} | {found['calls'].mean():.1f} | {(found['calls'] > 0).sum()} | {figures} "
                f"| {interval(found['U'].to_numpy())} | {'' if arm == LOOP else interval(ahead.to_numpy())} |"
            )
    print(f"\n{name}, runs to their end:")
    for regime, own in runs.groupby("regime", sort=False):
        ended = ", ".join(f"{word} {count}" for word, count in own["ended"].value_counts().items())
        print(f"  {regime}: {ended}")
    if runs["has decoy"].any():
        decoys = runs[runs["has decoy"]]
        print(f"  decoy chosen in {decoys['decoy'].sum()} of {len(decoys)} questions that have one")
    if runs["began low"].any():
        low = runs[runs["began low"]]
        print(f"  of {len(low)} below {THRESHOLD:g} after one iteration, {low['improved'].sum()} ended with a higher U")
    known = runs[["score", "permuted"]].dropna()
    if len(known):
        print(
            f"  Spearman of score and U within {len(known)} questions {interval(known['score'].to_numpy())}; "
            f"with another perturbation's knowledge {interval(known['permuted'].to_numpy())}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=FULL, default=list(FULL))
    parser.add_argument("--quick", action="store_true", help="a few questions of each kind")
    parser.add_argument("--held-back", action="store_true", help="the simulator's configuration kept for the end")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--checkpoint", metavar="FOLDER", help="model.ckpt and genes.json: asks stack alone")
    options = parser.parse_args()
    config, sizes = HELD_BACK if options.held_back else MAIN, QUICK if options.quick else FULL
    parts, settings = options.processes, [STACK] if options.checkpoint else options.settings
    began = time.monotonic()
    with ProcessPoolExecutor(parts, mp_context=get_context("spawn")) as workers:
        asked = [
            [workers.submit(ask_all, name, sizes, config, part, parts, options.checkpoint) for part in range(parts)]
            for name in settings
        ]
        for name, answers in zip(settings, asked, strict=True):
            rows, runs = (pd.concat(tables) for tables in zip(*(each.result() for each in answers), strict=True))
            if len(rows):
                rows, runs = (table.sort_values("question", kind="stable") for table in (rows, runs))
                title = config.name if name in ("simulated", STACK) else name
                show(title, rows, runs, {"drugs": "none, vectors", STACK: STACK}.get(name, "shift"))
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
