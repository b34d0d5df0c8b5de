"""CPU seconds (user and system) of whole ``gca`` processes, beside those of an older checkout.

    python benchmarks/bench_first_words.py [PYTHON OF THE OLDER CHECKOUT] [--repeats 5]

CPU time, not wall time, since it hardly depends on what else the machine does; medians of several runs.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import scanpy as sc

QUESTION = "How would B cells respond to IL-4?"
# what a command has to stay under, in seconds on a quiet machine
COMMANDS = {
    "--help": 0.6,
    "scanpy annotate {}/none.h5ad": 1.0,
    "scanpy annotate {}/cells.h5ad --nope": 1.0,
    "scanpy annotate {}/cells.h5ad --cluster-key nope": 1.0,
    "annotate {}/none.csv": 1.0,
    "vae train {}/none.h5ad": 1.0,
    "atlas ingest {}/none.h5ad --dataset d --cell-type-column c": 1.0,
    "haystack understand": 1.5,
    "scanpy annotate {}/cells.h5ad --cluster-key bulk_labels --output {}/results": 5.0,
}


def cpu_seconds(python: str, arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, "-m", "gca_core.cli.main", *arguments], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", nargs="?", help="python of an older checkout")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    pythons = [python for python in (options.older, sys.executable) if python]
    with tempfile.TemporaryDirectory() as folder:
        sc.datasets.pbmc68k_reduced().write_h5ad(Path(folder) / "cells.h5ad")
        print(f"{'command':<80}{'before':>8}{'now':>8}{'bound':>8}" if options.older else f"{'command':<80}{'now':>8}")
        for command, bound in COMMANDS.items():
            arguments = [word.format(folder) for word in command.split()]
            arguments += [QUESTION] if command == "haystack understand" else []
            # one after the other, so that both see the same machine
            runs = [[cpu_seconds(python, arguments) for python in pythons] for _ in range(options.repeats)]
            medians = [statistics.median(column) for column in zip(*runs, strict=True)]
            print(f"{command:<80}{''.join(f'{seconds:>8.2f}' for seconds in medians)}{bound:>8.1f}")


if __name__ == "__main__":
    main()
