"""The atlas's tables: a dataset's rows are written, replaced and removed as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from gca_core.atlas.ingest.names import NameResolver
from gca_core.atlas.ingest.plan import IngestPlan
from gca_core.atlas.models import MAX_NAME, IngestReport, NameKind
from gca_core.atlas.search import finite_vector, keep_indexes
from gca_core.config import require
from gca_core.errors import ConfigurationError, StoreError
from gca_core.store.connect import connect
from gca_core.store.redact import redact

log = logging.getLogger(__name__)

# by key, the text to embed and what is stored beside the key
_Entities = Mapping[tuple[str, ...], tuple[str, str | None]]
Embed = Callable[[list[str]], list[list[float]]]
EMBEDDING_DIM = 1536
EMBED_BATCH = 1000
THRESHOLD_QUANTILE = 0.99
MIN_CALIBRATION_NAMES = 10
_COPY_ROWS = 20_000
# modes that who may only read can't take
_ONE_WRITER = "lock table datasets in share update exclusive mode"
_LOCK_DATASET = "insert into dataset_locks values (%s)"
_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_FORGET_UNUSED = (
    "delete from group_texts t where not exists (select from cell_groups g where g.perturbation = t.perturbation "
    "and g.cell_type_id = t.cell_type_id)",
    "delete from perturbations p where not exists (select from cell_groups g where g.perturbation = p.name)",
    "delete from cell_types t where not exists (select from cell_groups g where g.cell_type_id = t.cell_type_id)",
    "delete from tissues t where not exists (select from cell_groups g where g.tissue_id = t.tissue_id)",
    "delete from synonyms s where not exists (select from perturbations p where s.kind = 'perturbation' and "
    "p.name = s.target) and not exists (select from cell_types t where s.kind = 'cell_type' and "
    "t.cell_type_id = s.target) and not exists (select from tissues u where s.kind = 'tissue' and "
    "u.tissue_id = s.target)",
    "delete from embedding_models m where not exists (select from datasets d where d.embedding_model = m.model)",
)


@contextmanager
def locked(dsn: str, dataset: str) -> Iterator[None]:
    """One ingest or removal of a dataset at a time; the lock ends with its connection, also when killed.

    Raises:
        StoreError: the database can't be reached, or this login may not write.
    """
    with closing(connect(dsn)) as connection:
        try:
            connection.execute("set idle_in_transaction_session_timeout = 0")
            try:
                with connection.transaction():
                    connection.execute("set local lock_timeout = '1s'")
                    connection.execute(_LOCK_DATASET, [dataset])
            except psycopg.errors.LockNotAvailable:
                log.info("another process is ingesting %s; waiting for it", dataset)
                connection.execute(_LOCK_DATASET, [dataset])
        except psycopg.Error as error:
            raise _refused(dataset, "locked", error) from error
        yield


def check_model(connection: psycopg.Connection[Any], model: str, dataset: str) -> None:
    """Check that the other datasets' vectors are of this model.

    Raises:
        ConfigurationError: they are of another.
    """
    query = "select dataset, embedding_model from datasets where embedding_model <> %s and dataset <> %s limit 1"
    row = connection.execute(query, [model, dataset]).fetchone()
    if row is not None:
        raise ConfigurationError(
            f"the atlas holds vectors of the embedding model {row[1]!r} (dataset {row[0]!r}), which can't be compared "
            f"with those of {model!r}; ingest with {row[1]!r}, or use another atlas"
        )


def write_rows(
    dsn: str, report: IngestReport, plan: IngestPlan, cells: pd.DataFrame, *, embed: Embed, resolver: NameResolver
) -> IngestReport:
    """Replace the dataset's rows in one transaction, and keep the indexes of the vectors.

    Only texts that the atlas has no vector of are embedded. The label of a cell type or tissue is the same in
    all datasets: the resolver's latest, or, for a resolver without labels, that of the dataset which came first.

    Args:
        dsn: of a login that may ingest.
        report: what the dataset's row says.
        plan: groups and names.
        cells: cell_name, n_counts, n_genes and mito_fraction, in the order of the store.
        embed: from texts to vectors.
        resolver: other names of what is written, and names to measure the similarity of chance on.

    Returns:
        The report with the labels that were stored.

    Raises:
        ConfigurationError: the vectors don't have 1536 numbers, or the atlas holds those of another model.
        StoreError: the database can't be reached or refuses; the atlas is as before.
    """
    try:
        with connect(dsn) as connection:
            connection.execute(_ONE_WRITER)
            check_model(connection, report.embedding_model, report.dataset)
            _delete(connection, report.dataset)
            plan = _with_labels_in_use(connection, plan, resolver)
            report = report.model_copy(update={"cell_types": plan.cell_types, "tissues": plan.tissues})
            _write_entities(connection, report, plan, embed, resolver)
            with connection.cursor() as cursor:
                _insert_dataset(cursor, report)
                _copy_groups(cursor, plan)
                _copy_cells(cursor, report.dataset, plan, cells)
            _write_synonyms(connection, plan, resolver)
            _forget_unused(connection)
        _keep_indexes(dsn)
    except (psycopg.Error, UnicodeEncodeError) as error:
        raise _refused(report.dataset, "written", error) from error
    return report


def delete_rows(dsn: str, dataset: str) -> str | None:
    """Remove a dataset's rows and what only it used; returns the URI of its store, None where there is none.

    Raises:
        StoreError: the database can't be reached or refuses; the atlas is as before.
    """
    try:
        with connect(dsn) as connection:
            connection.execute(_ONE_WRITER)
            row = connection.execute("select store_uri from datasets where dataset = %s", [dataset]).fetchone()
            _delete(connection, dataset)
            _forget_unused(connection)
        _keep_indexes(dsn)
    except psycopg.Error as error:
        raise _refused(dataset, "removed", error) from error
    return None if row is None else str(row[0])


def embed_all(embed: Embed, texts: Sequence[str]) -> Iterator[npt.NDArray[np.float32]]:
    """A vector for each text, asked for in batches; no more than a batch is kept.

    Raises:
        ConfigurationError: it isn't one vector of 1536 numbers each.
    """
    for start in range(0, len(texts), EMBED_BATCH):
        batch = list(texts[start : start + EMBED_BATCH])
        found = embed(batch)
        wrong = sorted({len(vector) for vector in found if len(vector) != EMBEDDING_DIM})
        if wrong or len(found) != len(batch):
            raise ConfigurationError(
                f"the embedding gave {len(found)} vectors for {len(batch)} texts, of lengths {wrong}; "
                f"expected one of {EMBEDDING_DIM} each"
            )
        yield from (finite_vector(vector) for vector in found)


def chance_similarity(vectors: Sequence[Sequence[float] | npt.NDArray[np.float32]]) -> float | None:
    """The cosine similarity that one in a hundred pairs of unrelated names reaches; None for too few names."""
    if len(vectors) < MIN_CALIBRATION_NAMES:
        return None
    matrix = np.asarray(vectors, dtype=np.float64)
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    pairs = (matrix @ matrix.T)[np.triu_indices(len(matrix), k=1)]
    return round(float(np.quantile(pairs, THRESHOLD_QUANTILE)), 4)


def _refused(dataset: str, done: str, error: Exception) -> StoreError:
    reason = redact(" ".join(str(error).split()))
    return StoreError(f"the dataset {dataset!r} can't be {done}: {reason}; the atlas is as before")


def _delete(connection: psycopg.Connection[Any], dataset: str) -> None:
    connection.execute("delete from cells where dataset = %s", [dataset])
    connection.execute("delete from datasets where dataset = %s", [dataset])


def _forget_unused(connection: psycopg.Connection[Any]) -> None:
    for query in _FORGET_UNUSED:
        connection.execute(query.encode())


def _keep_indexes(dsn: str) -> None:
    with connect(dsn) as holder, connect(dsn, autocommit=True) as connection:
        holder.execute(_ONE_WRITER)
        keep_indexes(connection)


def _with_labels_in_use(connection: psycopg.Connection[Any], plan: IngestPlan, resolver: NameResolver) -> IngestPlan:
    """The plan with the labels that other datasets' cell types and tissues have, where its own are a file's words."""
    cell_types, tissues = dict(plan.cell_types), dict(plan.tissues)
    if resolver.label_cell_type is None:
        query = (
            "select cell_type_id, label from cell_types t where cell_type_id = any(%s) "
            "and exists (select from cell_groups g where g.cell_type_id = t.cell_type_id)"
        )
        cell_types |= dict(connection.execute(query, [list(cell_types)]).fetchall())
    if resolver.label_tissue is None:
        query = (
            "select tissue_id, label from tissues t where tissue_id = any(%s) "
            "and exists (select from cell_groups g where g.tissue_id = t.tissue_id)"
        )
        tissues |= dict(connection.execute(query, [list(tissues)]).fetchall())
    if (cell_types, tissues) == (plan.cell_types, plan.tissues):
        return plan
    groups = [
        group.model_copy(
            update={"cell_type": cell_types[group.cell_type_id], "tissue": tissues.get(group.tissue_id or "")}
        )
        for group in plan.groups
    ]
    return replace(plan, groups=groups, cell_types=cell_types, tissues=tissues)


def _write_entities(
    connection: psycopg.Connection[Any], report: IngestReport, plan: IngestPlan, embed: Embed, resolver: NameResolver
) -> None:
    """Perturbations, cell types, tissues and the texts of groups, with the vectors that are missing."""
    model = report.embedding_model
    _write_model(connection, model, embed, resolver)
    resolve = resolver.resolve_perturbation or (lambda _text: None)
    names = sorted({group.perturbation for group in plan.groups})
    _upsert(connection, embed, model, "perturbations", "name", "catalogue_name", {(n,): (n, resolve(n)) for n in names})
    types: _Entities = {(key,): (label, label) for key, label in plan.cell_types.items()}
    _upsert(connection, embed, model, "cell_types", "cell_type_id", "label", types)
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into tissues (tissue_id, label) values (%s, %s) on conflict (tissue_id) do update set label = "
            "excluded.label",
            sorted(plan.tissues.items()),
        )
    pairs = {(g.perturbation, g.cell_type_id) for g in plan.groups}
    # other datasets' too: the label may have changed
    query = "select perturbation, cell_type_id from group_texts where cell_type_id = any(%s)"
    pairs |= set(connection.execute(query, [list(plan.cell_types)]).fetchall())
    texts: _Entities = {pair: (group_text(pair[0], plan.cell_types[pair[1]]),) * 2 for pair in sorted(pairs)}
    _upsert(connection, embed, model, "group_texts", "perturbation, cell_type_id", "text", texts)


def group_text(perturbation: str, cell_type: str) -> str:
    """What a group is, apart from its dataset, donor and tissue."""
    return f"{perturbation} in {cell_type}"


def _write_model(connection: psycopg.Connection[Any], model: str, embed: Embed, resolver: NameResolver) -> None:
    query = "select similarity_threshold is not null from embedding_models where model = %s"
    row = connection.execute(query, [model]).fetchone()
    if row is not None and row[0]:
        return
    names = resolver.names if len(resolver.names) >= MIN_CALIBRATION_NAMES else ()
    threshold = chance_similarity(list(embed_all(embed, names)))
    connection.execute(
        "insert into embedding_models (model, similarity_threshold, n_texts) values (%s, %s, %s) on conflict (model) "
        "do update set similarity_threshold = excluded.similarity_threshold, n_texts = excluded.n_texts, "
        "calibrated_at = now()",
        [model, threshold, len(names)],
    )


def _upsert(
    connection: psycopg.Connection[Any],
    embed: Embed,
    model: str,
    table: str,
    keys: str,
    beside: str,
    rows: _Entities,
) -> None:
    """Write entities, and vectors of those that have none of this model, or whose column ``beside`` changed."""
    known = f"select {keys}, {beside} from {table} where embedding_model = %s"  # noqa: S608
    n_keys = len(next(iter(rows)))
    found = {tuple(row[:n_keys]): row[n_keys] for row in connection.execute(known.encode(), [model])}
    new = {key: row for key, row in rows.items() if key not in found or found[key] != row[1]}
    if not new:
        return
    register = require("pgvector.psycopg", "haystack").register_vector
    register(connection)
    columns = f"{keys}, {beside}, embedding, embedding_model"
    with connection.cursor() as cursor:
        cursor.execute(f"create temp table new_rows on commit drop as select {columns} from {table} limit 0".encode())  # noqa: S608
        with cursor.copy(f"copy new_rows ({columns}) from stdin (format binary)".encode()) as copy:
            copy.set_types([*["text"] * (n_keys + 1), "vector", "text"])
            vectors = embed_all(embed, [text for text, _beside in new.values()])
            for (key, (_text, value)), vector in zip(new.items(), vectors, strict=True):
                copy.write_row((*key, value, vector, model))
        cursor.execute(
            f"insert into {table} ({columns}) select {columns} from new_rows on conflict ({keys}) do update set "  # noqa: S608
            f"{beside} = excluded.{beside}, embedding = excluded.embedding, "
            "embedding_model = excluded.embedding_model".encode()
        )
        cursor.execute("drop table new_rows")


def _insert_dataset(cursor: psycopg.Cursor[Any], report: IngestReport) -> None:
    values = {
        "dataset": report.dataset,
        "store_uri": report.store_uri,
        "content_hash": report.content_hash,
        "n_cells": report.n_cells,
        "n_groups": report.n_groups,
        "n_genes": report.n_genes,
        "embedding_model": report.embedding_model,
        "report": Jsonb(report.model_dump(mode="json")),
    }
    columns = sql.SQL(", ").join(map(sql.Identifier, values))
    places = sql.SQL(", ").join(map(sql.Placeholder, values))
    cursor.execute(sql.SQL("insert into datasets ({}) values ({})").format(columns, places), values)


def _copy_groups(cursor: psycopg.Cursor[Any], plan: IngestPlan) -> None:
    stops = np.cumsum([group.n_cells for group in plan.groups]).tolist()
    query = (
        "copy cell_groups (group_id, dataset, perturbation, is_control, cell_type_id, donor, n_cells, "
        "control_group_id, control_match, tissue_id, row_start, row_stop) from stdin"
    )
    with cursor.copy(query) as copy:
        for group, stop in zip(plan.groups, stops, strict=True):
            row = group.model_dump(exclude={"cell_type", "tissue"})
            row |= {"row_start": stop - group.n_cells, "row_stop": stop}
            copy.write_row(list(row.values()))


def _copy_cells(cursor: psycopg.Cursor[Any], dataset: str, plan: IngestPlan, cells: pd.DataFrame) -> None:
    """Rows as text, many at a time; a group's are neighbours."""
    query = "copy cells (dataset, store_row, cell_name, group_id, n_counts, n_genes, mito_fraction) from stdin"
    groups = np.repeat([group.group_id for group in plan.groups], [group.n_cells for group in plan.groups])
    name = dataset.translate(_ESCAPED)
    with cursor.copy(query) as copy:
        for start in range(0, len(cells), _COPY_ROWS):
            part = cells.iloc[start : start + _COPY_ROWS]
            mito = part["mito_fraction"].to_numpy()
            columns = (
                range(start, start + len(part)),
                [cell.translate(_ESCAPED) for cell in part["cell_name"].tolist()],
                groups[start : start + len(part)].tolist(),
                part["n_counts"].tolist(),
                part["n_genes"].to_numpy(dtype=np.int64).tolist(),
                ["\\N" if missing else value for value, missing in zip(mito.tolist(), np.isnan(mito), strict=True)],
            )
            copy.write(
                "".join(f"{name}\t{r}\t{c}\t{g}\t{n}\t{k}\t{m}\n" for r, c, g, n, k, m in zip(*columns, strict=True))
            )


