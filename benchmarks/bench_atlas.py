"""How well and how fast the atlas finds, takes in and hands out, on a server of its own.

Run with ``python benchmarks/bench_atlas.py [retrieval ingest million]``; all of it takes about a
quarter of an hour on two cores. ``--quick`` makes everything small, to see that it runs; its figures say nothing.
The data are made here: 100,000 groups of 1,000 perturbations (the catalogue's, and made-up compounds) in 100 real
cell types, embedded by the default embedding; and counts with as many genes expressed per cell as the section says.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anndata as ad
import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import psutil
from memory import peak_gib
from threadpoolctl import threadpool_limits

from gca_core.atlas import Atlas, IngestConfig, IngestReport, open_atlas, search
from gca_core.atlas.ingest import ingest
from gca_core.atlas.ingest.names import load_name_resolver
from gca_core.atlas.ingest.plan import IngestPlan, match_controls
from gca_core.atlas.ingest.rows import embed_all, group_text, write_rows
from gca_core.atlas.models import CellGroup, make_group_id
from gca_core.config import Settings, load_settings
from gca_core.errors import GcaError, QueryParsingError
from gca_core.haystack.context import HaystackContext, open_context
from gca_core.haystack.models import IterationConfig, StructuredQuery
from gca_core.haystack.steps import suggest, understand
from gca_core.knowledge.bundled.catalogue import load_catalogue
from gca_core.knowledge.bundled.ontology import load_ontology
from gca_core.llm.embeddings import HashedTextEmbeddings
from gca_core.store import embedded
from gca_core.store.connect import connect
from gca_core.store.pool import close_pools, pooled

LEUKOCYTE = "CL:0000738"
CONTROL = "vehicle"
DATASET = "hundred thousand groups"
N_GENES = 20_000
K = 50
SYLLABLES = ("zo", "la", "mi", "tra", "be", "ver", "cil", "do", "nax", "pre", "fu", "sal", "ti", "quo", "gre", "lin")
ENDINGS = ("tinib", "mab", "ciclib", "parib", "stat", "zomib", "limus", "sone", "prazole", "vir")
CELL_TYPES = (
    "CD14-positive monocyte",
    "B cell",
    "natural killer cell",
    "CD4-positive, alpha-beta T cell",
    "CD8-positive, alpha-beta T cell",
)
R = TypeVar("R")
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    perturbations: int = 1000
    types: int = 100
    searches: int = 500
    questions: int = 100
    cells: int = 40_000
    genes_expressed: int = 2000
    many_cells: int = 1_000_000
    many_expressed: int = 200


QUICK = Size(30, 10, 50, 10, 3000, 500, 20_000, 100)


def verdict(what: str, value: float, bound: float, *, at_most: bool, unit: str = "") -> None:
    """A row of the table: the figure, its bound, and whether it holds."""
    holds = value <= bound if at_most else value >= bound
    sign = "<=" if at_most else ">="
    print(f"  {what:<62}{value:>12,.3f}{unit:<9}{sign} {bound:<8,g}{'holds' if holds else 'MISSED'}", flush=True)


def figure(what: str, value: float, unit: str = "") -> None:
    """A row without a bound."""
    print(f"  {what:<62}{value:>12,.3f}{unit}", flush=True)


@contextmanager
def own_server() -> Iterator[Settings]:
    """A GCA_HOME and its server, removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="gca-"))
    try:
        yield load_settings(home=home)
    finally:
        close_pools()
        embedded.remove(home)
        shutil.rmtree(home, ignore_errors=True)


