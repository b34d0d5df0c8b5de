"""Taking an h5ad file into the atlas."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from psycopg.types.json import Jsonb

from gca_core import io
from gca_core.atlas import expression
from gca_core.atlas.models import IngestConfig, IngestReport
from gca_core.atlas.plan import IngestPlan, ResolveCellType, make_plan
from gca_core.atlas.reader import Atlas, vector_text
from gca_core.atlas.source import CountSource, open_counts
from gca_core.errors import ConfigurationError, StoreError
from gca_core.store.connect import connect

log = logging.getLogger(__name__)

Embed = Callable[[list[str]], list[list[float]]]
EMBEDDING_DIM = 1536
_WRITE_LOCK = (71_842, 2)
_DATASET_LOCK = 71_843


def ingest(
    config: IngestConfig,
    atlas: Atlas,
    *,
    embed: Embed,
    resolve_cell_type: ResolveCellType,
    label_of: Callable[[str], str] | None = None,
    embedding_model: str = "hashed-text-1536",
) -> IngestReport:
    """Read a file, sort its cells into groups, and make them searchable.

    Everything is checked before anything is written. The expression store is written beside the old
    one, then one transaction switches over: readers see the old dataset or the new one. The same
    content under the same name is recognised and changes nothing; other content replaces the dataset.

    Args:
        config: the file and its columns.
        atlas: opened with the role ``admin``.
        embed: from texts to vectors of 1536 numbers.
        resolve_cell_type: from a label to a Cell Ontology id, or None.
        label_of: from an id to the label to store.
        embedding_model: the name of what ``embed`` does; an atlas holds vectors of one model only.

    Raises:
        DataValidationError: the file doesn't fit; nothing was written.
        ConfigurationError: the atlas holds vectors of another model.
        StoreError: the database can't be reached or refuses.
    """
    began = time.monotonic()
    with io.local_copy(config.input_uri, what="h5ad file") as path, _locked(atlas.dsn, config.dataset):
        with open_counts(path, config.input_uri, config.layer) as source:
            plan = make_plan(source.obs, config, resolve_cell_type, label_of)
            digest = _content_hash(path, config, plan)
            found = _known(atlas, config.dataset, digest)
            if found is not None:
                log.info("%s is already in the atlas with this content", config.dataset)
                return found.model_copy(update={"unchanged": True, "seconds": round(time.monotonic() - began, 3)})
            _check_model(atlas.dsn, embedding_model, config.dataset)
            log.info("reading %d cells x %d genes of %s", len(source.obs), len(source.genes), config.input_uri)
            quality = expression.cell_quality(source)
            store_uri, cells = _write_store(atlas.store_root_uri, config.dataset, digest, source, plan, quality)
            report = _report(config, plan, source, digest, store_uri, embedding_model)
        names = {name: name for name in report.perturbations}
        vectors = (_embed(embed, names), _embed(embed, plan.cell_types))
        report = report.model_copy(update={"seconds": round(time.monotonic() - began, 3)})
        _write_rows(atlas.dsn, report, plan, cells, vectors)
        _prune(store_uri)
    log.info("ingested %d cells in %d groups as %s in %.1f s", *_figures(report))
    return report


@contextmanager
def _locked(dsn: str, dataset: str) -> Iterator[None]:
    """One ingest of a dataset at a time; the lock ends with its connection, also when killed."""
    with connect(dsn, autocommit=True) as connection:
        query = "select pg_try_advisory_lock(%s, hashtext(%s))"
        row = connection.execute(query, [_DATASET_LOCK, dataset]).fetchone()
        if not row or not row[0]:
            log.info("another process is ingesting %s; waiting for it", dataset)
            connection.execute("select pg_advisory_lock(%s, hashtext(%s))", [_DATASET_LOCK, dataset])
        yield


def _content_hash(path: Path, config: IngestConfig, plan: IngestPlan) -> str:
    """A hash of the file and of everything that decides what becomes of it."""
    options = config.model_dump(exclude={"input_uri"})
    groups = [group.model_dump() for group in plan.groups]
    return io.content_hash([expression.STORE_VERSION, io.sha256_file(path), options, groups, plan.unmapped])


def _known(atlas: Atlas, dataset: str, digest: str) -> IngestReport | None:
    """The report of an earlier ingest of this content, when its files are still there."""
    with connect(atlas.dsn) as connection:
        query = "select report, store_uri from datasets where dataset = %s and content_hash = %s"
        row = connection.execute(query, [dataset, digest]).fetchone()
    if row is None:
        return None
    files = (expression.CELLS_FILE, expression.GROUPS_FILE)
    there = all(io.as_path(io.join_uri(row[1], name)).exists() for name in files)
    return IngestReport.model_validate(row[0]) if there else None


def _check_model(dsn: str, model: str, dataset: str) -> None:
    with connect(dsn) as connection:
        query = "select dataset, embedding_model from datasets where embedding_model <> %s and dataset <> %s limit 1"
        row = connection.execute(query, [model, dataset]).fetchone()
    if row is not None:
        raise ConfigurationError(
            f"the atlas holds vectors of the embedding model {row[1]!r} (dataset {row[0]!r}), which can't be compared "
            f"with those of {model!r}; ingest with {row[1]!r}, or use another atlas"
        )


def _write_store(
    root: str, dataset: str, digest: str, source: CountSource, plan: IngestPlan, quality: pd.DataFrame
) -> tuple[str, pd.DataFrame]:
    """Write the store under a temporary name and rename it; returns its URI and the cell table."""
    store_uri = io.join_uri(root, io.safe_name(dataset), digest[:16])
    target = io.as_path(store_uri)
    local = Path(str(target)) if target.protocol in {"", "file", "local"} else None
    if local is not None:
        local.parent.mkdir(parents=True, exist_ok=True)
        # left by an ingest that was killed; this one holds the dataset's lock
        for leftover in local.parent.glob(".ingest-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".ingest-", dir=None if local is None else local.parent))
    try:
        cells = expression.write_cells(folder, source, plan, quality)
        expression.write_groups(folder, plan)
        if local is None:
            for name in (expression.CELLS_FILE, expression.GROUPS_FILE):
                with io.staged(io.join_uri(store_uri, name)) as staging:
                    shutil.move(folder / name, staging)
        else:
            folder.chmod(0o755)
            shutil.rmtree(local, ignore_errors=True)
            folder.rename(local)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return store_uri, cells


def _report(
    config: IngestConfig, plan: IngestPlan, source: CountSource, digest: str, store_uri: str, model: str
) -> IngestReport:
    perturbed = [group for group in plan.groups if not group.is_control]
    return IngestReport(
        dataset=config.dataset,
        content_hash=digest,
        store_uri=store_uri,
        n_cells_read=len(source.obs),
        n_cells=sum(group.n_cells for group in plan.groups),
        n_genes=len(source.genes),
        n_groups=len(plan.groups),
        n_control_groups=len(plan.groups) - len(perturbed),
        n_groups_without_control=sum(group.control_group_id is None for group in perturbed),
        n_unlabelled=plan.n_unlabelled,
        n_without_perturbation=plan.n_without_perturbation,
        unmapped_cell_types=plan.unmapped,
        cell_types=plan.cell_types,
        perturbations=sorted({group.perturbation for group in plan.groups}),
        embedding_model=model,
        seconds=0.0,
    )


def _embed(embed: Embed, texts: dict[str, str]) -> dict[str, list[float]]:
    """Vectors by key of ``texts``."""
    vectors = embed(list(texts.values()))
    wrong = [len(vector) for vector in vectors if len(vector) != EMBEDDING_DIM]
    if wrong or len(vectors) != len(texts):
        raise ConfigurationError(
            f"the embedding gave {len(vectors)} vectors for {len(texts)} texts, of lengths {sorted(set(wrong))}; "
            f"expected one of {EMBEDDING_DIM} each"
        )
    return dict(zip(texts, vectors, strict=True))


def _write_rows(
    dsn: str,
    report: IngestReport,
    plan: IngestPlan,
    cells: pd.DataFrame,
    vectors: tuple[dict[str, list[float]], dict[str, list[float]]],
) -> None:
    """Replace the dataset's rows in one transaction."""
    model, (by_name, by_type) = report.embedding_model, vectors
    try:
        with connect(dsn) as connection, connection.cursor() as cursor:
            cursor.execute("select pg_advisory_xact_lock(%s, %s)", _WRITE_LOCK)
            cursor.execute("delete from datasets where dataset = %s", [report.dataset])
            cursor.executemany(
                "insert into perturbations (name, embedding, embedding_model) values (%s, %s::vector, %s) "
                "on conflict (name) do update set embedding = excluded.embedding, embedding_model = "
                "excluded.embedding_model",
                [(name, vector_text(vector), model) for name, vector in by_name.items()],
            )
            cursor.executemany(
                "insert into cell_types (cell_type_id, label, embedding, embedding_model) "
                "values (%s, %s, %s::vector, %s) on conflict (cell_type_id) do update set label = excluded.label, "
                "embedding = excluded.embedding, embedding_model = excluded.embedding_model",
                [(key, plan.cell_types[key], vector_text(vector), model) for key, vector in by_type.items()],
            )
            _insert_dataset(cursor, report)
            _copy_groups(cursor, plan)
            _copy_cells(cursor, report.dataset, cells)
            for query in _FORGET_UNUSED:
                cursor.execute(query)
    except psycopg.Error as error:
        raise StoreError(
            f"the dataset {report.dataset!r} can't be written: {' '.join(str(error).split())}; the atlas is as before"
        ) from error