def _write_synonyms(connection: psycopg.Connection[Any], plan: IngestPlan, resolver: NameResolver) -> None:
    """Every name that something has: its own, the file's, and the resolver's."""
    rows: set[tuple[str, str, str]] = {("perturbation", g.perturbation, g.perturbation) for g in plan.groups}
    rows |= {("cell_type", label, key) for key, label in plan.cell_types.items()}
    rows |= {("tissue", label, key) for key, label in plan.tissues.items()}
    rows |= set(plan.aliases)
    kinds: dict[NameKind, set[str]] = {
        "perturbation": {group.perturbation for group in plan.groups if not group.is_control},
        "cell_type": set(plan.cell_types),
        "tissue": set(plan.tissues),
    }
    for kind, targets in kinds.items():
        rows |= {(kind, name, target) for target in targets for name in resolver.synonyms(kind, target)}
    fitting = sorted((kind, name, target) for kind, name, target in rows if 0 < len(name) <= MAX_NAME)
    with connection.cursor() as cursor:
        cursor.execute(
            "create temp table new_names on commit drop as select kind, synonym, target from synonyms limit 0"
        )
        with cursor.copy("copy new_names (kind, synonym, target) from stdin") as copy:
            for row in fitting:
                copy.write_row(row)
        cursor.execute(
            "insert into synonyms (kind, synonym, target) select kind, synonym, target from new_names "
            "on conflict do nothing"
        )
