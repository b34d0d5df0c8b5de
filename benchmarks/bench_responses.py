"""The reference response and its forecast, each measured pair left out in turn, beside what needs no method.

Run with ``python benchmarks/bench_responses.py``. Readers and simulator are :mod:`haystack_data` and
:mod:`haystack_simulated`. What is fitted, and what the forecast is made from, comes from seven eighths of the pairs
that the question isn't among; the prediction itself from all pairs but the question's. Time and memory by the size
of an atlas come last.
"""

from __future__ import annotations

import time
from multiprocessing import get_context

import haystack_data as data
import haystack_simulated as simulated
import numpy as np
from memory import peak_gib

from gca_core.knowledge.bundled.catalogue import load_catalogue
from gca_core.knowledge.bundled.genetic import resolve_perturbation
from gca_core.knowledge.bundled.likeness import likeness_matrix
from gca_core.knowledge.bundled.ontology import load_ontology
from gca_core.responses.backtest import REFERENCE, SUPPORTS, Regime, compare, plain_answers
from gca_core.responses.covariance import Covariance, Shares
from gca_core.responses.forecast import FEWEST
from gca_core.responses.left_out import LeftOut, Support, leave_out, usable
from gca_core.responses.measured import Measured, pool_groups, type_distances
from gca_core.responses.models import Forecast
from gca_core.responses.reference import Reference, features_of, make_forecast

FOLDS = 8
Array = data.Array


def pooled(found: data.Measured) -> Measured:
    """The rows of a data set as the atlas would give them."""
    obs = found.obs
    names, types = sorted(obs["perturbation"].unique()), sorted(obs["cell_type_id"].unique())
    ontology, catalogue = load_ontology(), load_catalogue()
    steps = np.array(
        [[float(d) if (d := ontology.distance(a, b)) is not None else np.nan for b in types] for a in types]
    )
    profiles = None
    if found.control is not None:
        own = [(obs["cell_type_id"] == t).to_numpy() for t in types]
        profiles = np.array([np.average(found.control[m], axis=0, weights=obs["n_controls"][m]) for m in own])
    cells = np.minimum(obs["n_cells"], obs["n_controls"]).to_numpy(float)
    return pool_groups(
        names,
        types,
        list(zip(obs["perturbation"], obs["cell_type_id"], strict=True)),
        found.change,
        likeness_matrix([resolve_perturbation(name, catalogue) for name in names]),
        type_distances(profiles, steps),
        cells if cells.any() else None,
        obs["donor"].tolist() if cells.any() else None,
    )


def cytokines() -> Measured | None:
    """22 cytokines in one type, by the catalogue alone."""
    table = data.cytokine_signatures()
    if table is None:
        return None
    entries = [load_catalogue().get(name) for name in table]
    n = len(entries)
    return Measured(
        perturbations=list(table),
        cell_types=["any"],
        perturbation=np.arange(n),
        cell_type=np.zeros(n, dtype=np.int64),
        responses=table.to_numpy().T,
        likeness=likeness_matrix(entries),
        distances=np.zeros((1, 1)),
    )


def honest(measured: Measured, support: Support) -> tuple[Covariance, LeftOut, list[Forecast]]:
    """Left-out predictions and forecasts with shares and calibration that never saw the pair."""
    covariance = Covariance(measured)
    able = leave_out(covariance, support, Shares()).pairs
    parts, forecasts = [], {}
    for fold in range(min(FOLDS, len(able))):
        held = able[np.random.default_rng(0).permutation(len(able)) % min(FOLDS, len(able)) == fold]
        seen = Reference(measured.take(np.setdiff1d(np.arange(len(measured)), held)))
        left = leave_out(covariance, support, seen.shares(support))
        mine = np.isin(left.pairs, held)
        parts.append(LeftOut(left.pairs[mine], left.weights[mine], left.uncertainty[mine]))
        known = seen.known(support)
        for pair, asked in zip(parts[-1].pairs, features_of(parts[-1], covariance), strict=True):
            forecasts[pair] = make_forecast(support, *known, asked)
    order = np.argsort(np.concatenate([part.pairs for part in parts]))
    fields = ("pairs", "weights", "uncertainty")
    left = LeftOut(*(np.concatenate([getattr(part, name) for part in parts])[order] for name in fields))
    return covariance, left, [forecasts[pair] for pair in left.pairs]