_FORGET_UNUSED = (
    "delete from perturbations p where not exists (select 1 from cell_groups g where g.perturbation = p.name)",
    "delete from cell_types t where not exists (select 1 from cell_groups g where g.cell_type_id = t.cell_type_id)",
)


def _insert_dataset(cursor: psycopg.Cursor[Any], report: IngestReport) -> None:
    cursor.execute(
        "insert into datasets (dataset, store_uri, content_hash, n_cells, n_groups, n_genes, embedding_model, report) "
        "values (%s, %s, %s, %s, %s, %s, %s, %s)",
        [
            report.dataset,
            report.store_uri,
            report.content_hash,
            report.n_cells,
            report.n_groups,
            report.n_genes,
            report.embedding_model,
            Jsonb(report.model_dump(mode="json")),
        ],
    )


def _copy_groups(cursor: psycopg.Cursor[Any], plan: IngestPlan) -> None:
    stops = np.cumsum([group.n_cells for group in plan.groups]).tolist()
    query = (
        "copy cell_groups (group_id, dataset, perturbation, is_control, cell_type_id, donor, n_cells, "
        "control_group_id, control_match, row_start, row_stop) from stdin"
    )
    with cursor.copy(query) as copy:
        for group, stop in zip(plan.groups, stops, strict=True):
            row = group.model_dump(exclude={"cell_type"}) | {"row_start": stop - group.n_cells, "row_stop": stop}
            copy.write_row(list(row.values()))


def _copy_cells(cursor: psycopg.Cursor[Any], dataset: str, cells: pd.DataFrame) -> None:
    query = "copy cells (dataset, store_row, cell_name, group_id, n_counts, n_genes) from stdin"
    columns = [cells[name].tolist() for name in ("cell_name", "group_id", "n_counts", "n_genes")]
    with cursor.copy(query) as copy:
        for row, values in enumerate(zip(*columns, strict=True)):
            copy.write_row((dataset, row, *values))


def _prune(store_uri: str) -> None:
    """Remove the dataset's older stores but the last one, which a reader may still have open."""
    target = io.as_path(store_uri)
    if target.protocol not in {"", "file", "local"}:
        return
    current = Path(str(target))
    others = [path for path in current.parent.iterdir() if path != current and not path.name.startswith(".")]
    for old in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
        shutil.rmtree(old, ignore_errors=True)


def _figures(report: IngestReport) -> tuple[int, int, str, float]:
    return report.n_cells, report.n_groups, report.dataset, report.seconds