def perturbation_names(n: int) -> list[str]:
    """The catalogue's names, then made-up compounds; a control comes first."""
    made = ("".join((*parts, end)) for parts in itertools.product(SYLLABLES, repeat=3) for end in ENDINGS)
    known = sorted(load_catalogue().entries)
    rng = np.random.default_rng(0)
    compounds = list(made)
    rng.shuffle(compounds)
    return [CONTROL, *dict.fromkeys([*known[: n // 2], *compounds])][:n]


def many_groups(size: Size) -> IngestPlan:
    """One cell in each pair of perturbation and cell type."""
    ontology = load_ontology()
    types = {i: ontology.label(i) for i in sorted(ontology.descendants(LEUKOCYTE))[: size.types]}
    groups = [
        CellGroup(
            group_id=make_group_id(DATASET, name, identifier, None),
            dataset=DATASET,
            perturbation=name,
            is_control=name == CONTROL,
            cell_type_id=identifier,
            cell_type=label,
            donor=None,
            n_cells=1,
        )
        for name in perturbation_names(size.perturbations)
        for identifier, label in types.items()
    ]
    groups.sort(key=lambda group: group.group_id)
    return IngestPlan(match_controls(groups), np.arange(len(groups)), 0, 0, {}, types)


def fill(settings: Settings, size: Size) -> tuple[Atlas, IngestPlan]:
    """An atlas of many groups, written by the function that ingests use; it has no cells to materialise."""
    plan, embeddings = many_groups(size), HashedTextEmbeddings()
    n = len(plan.groups)
    report = IngestReport(
        dataset=DATASET,
        content_hash="",
        store_uri="file:///nowhere",
        n_cells_read=n,
        n_cells=n,
        n_genes=1,
        n_groups=n,
        n_control_groups=size.types,
        n_groups_without_control=0,
        n_unlabelled=0,
        n_without_perturbation=0,
        embedding_model=embeddings.model,
        seconds=0.0,
    )
    cells = pd.DataFrame({"cell_name": [f"c{i}" for i in range(n)], "n_counts": 1.0, "n_genes": 1.0})
    cells["mito_fraction"] = np.nan
    atlas = open_atlas(settings, role="admin")
    began = time.perf_counter()
    write_rows(atlas.dsn, report, plan, cells, embed=embeddings.embed_documents, resolver=load_name_resolver())
    figure(f"embed, write and index {n:,} groups", time.perf_counter() - began, " s")
    # what the server would do by itself within minutes, which would then be timed with the searches
    with connect(atlas.dsn, autocommit=True) as connection:
        connection.execute("vacuum (analyze)")
    return open_atlas(settings), plan


def bench_retrieval(settings: Settings, size: Size) -> None:
    """Search against brute force, and its time."""
    atlas, plan = fill(settings, size)
    embeddings, rng = HashedTextEmbeddings(), np.random.default_rng(1)
    texts = [group_text(group.perturbation, group.cell_type) for group in plan.groups]
    everything = np.vstack(list(embed_all(embeddings.embed_documents, texts)))
    ids = np.array([group.group_id for group in plan.groups])
    queries = [embeddings.embed_query(text) for text in query_texts(plan, size.searches, rng)]
    with connect(atlas.dsn) as connection:
        index = connection.execute("select to_regclass('group_texts_embedding_hnsw') is not null").fetchone()
    print(f"  index in use: {bool(index and index[0])}, candidates per search: {search.ef_search(K)}")
    atlas.semantic(queries[0], limit=K)
    before = cpu_seconds(atlas)
    found, seconds = timed(lambda vector: atlas.semantic(vector, limit=K), queries)
    cpu = (cpu_seconds(atlas) - before) / len(queries)
    recalls = [
        recall(everything, ids, vector, [hit.id for hit in hits]) for vector, hits in zip(queries, found, strict=True)
    ]
    verdict(f"recall at {K}, ties counted as equal", float(np.mean(recalls)), 0.98, at_most=False)
    figure("lowest recall of one search", float(np.min(recalls)))
    verdict("one semantic search, p95", 1e3 * float(np.quantile(seconds, 0.95)), 15, at_most=True, unit=" ms")
    figure("one semantic search, median", 1e3 * float(np.median(seconds)), " ms")
    figure("one semantic search, mean CPU time of both processes", 1e3 * cpu, " ms")
    some = [group.cell_type_id for group in plan.groups[:3]]
    filters: dict[str, dict[str, object]] = {
        "in 3 of the cell types": {"cell_type_ids": some},
        "in 10 of the cell types": {"cell_type_ids": sorted(plan.cell_types)[:10]},
        "not a control": {"is_control": False},
        "of one perturbation": {"perturbations": [plan.groups[0].perturbation]},
    }
    for name, conditions in filters.items():
        keep = kept(plan, conditions)
        found, seconds = timed(lambda vector, c=conditions: atlas.semantic(vector, limit=K, **c), queries[:100])
        recalls = [
            recall(everything[keep], ids[keep], vector, [hit.id for hit in hits])
            for vector, hits in zip(queries[:100], found, strict=True)
        ]
        figure(f"{name}: recall at {K}", float(np.mean(recalls)))
        figure(f"{name}: p95", 1e3 * float(np.quantile(seconds, 0.95)), " ms")
    names = [f"{text[:-1]}x" for text in perturbation_names(size.perturbations)[1:21]]
    _, seconds = timed(lambda name: atlas.find_names(name), names)
    figure("a misspelled name among all names, p95", 1e3 * float(np.quantile(seconds, 0.95)), " ms")
    strategies(settings, plan, size)


def strategies(settings: Settings, plan: IngestPlan, size: Size) -> None:
    """All four strategies with their ranking, on the same atlas."""
    context = open_context(settings)
    rng = np.random.default_rng(2)
    asked = questions(plan, size.questions, rng, context)
    config, counts = IterationConfig(), {"proposed": 0, "nothing": 0}

    def propose(query: StructuredQuery) -> None:
        try:
            counts["proposed"] += bool(suggest(query, config, context).candidates)
        except GcaError:
            counts["nothing"] += 1

    propose(asked[0])
    _, seconds = timed(propose, asked)
    verdict(
        "all four strategies with ranking, p95", 1e3 * float(np.quantile(seconds, 0.95)), 250, at_most=True, unit=" ms"
    )
    figure("all four strategies with ranking, median", 1e3 * float(np.median(seconds)), " ms")
    print(f"  {len(asked)} questions, {counts['nothing']} without a proposal")


def bench_ingest(settings: Settings, size: Size) -> None:
    """Metadata, statistics and the expression store, from a plain and from a compressed file."""
    for compression in (None, "gzip"):
        with tempfile.TemporaryDirectory(prefix="gca-bench-") as folder:
            path = Path(folder) / "cells.h5ad"
            write_cells(path, size.cells, size.genes_expressed, compression)
            figures = in_a_process(path, settings, f"ingest {compression}")
        what = f"{size.cells:,} cells x {size.genes_expressed:,} genes expressed, {compression or 'no'} compression"
        verdict(what, size.cells / figures["seconds"], 5000, at_most=False, unit=" cells/s")
        figure(f"{what}: CPU", figures["cpu"], " s")
        figure(f"{what}: peak memory", figures["peak_mib"], " MiB")
    atlas = open_atlas(settings)
    groups = [group.group_id for group in atlas.groups(dataset="ingest None", is_control=False)[:20]]
    _, seconds = timed(lambda seed: atlas.materialise(groups, cell_budget=2000, seed=seed), range(5))
    verdict("materialise 2,000 cells of 20 groups, slowest of 5", max(seconds), 2, at_most=True, unit=" s")


def bench_million(settings: Settings, size: Size) -> None:
    """Memory that doesn't grow with the file."""
    peaks = {}
    for n_cells in (size.many_cells // 10, size.many_cells):
        with tempfile.TemporaryDirectory(prefix="gca-bench-") as folder:
            path = Path(folder) / "cells.h5ad"
            write_cells(path, n_cells, size.many_expressed, None)
            figures = in_a_process(path, settings, f"million {n_cells}")
        peaks[n_cells] = figures["peak_mib"] / 1024
        what = f"{n_cells:,} cells x {size.many_expressed} genes expressed (fewer, for time)"
        figure(f"{what}: rate", n_cells / figures["seconds"], " cells/s")
        figure(f"{what}: growth", (figures["peak_mib"] - figures["before_mib"]) / 1024, " GiB")
    verdict(f"peak memory of {size.many_cells:,} cells", peaks[size.many_cells], 2, at_most=True, unit=" GiB")
    atlas = open_atlas(settings)
    groups = [g.group_id for g in atlas.groups(dataset=f"million {size.many_cells}", is_control=False)[:20]]
    _, seconds = timed(lambda seed: atlas.materialise(groups, cell_budget=2000, seed=seed), range(5))
    verdict(f"materialise 2,000 of {size.many_cells:,} cells, slowest of 5", max(seconds), 2, at_most=True, unit=" s")


def cpu_seconds(atlas: Atlas) -> float:
    """What this process and the server's for it have used: what other programs take is in the time, but not in this."""
    with pooled(atlas.dsn) as connection:
        times = psutil.Process(connection.info.backend_pid).cpu_times()
    return time.process_time() + float(times.user + times.system)


def query_texts(plan: IngestPlan, n: int, rng: np.random.Generator) -> list[str]:
    """What people might look for: pairs that are there, their synonyms, words around them, and only one of the two."""
    catalogue = load_catalogue()
    found = []
    for place, row in enumerate(rng.integers(0, len(plan.groups), n).tolist()):
        group = plan.groups[row]
        entry = catalogue.resolve(group.perturbation)
        other = entry.synonyms[0] if entry is not None and entry.synonyms else group.perturbation
        forms = (
            group_text(group.perturbation, group.cell_type),
            f"{other} in {group.cell_type}",
            f"how does a {group.cell_type} respond to {other}",
            group.perturbation,
            group.cell_type,
        )
        found.append(forms[place % len(forms)])
    return found


def questions(plan: IngestPlan, n: int, rng: np.random.Generator, context: HaystackContext) -> list[StructuredQuery]:
    """Questions that the rules can read, of a perturbation of the catalogue and a type of the atlas."""
    known = sorted({g.perturbation for g in plan.groups} & set(load_catalogue().entries))
    labels = sorted(set(plan.cell_types.values()))
    found: list[StructuredQuery] = []
    for _ in range(20 * n):
        name, label = known[rng.integers(len(known))], labels[rng.integers(len(labels))]
        try:
            found.append(understand(f"How would a {label} respond to {name}?", context))
        except QueryParsingError:
            continue
        if len(found) == n:
            break
    return found


def recall(vectors: Array, ids: npt.NDArray[np.str_], query: list[float], found: list[str]) -> float:
    """Share of the K nearest that were found; whatever is as near as the farthest of them counts."""
    similarities = vectors @ np.asarray(query, dtype=np.float32)
    k = min(K, len(ids))
    bound = np.partition(similarities, -k)[-k] - 1e-6
    near = set(ids[similarities >= bound].tolist())
    return sum(group_id in near for group_id in found[:k]) / k


def kept(plan: IngestPlan, conditions: dict[str, object]) -> npt.NDArray[np.bool_]:
    """Which groups meet the conditions of a search."""
    column = {"cell_type_ids": "cell_type_id", "perturbations": "perturbation", "is_control": "is_control"}
    [(name, wanted)] = conditions.items()
    values = wanted if isinstance(wanted, list) else [wanted]
    return np.array([getattr(group, column[name]) in values for group in plan.groups], dtype=np.bool_)


def timed(call: Callable[[Any], R], values: Iterable[Any]) -> tuple[list[R], list[float]]:
    """Results and seconds of calls, one after another."""
    results, seconds = [], []
    for value in values:
        began = time.perf_counter()
        results.append(call(value))
        seconds.append(time.perf_counter() - began)
    return results, seconds


def write_cells(path: Path, n_cells: int, expressed: int, compression: str | None) -> None:
    """Counts of cells in random order: 50 perturbations, 5 types, 4 donors."""
    rng = np.random.default_rng(0)
    names = ["PBS", *perturbation_names(51)[1:50]]
    columns = {"cytokine": names, "cell_type": CELL_TYPES, "donor": ("Donor1", "Donor2", "Donor3", "Donor4")}
    obs = {
        name: pd.Categorical.from_codes(rng.integers(0, len(values), n_cells), list(values))
        for name, values in columns.items()
    }
    genes = [f"MT-{i}" if i < 13 else f"GENE{i}" for i in range(N_GENES)]
    index = [f"{i:07d}_{i % 96:02d}__s1" for i in range(n_cells)]
    ad.AnnData(obs=pd.DataFrame(obs, index=index), var=pd.DataFrame(index=genes)).write_h5ad(path)
    options = {"compression": compression, "chunks": (200_000,)} if compression else {}
    step, block = N_GENES // expressed, max(2_000_000 // expressed, 1)
    with h5py.File(path, "r+") as file:
        file.pop("X", None)
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.array([n_cells, N_GENES])
        group.create_dataset("indptr", data=np.arange(0, n_cells * expressed + 1, expressed))
        data = group.create_dataset("data", (n_cells * expressed,), np.float32, **options)
        indices = group.create_dataset("indices", (n_cells * expressed,), np.int32, **options)
        for start in range(0, n_cells, block):
            rows = min(block, n_cells - start)
            part = slice(start * expressed, (start + rows) * expressed)
            where = np.arange(expressed) * step + rng.integers(0, step, (rows, expressed))
            indices[part] = where.astype(np.int32).ravel()
            data[part] = rng.geometric(0.5, rows * expressed).astype(np.float32)


def in_a_process(path: Path, settings: Settings, dataset: str) -> dict[str, float]:
    """Ingest in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--one", str(path), str(settings.home), dataset]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"the ingest of {dataset} failed: {done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def ingest_one(path: str, home: str, dataset: str) -> None:
    """Ingest a file, and print what it took."""
    embeddings, vocabulary = HashedTextEmbeddings(), load_name_resolver()
    atlas = open_atlas(load_settings(home=Path(home)), role="admin")
    before = psutil.Process().memory_info().rss / 2**20
    began, cpu = time.perf_counter(), time.process_time()
    ingest(
        IngestConfig(input_uri=path, dataset=dataset, preset="parse_pbmc"),
        atlas,
        embed=embeddings.embed_documents,
        resolver=vocabulary,
    )
    figures = {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "before_mib": before,
        "peak_mib": 1024 * peak_gib(),
    }
    print(json.dumps(figures))


SECTIONS: dict[str, Callable[[Settings, Size], None]] = {
    "retrieval": bench_retrieval,
    "ingest": bench_ingest,
    "million": bench_million,
}


def main() -> None:
    """Print the tables."""
    warnings.simplefilter("ignore")
    logging.getLogger("gca_core").setLevel(logging.WARNING)
    if sys.argv[1:2] == ["--one"]:
        ingest_one(*sys.argv[2:5])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all where none is named")
    parser.add_argument("--quick", action="store_true", help="everything small")
    parser.add_argument("--cells", type=int, default=None, help="cells of the largest ingest [1,000,000]")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        raise SystemExit(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    size = QUICK if options.quick else Size()
    if options.cells is not None:
        size = Size(**{**size.__dict__, "many_cells": options.cells})
    if options.quick:
        print("quick: the figures say nothing, and the bounds are those of the full size")
    for name in options.sections or list(SECTIONS):
        began = time.perf_counter()
        print(f"{name}:")
        with own_server() as settings, threadpool_limits(1):
            SECTIONS[name](settings, size)
        print(f"({name}: {time.perf_counter() - began:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
