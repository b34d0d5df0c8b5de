"""CPU seconds and memory of whole annotation processes, beside an earlier commit.

Run with ``python benchmarks/bench_annotation_cpu.py``; ``--against`` names the commit (default: the last one that
clustered with scanpy and umap-learn), whose code runs in the same environment. ``--only`` runs one part. The earlier
commit compiles its UMAP in the first process that finds nothing compiled and keeps that for the later ones: both are
shown. Kang's cells are looked for under GCA_BENCH_DATA (default ../shared/data). CPU seconds are user and system time
of a process and its threads. They grow on a machine that is busy, up to threefold: a loop of ten million additions,
which takes .4 s on an idle one, says how busy it is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GCA_BENCH_DATA", ROOT.parent / "shared" / "data")) / "cells"
KANG = DATA / "kang2018_ifnb_9069x14053_counts.h5ad"
BEFORE = "ccb946e"
ROW = "{:46s} {:>9s} {:>9s} {:>8s}  {}"

WRITE_PBMC = """
import sys
from gca_core.datasets import pbmc68k_reduced
cells = pbmc68k_reduced()
del cells.obsm, cells.obsp, cells.uns
cells.write_h5ad(sys.argv[1])
"""
WRITE_KANG = """
import sys, anndata
cells = anndata.read_h5ad(sys.argv[1])
cells.obs_names_make_unique()
cells.write_h5ad(sys.argv[2])
"""
WRITE_MANY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from bench_annotation_speed import write_cells
write_cells(Path(sys.argv[2]), 50_000, n_genes=20_000, molecules=1_500)
"""
# the Wilcoxon test of one clustering by this project and by illico, the file read into memory or left on disk
RANK = """
import sys, anndata
who, path, key, backed = sys.argv[1:]
cells = anndata.read_h5ad(path, backed="r" if backed else None)
if who == "ours":
    from gca_core.matrix.ranking import rank_genes
    cells = cells if cells.raw is None else cells.raw.to_adata()
    rank_genes(cells.X, list(cells.var_names), cells.obs[key], method="wilcoxon")
else:
    from illico import asymptotic_wilcoxon
    cells = cells if cells.raw is None else cells.raw.to_adata()
    if not backed:
        cells.X.sort_indices()
    same = {"tie_correct": False, "use_continuity": False, "return_as_scanpy": True}
    asymptotic_wilcoxon(cells, is_log1p=True, group_keys=key, n_threads=2, **same)
"""


class Commit:
    """Code to run: a folder with the package, and a folder for what numba compiles."""

    def __init__(self, name: str, folder: Path, compiled: Path) -> None:
        self.name, self.folder, self.compiled = name, folder, compiled

    def run(self, code: str, *arguments: str) -> tuple[float, float]:
        """CPU seconds and peak GiB of a process, this one being small; it ends the benchmark if it fails."""
        environment = os.environ | {
            "PYTHONPATH": str(self.folder),
            "NUMBA_CACHE_DIR": str(self.compiled),
            "GCA_HOME": str(self.compiled.parent / "home"),
        }
        with tempfile.TemporaryFile("w+") as told:
            done = subprocess.Popen(
                [sys.executable, "-c", code, *arguments], cwd=self.compiled, env=environment, stdout=told, stderr=told
            )
            _, status, used = os.wait4(done.pid, 0)
            done.returncode = os.waitstatus_to_exitcode(status)
            if done.returncode:
                told.seek(0)
                raise SystemExit(f"{self.name}: {told.read()[-2000:]}")
        return used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20

    def annotate(self, cells: Path, *options: str) -> tuple[float, float]:
        """What ``gca scanpy annotate`` takes, without a model."""
        command = "import sys; from gca_core.cli.main import main; sys.exit(main())"
        where = str(self.compiled / "out")
        return self.run(command, "scanpy", "annotate", str(cells), "-o", where, "--offline", "--json", *options)


