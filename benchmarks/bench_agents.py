"""What a language model that proposes badly costs the loop: the same runs with it and without, paired by question.

Run with ``python benchmarks/bench_agents.py``; ``--quick`` asks a few questions. The model is a server on this machine
behind the real client. It proposes eight prompts before each iteration, all of groups that the checks let pass: by
chance, or, since it is told the truth, those that answer worst. Runs are to their end, and as many prompts are
predicted with the model as without. U is that of :mod:`bench_haystack`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import haystack_data as data
import numpy as np
from bench_haystack import interval, kang, simulated
from haystack_arms import TO_THE_END
from haystack_cases import Case
from haystack_simulated import MAIN

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gca_core.config import Settings, load_settings
from gca_core.errors import CellRetrievalError
from gca_core.haystack import steps
from gca_core.haystack.context import HaystackContext, open_context
from gca_core.haystack.decide import best_of
from gca_core.haystack.models import HaystackRun, Strategy
from gca_core.haystack.prompts.strategies import draft_of_groups
from gca_core.haystack.run import iterate
from gca_core.inference.prediction import change, read_prediction
from gca_core.llm.models import parse_model
from gca_core.store import embedded
from tests.helpers.llm_loopback import Answer, LoopbackServer, Request

SEED, PROMPTS, ITERATIONS = 0, 8, 3
Proposer = Callable[[int], list[list[str]]]


def proposers(case: Case) -> dict[str, Proposer]:
    """From the number of a request to the prompts of a model."""
    allowed = [group for group in sorted(case.changes) if passes(case, group)]
    worth = {group: case.truth.utility(case.changes[group]).mean for group in allowed}
    worst = sorted(allowed, key=lambda group: (worth[group], group))

    def by_chance(number: int) -> list[list[str]]:
        rng = np.random.default_rng([SEED, number])
        sizes = rng.integers(1, 1 + min(6, len(allowed)), PROMPTS)
        return [rng.choice(allowed, size, replace=False).tolist() for size in sizes]

    def the_worst(number: int) -> list[list[str]]:
        begin = (PROMPTS * number) % max(1, len(worst) - PROMPTS)
        return [[group] for group in worst[begin : begin + PROMPTS]]

    return {"by chance": by_chance, "the worst": the_worst} if allowed else {}


def passes(case: Case, group: str) -> bool:
    try:
        draft_of_groups([group], case.query, case.context, Strategy.MODEL, "")
    except CellRetrievalError:
        return False
    return True


def utility_of(case: Case, folder: Path, context: HaystackContext) -> tuple[float, HaystackRun]:
    """U of a run's answer."""
    config = case.config.model_copy(update={**TO_THE_END, "max_iterations": ITERATIONS})
    run_id = "-".join(folder.parts[-2:])
    state = steps.start_run(case.query, run_id=run_id, results_uri=str(folder), config=config, context=context)
    while steps.gate(state, state.iteration, context).go:
        state = iterate(state, context)
    run = steps.load_run(state)
    best = best_of(run.evaluations())
    if best is None or best.prediction_uri is None or best.query_uri is None:
        return case.truth.utility(np.zeros(len(case.genes))).mean, run
    return case.truth.utility(change(*read_prediction(best.prediction_uri, best.query_uri))).mean, run


def compare(case: Case, folder: Path) -> dict[str, float]:
    """U by arm; empty where there is nothing to prompt with."""
    found: dict[str, float] = {}
    try:
        found["rules"], rules = utility_of(case, folder / "rules", case.context)
    except CellRetrievalError:
        return {}
    for name, propose in proposers(case).items():

        def respond(request: Request, number: int, propose: Proposer = propose) -> Answer:
            if "You lead a search" in request.body["messages"][0]["content"]:
                return Answer('{"ask": ["prompt_generation"], "focus": {}}')
            prompts = [{"group_ids": ids, "rationale": "so it says"} for ids in propose(number)]
            return Answer(json.dumps({"prompts": prompts}))

        with LoopbackServer(respond).running() as server:
            model = parse_model(f"openai-compatible:scripted@{server.url}")
            found[name], run = utility_of(
                case, folder / name.replace(" ", "-"), replace(case.context, language_model=model)
            )
        assert any(e.candidate.strategies == (Strategy.MODEL,) for e in run.evaluations()), "it had no say"
        assert len(run.evaluations()) >= len(rules.evaluations())
    return found


def cases(settings: Settings, context: HaystackContext, n: int) -> Iterator[Case]:
    yield from kang(settings, context, 4 * n, data.bundled_cells())
    yield from simulated(settings, context, MAIN, n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few questions of each kind")
    options = parser.parse_args()
    logging.getLogger("gca_core").setLevel(logging.WARNING)
    began, home = time.monotonic(), Path(tempfile.mkdtemp(prefix="gca-"))
    rows: list[dict[str, float]] = []
    try:
        os.environ["GCA_CACHE_DIR"] = str(home / "cache")
        settings = load_settings(home=home)
        for number, case in enumerate(cases(settings, open_context(settings), 1 if options.quick else 2)):
            found = compare(case, home / "runs" / str(number))
            told = ", ".join(f"{arm} {value:.3f}" for arm, value in found.items()) or "nothing to prompt with"
            print(f"  {case.question.perturbation} in {case.query.cell_type}: {told}", file=sys.stderr, flush=True)
            if len(found) > 1:
                rows.append(found)
    finally:
        embedded.remove(home)
        shutil.rmtree(home, ignore_errors=True)
    print(f"| a model that proposes | U | minus the rules' alone, {len(rows)} questions |\n|---|---|---|")
    alone = np.array([row["rules"] for row in rows])
    print(f"| none | {interval(alone)} | |")
    for arm in ("by chance", "the worst"):
        own = np.array([row[arm] for row in rows])
        print(f"| {arm} | {interval(own)} | {interval(own - alone)} |")
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