def oracles(covariance: Covariance, left: LeftOut, support: Support) -> dict[str, Array]:
    """The best single measured response, which takes the answer to find, and the one most alike by the catalogue."""
    may = usable(covariance, left.pairs, support)
    p = covariance.data.perturbation
    found = {"oracle: best single of all": may, "oracle: best same perturbation": may & (p == p[left.pairs][:, None])}
    by_prior = covariance.data.likeness[p[left.pairs]][:, p]
    own = may & (covariance.data.cell_type == covariance.data.cell_type[left.pairs][:, None])
    weights = {name: _best(np.where(mask, covariance.gram[left.pairs], -np.inf)) for name, mask in found.items()}
    weights["most alike by the catalogue, in the type"] = _best(np.where(own, np.nan_to_num(by_prior, nan=-1), -np.inf))
    return {name: found for name, found in weights.items() if found.any()}


def _best(scores: Array) -> Array:
    chosen = np.zeros_like(scores)
    rows = np.flatnonzero(np.isfinite(scores).any(axis=1))
    chosen[rows, scores[rows].argmax(axis=1)] = 1
    return chosen


def show(name: str, measured: Measured, supports: tuple[Support, ...] = SUPPORTS) -> None:
    print(f"\n== {name}: {len(measured)} pairs x {measured.responses.shape[1]} genes")
    for support in supports:
        begun = time.monotonic()
        if len(leave_out(Covariance(measured), support, Shares()).pairs) <= FEWEST:
            continue
        covariance, left, forecasts = honest(measured, support)
        weights = (
            {REFERENCE: left.weights} | plain_answers(covariance, left, support) | oracles(covariance, left, support)
        )
        print_regime(compare(covariance, left, str(support), weights, forecasts), time.monotonic() - begun)


def print_regime(found: Regime, seconds: float) -> None:
    print(f"\nanswered from {found.support}: {found.n_pairs} pairs, {seconds:.0f} s")
    print(f"{'':42s}{'Pearson':>8s}{'overlap':>8s}  reference ahead, 95 %")
    for row in found.rows:
        ahead = "" if row.answer == REFERENCE else f"  {row.ahead:+.3f} [{row.ahead_low:+.3f}, {row.ahead_high:+.3f}]"
        print(f"{row.answer:42s}{row.pearson:8.3f}{row.overlap:8.3f}{ahead}")
    sharp = "" if found.sharpness is None else f"; Spearman with the true value {found.sharpness:.2f}"
    print(f"forecast: {found.coverage:.1%} of the true values in the 90 % interval{sharp}")


def at_size(n_perturbations: int, n_types: int = 8, n_genes: int = 20_000) -> None:
    """Time of a first answer, with all that is fitted, and of another; each process's own peak of memory."""
    rng = np.random.default_rng(0)
    acts, types, programs = (rng.normal(size=(n, 8)) for n in (n_perturbations, n_types, n_genes))
    pairs = [(p, t) for p in range(n_perturbations) for t in range(n_types)]
    noise = rng.normal(size=(len(pairs), n_genes)).astype(np.float32)
    names, labels = [f"p{i}" for i in range(n_perturbations)], [f"t{i}" for i in range(n_types)]
    measured = pool_groups(
        names,
        labels,
        [(names[p], labels[t]) for p, t in pairs],
        np.array([acts[p] + types[t] / 2 for p, t in pairs], np.float32) @ programs.astype(np.float32).T + noise,
        np.exp(-np.linalg.norm(acts[:, None] - acts, axis=2) / 4),
        np.linalg.norm(types[:, None] - types, axis=2) / 8,
    )
    begun = time.process_time()
    reference = Reference(measured)
    reference.answer(names[0], labels[0])
    first = time.process_time() - begun
    reference.answer(names[1], labels[0])
    another = time.process_time() - begun - first
    print(f"{len(pairs)} pairs x {n_genes} genes: {first:.1f} s of CPU, {another:.1f} s another; {peak_gib():.2f} GiB")


def main() -> None:
    kang = data.kang_cells()
    if kang is not None:
        show("Kang 2018, interferon beta", pooled(data.measured(kang)))
    drugs = data.drugs()
    if drugs is not None:
        show("79 drugs, rank scores", pooled(drugs))
    signatures = cytokines()
    if signatures is not None:
        show("22 cytokines, mean signatures", signatures)
    cells = simulated.World(simulated.MAIN).atlas()
    show("simulated atlas", pooled(data.measured(cells)))
    print()
    for n in (125, 500):
        worker = get_context("spawn").Process(target=at_size, args=(n,))
        worker.start()
        worker.join()


if __name__ == "__main__":
    main()