def earlier(commit: str, folder: Path) -> Commit | None:
    """An earlier commit, where this is a clone that has it."""
    made = subprocess.run(["git", "-C", ROOT, "archive", commit, "gca_core"], capture_output=True, check=False)
    if made.returncode:
        print(f"no baseline: this is no clone that has the commit {commit}")
        return None
    (folder / "compiled").mkdir(parents=True)
    with tarfile.open(fileobj=BytesIO(made.stdout)) as archive:
        archive.extractall(folder / "code", filter="data")
    return Commit(commit, folder / "code", folder / "compiled")


def rank(ours: Commit, title: str, cells: Path, key: str, *, backed: bool = False) -> None:
    """Print what the Wilcoxon test takes by this project and by illico."""
    for who in ("ours", "illico"):
        try:
            seconds, gib = ours.run(RANK, who, str(cells), key, "backed" * backed)
        except SystemExit as error:
            print(f"  {who}: {str(error).strip().splitlines()[-1][:150]}", flush=True)
            continue
        print(ROW.format(f"{title}: {who}", f"{seconds:.1f} s", f"{gib:.2f} GiB", "", ""), flush=True)


def verdict(holds: bool) -> str:
    """What a figure with a bound is followed by."""
    return "holds" if holds else "MISSED"


def compare(
    title: str,
    cells: Path,
    options: tuple[str, ...],
    commits: tuple[Commit, Commit | None],
    *,
    most_s: float | None = None,
    most_gib: float | None = None,
    twice: bool = False,
) -> None:
    """Print what this commit and the earlier one take; ``twice``: its first process and a later one."""
    ours, before = commits
    seconds, gib = ours.annotate(cells, *options)
    bounds = []
    if most_s is not None:
        bounds.append(f"under {most_s:g} s: {verdict(seconds < most_s)}")
    if most_gib is not None:
        bounds.append(f"under {most_gib:g} GiB: {verdict(gib < most_gib)}")
    print(ROW.format(title, f"{seconds:.1f} s", f"{gib:.2f} GiB", "", ", ".join(bounds)), flush=True)
    for when in (("first process", "later ones") if twice else ("",)) if before else ():
        theirs, memory = before.annotate(cells, *options)
        name = f"  {before.name}{', ' * bool(when)}{when}"
        print(ROW.format(name, f"{theirs:.1f} s", f"{memory:.2f} GiB", f"{theirs / seconds:.1f} x", ""), flush=True)


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default=BEFORE)
    parser.add_argument("--only", choices=("small", "kang", "many"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ours" / "compiled").mkdir(parents=True)
        ours = Commit("this one", ROOT, folder / "ours" / "compiled")
        commits = ours, earlier(given.against, folder / "earlier")
        ours.run("import gca_core.cli.main, anndata, igraph, matplotlib.figure, sklearn.neighbors")
        idle, _ = ours.run("sum(i for i in range(10**7))")
        print(f"ten million additions take {idle:.2f} s")
        print(ROW.format("whole processes", "CPU", "peak", "", ""))
        if given.only in (None, "small"):
            cells = folder / "pbmc.h5ad"
            ours.run(WRITE_PBMC, str(cells))
            named = ("--cluster-key", "louvain")
            compare("700 cells, clusters given, UMAP", cells, named, commits, most_s=4, twice=True)
            compare("700 cells, clusters and UMAP computed", cells, (), commits, most_s=7)
            rank(ours, "Wilcoxon, 700 cells", cells, "louvain")
        if given.only in (None, "kang"):
            if KANG.is_file():
                cells = folder / "kang.h5ad"
                ours.run(WRITE_KANG, str(KANG), str(cells))
                compare("9,069 cells, clusters and UMAP computed", cells, (), commits)
            else:
                print(f"skipped: {KANG.name} is not under {DATA}; set GCA_BENCH_DATA to the folder that holds cells/")
        if given.only in (None, "many"):
            cells = folder / "many.h5ad"
            ours.run(WRITE_MANY, str(Path(__file__).parent), str(cells))
            named = ("--cluster-key", "cluster")
            compare("50,000 cells x 20,000 genes in a file", cells, named, commits, most_s=60, most_gib=2)
            for backed in (False, True):
                title = "Wilcoxon, 50,000 cells " + ("in a file" if backed else "in memory")
                rank(ours, title, cells, "cluster", backed=backed)


if __name__ == "__main__":
    main()
