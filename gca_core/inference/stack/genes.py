"""Lists of the genes that a model knows: JSON or text; a pickled one only through an explicit conversion."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gca_core import io
from gca_core.errors import DataValidationError
from gca_core.inference.stack import unpickle

log = logging.getLogger(__name__)

SECONDS = 60.0
# what Python needs to start, and nothing of the user's
PASSED = ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT")


def read_gene_list(uri: str) -> tuple[str, ...]:
    """Gene symbols in the model's order, in capitals as arc-stack matches them.

    Args:
        uri: a JSON list, or a text with one symbol per line.

    Raises:
        DataValidationError: not there, pickled, empty, or with symbols twice.
    """
    if io.as_path(uri).suffix.lower() in {".pkl", ".pickle"}:
        raise DataValidationError(
            f"the gene list {uri!r} is a pickle, which can run code when it is read; convert it once with: "
            f"gca stack genes {io.as_path(uri).name} genes.json"
        )
    text = io.read_text(uri, what="gene list")
    if text.lstrip().startswith("["):
        try:
            found = io.parse_json(text)
        except ValueError as error:
            raise DataValidationError(f"the gene list {uri!r} is no JSON: {error}") from None
    else:
        found = [line.strip() for line in text.splitlines() if line.strip()]
    return checked(found, uri)


def checked(genes: object, name: str) -> tuple[str, ...]:
    """Symbols in capitals, when they are a list of different texts.

    Raises:
        DataValidationError: they aren't.
    """
    if not isinstance(genes, list) or not genes or not all(isinstance(gene, str) and gene for gene in genes):
        raise DataValidationError(f'the gene list {name!r} is no list of gene symbols; expected e.g. ["CD3E", "LYZ"]')
    capitals = tuple(gene.upper() for gene in genes)
    if len(set(capitals)) < len(capitals):
        twice = sorted(gene for gene, n in Counter(capitals).items() if n > 1)[:3]
        raise DataValidationError(f"the gene list {name!r} holds genes twice: {', '.join(twice)}")
    return capitals


def convert_pickled(source: str, target: str) -> int:
    """Write the genes of a pickled list as JSON and return their number.

    The pickle is read in a process of its own, with a bare environment, limits on time and memory, and an audit hook
    that ends it when it opens a socket, a file to write or another program; of classes it gets numpy's arrays only.

    Raises:
        DataValidationError: no such file, or it holds anything else than a list of texts.
    """
    log.warning("%s is a pickle: reading one from a stranger can run code; this one is read in a bare process", source)
    with io.local_copy(source, what="pickled gene list") as path, tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", unpickle.__file__, str(path.resolve())],
                cwd=folder,
                env={name: os.environ[name] for name in PASSED if name in os.environ} | {"OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DataValidationError(f"reading {source!r} took more than {SECONDS:g} s; it is no gene list") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = said[-1] if said else f"status {done.returncode}"
        raise DataValidationError(f"{source!r} is not read, it holds something else than a list of genes: {why}")
    genes = checked(json.loads(done.stdout), source)
    io.write_json(target, list(genes))
    return len(genes)


def write_pickled(genes: Sequence[str], folder: Path) -> Path:
    """The list in the form that arc-stack reads: a pickle of our own making."""
    import pickle

    path = folder / "genes.pkl"
    path.write_bytes(pickle.dumps(list(genes)))
    return path
