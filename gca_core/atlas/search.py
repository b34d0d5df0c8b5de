"""Search in the atlas: by vectors, exact or through an index, and by names.

Below :data:`INDEX_FROM` entities of a kind every distance is computed and ties are broken by id. From there on
an HNSW index (cosine, m 16, ef_construction 64) is kept, and a search looks at candidates in proportion to the
number of hits asked for, and besides at groups of the nearest perturbations and cell types, as the graph of an index
has dead ends; where filters leave it fewer than were asked for, the search is repeated without the index. Where they
name perturbations or cell types of :data:`EXACT_UP_TO` texts at most, every distance among those is computed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg.rows import dict_row

from gca_core.atlas.models import EntityKind, NameHit, NameKind, SearchHit
from gca_core.config import require
from gca_core.errors import StoreError
from gca_core.knowledge.bundled.names import normalise_name

log = logging.getLogger(__name__)

MAX_DIMENSIONS = 16_000
INDEX_FROM = 50_000
# an index that has to pass over nine in ten takes longer than this many distances, and finds less
EXACT_UP_TO = 10_000
HNSW_M, HNSW_EF_CONSTRUCTION = 16, 64
MIN_EF_SEARCH, EF_SEARCH_PER_HIT, MAX_EF_SEARCH = 100, 2, 1000
# all texts of so many perturbations, and those of so many perturbations in so many cell types, are looked at besides
NEAREST_PERTURBATIONS, NEAREST_PAIRS = 5, (50, 3)
TRIGRAM_CANDIDATES = 500
_BUILD_MEGABYTES = (64, 2048)
# a vector of 1536 numbers, its neighbours and what the build keeps beside them
_BYTES_PER_VECTOR = 8_000


@dataclass(frozen=True)
class _Source:
    """Where the vectors of a kind are, and how its entities are tied to groups."""

    table: str
    key: str
    hit: str
    joined: str


_SOURCES: Mapping[EntityKind, _Source] = {
    "perturbation": _Source("perturbations", "t.name", "t.name as id, t.name as label", "g.perturbation = t.name"),
    "cell_type": _Source(
        "cell_types", "t.cell_type_id", "t.cell_type_id as id, t.label", "g.cell_type_id = t.cell_type_id"
    ),
    "group": _Source(
        "group_texts",
        "t.perturbation, t.cell_type_id",
        "t.perturbation, t.cell_type_id, t.text as label",
        "g.perturbation = t.perturbation and g.cell_type_id = t.cell_type_id",
    ),
}


@dataclass(frozen=True)
class Filters:
    """Conditions that the groups behind a hit have to meet; None sets none.

    Attributes:
        dataset: name of the one dataset.
        perturbations: names of which one is the perturbation.
        exclude_perturbations: names that the perturbation must not have.
        cell_type_ids: Cell Ontology ids of which one is the cell type.
        tissue_ids: UBERON ids of which one is the tissue.
        is_control: whether the groups are controls.
    """

    dataset: str | None = None
    perturbations: Sequence[str] | None = None
    exclude_perturbations: Sequence[str] = field(default_factory=tuple)
    cell_type_ids: Sequence[str] | None = None
    tissue_ids: Sequence[str] | None = None
    is_control: bool | None = None

    def conditions(self) -> list[str]:
        """The conditions on a group ``g``, as SQL with named parameters."""
        found = {
            "g.dataset = %(dataset)s": self.dataset is not None,
            "g.perturbation = any(%(perturbations)s)": self.perturbations is not None,
            "g.perturbation <> all(%(exclude_perturbations)s)": bool(self.exclude_perturbations),
            "g.cell_type_id = any(%(cell_type_ids)s)": self.cell_type_ids is not None,
            "g.tissue_id = any(%(tissue_ids)s)": self.tissue_ids is not None,
            "g.is_control = %(is_control)s": self.is_control is not None,
        }
        return [condition for condition, wanted in found.items() if wanted]

    def values(self) -> dict[str, Any]:
        """The parameters of :meth:`conditions`."""
        lists = ("perturbations", "exclude_perturbations", "cell_type_ids", "tissue_ids")
        listed = {name: None if (value := getattr(self, name)) is None else list(value) for name in lists}
        return {"dataset": self.dataset, "is_control": self.is_control, **listed}


def nearest(
    connection: psycopg.Connection[Any], kind: EntityKind, vector: Sequence[float], limit: int, filters: Filters
) -> list[SearchHit]:
    """The entities of a kind nearest to a vector, by cosine distance, then id; through an index, nearly all of them.

    Raises:
        StoreError: the vector is no embedding.
        psycopg.Error: the database refuses.
    """
    values = {**filters.values(), "vector": finite_vector(vector), "limit": limit}
    few = False
    if _prepare_index(connection, kind, limit):
        few = _prepare_few(connection, kind, filters)
        if not few:
            hits, complete = _run(connection, kind, filters, values, exact=False)
            if complete:
                return hits
            log.debug("the index gave fewer than %d hits; searching without it", limit)
    return _run(connection, kind, filters, values, exact=True, few=few)[0]


def keep_indexes(connection: psycopg.Connection[Any]) -> None:
    """Build the index of each kind that has grown to :data:`INDEX_FROM` entities; drop those of the others.

    Slow where one is built: about a minute for 100,000 entities.
    """
    for source in _SOURCES.values():
        row = connection.execute(f"select count(*) from {source.table}".encode()).fetchone()  # noqa: S608
        count = int(row[0]) if row else 0
        row = connection.execute("select to_regclass(%s) is not null", [_index_name(source)]).fetchone()
        present = bool(row and row[0])
        if count < INDEX_FROM and present:
            connection.execute(f"drop index {_index_name(source)}".encode())
        elif count >= INDEX_FROM and not present:
            _build_index(connection, source, count)


def find_names(connection: psycopg.Connection[Any], text: str, kinds: Iterable[NameKind], limit: int) -> list[NameHit]:
    """Names and synonyms that are spelled most like a text, best first, one per entity.

    With ``pg_trgm`` the database narrows the names down by their trigrams; without, all are compared. The
    similarity is the same in either case: that of the normalised spellings, by edit distance.
    """
    wanted = normalise_name(text)
    fuzz = require("rapidfuzz.fuzz", "haystack")
    best: dict[tuple[str, str], NameHit] = {}
    for row in _candidate_names(connection, text, sorted(set(kinds))):
        similarity = round(float(fuzz.ratio(wanted, normalise_name(row["synonym"]))) / 100, 4)
        hit = NameHit(
            kind=row["kind"], id=row["target"], label=row["label"], name=row["synonym"], similarity=similarity
        )
        known = best.get((hit.kind, hit.id))
        if known is None or (-hit.similarity, hit.name) < (-known.similarity, known.name):
            best[hit.kind, hit.id] = hit
    return sorted(best.values(), key=lambda hit: (-hit.similarity, hit.kind, hit.id))[:limit]


def has_trigrams(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server compares trigrams."""
    return connection.execute("select 1 from pg_extension where extname = 'pg_trgm'").fetchone() is not None


def finite_vector(vector: Sequence[float] | npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """A vector in single precision.

    Raises:
        StoreError: a number isn't finite, or there are more than pgvector takes.
    """
    values = np.asarray(vector, dtype=np.float32)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise StoreError("an embedding must be one row of finite numbers; check the embedding model")
    if values.size > MAX_DIMENSIONS:
        raise StoreError(f"an embedding of {values.size} numbers has more than {MAX_DIMENSIONS}, pgvector's most")
    return values


def ef_search(limit: int) -> int:
    """How many candidates a search through the index looks at for so many hits."""
    return min(max(MIN_EF_SEARCH, EF_SEARCH_PER_HIT * limit), MAX_EF_SEARCH)


def _run(
    connection: psycopg.Connection[Any],
    kind: EntityKind,
    filters: Filters,
    values: Mapping[str, Any],
    *,
    exact: bool,
    few: bool = False,
) -> tuple[list[SearchHit], bool]:
    """The hits, and whether as many vectors were found as hits were asked for."""
    query = _query(kind, filters.conditions(), exact=exact, few=few)
    paired, types = NEAREST_PAIRS
    values = {**values, "nearest": NEAREST_PERTURBATIONS, "paired": paired, "types": types}
    binary = require("pgvector.psycopg.vector", "haystack").VectorBinaryDumper
    with connection.cursor(row_factory=dict_row) as cursor:
        # without the number of the type, which differs from database to database, the server infers it
        cursor.adapters.register_dumper(np.ndarray, binary)
        # planned anew each time: the best plan depends on what is filtered for
        rows = cursor.execute(query.encode(), values, prepare=False).fetchall()
    complete = bool(rows) and rows[0]["n_near"] >= values["limit"]
    return [SearchHit(kind=kind, id=row["id"], label=row["label"], distance=row["distance"]) for row in rows], complete


def _query(kind: EntityKind, conditions: Sequence[str], *, exact: bool, few: bool = False) -> str:
    source, distance = _SOURCES[kind], "(t.embedding <=> %(vector)s::vector)"
    # without the keys the order is the index's; they break ties, which it can't
    order = f"distance, {source.key}" if exact else distance
    if exact:
        # else the index would give the order, and only ties be sorted
        distance += " + 0"
    own, others = _split(kind, conditions)
    vectors = f"select {source.hit}, {distance} as distance from {source.table} t"  # noqa: S608
    if few and others:
        # sorted first, so that the groups of the nearest are looked at and not those of all
        vectors = f"select t.* from ({vectors} {_where(own)} order by {order} offset 0) t"  # noqa: S608
        own = []
    where = _where([*own, *others])
    near = f"near as materialized ({vectors} {where} order by {order} limit %(limit)s)"
    count = "(select count(*) from near) as n_near"
    if kind != "group":
        return f"with {near} select *, {count} from near order by distance, id"  # noqa: S608
    ctes, found = [near], "near"
    if not exact:
        # one perturbation or pair after another: a join might read all texts
        these = f"{vectors} {where or 'where true'} and t.perturbation = alike.name"
        whole = f"select t.* from alike cross join lateral ({these} offset 0) t where alike.place <= %(nearest)s"  # noqa: S608
        pairs = (
            f"select t.* from alike cross join types cross join lateral ({these} "  # noqa: S608
            "and t.cell_type_id = types.cell_type_id offset 0) t"
        )
        best = f"order by distance, {_KEYS} limit %(limit)s"
        more = f"({whole} {best}) union ({pairs} {best})"
        both = f"select * from near union select * from more {best}"  # noqa: S608
        ctes += [_nearest_pairs(conditions), f"more as ({more})", f"nearest as materialized ({both})"]
        found = "nearest"
    # the nearest texts have at least as many groups
    also = "".join(f" and {condition}" for condition in conditions)
    groups = (
        "select g.group_id from cell_groups g where g.perturbation = found.perturbation "  # noqa: S608
        f"and g.cell_type_id = found.cell_type_id{also} offset 0"
    )
    return (
        f"with {', '.join(ctes)} select g.group_id as id, found.label, found.distance, {count} from {found} found "  # noqa: S608
        f"cross join lateral ({groups}) g order by found.distance, id limit %(limit)s"
    )


_KEYS = "perturbation, cell_type_id"


def _nearest_pairs(conditions: Sequence[str]) -> str:
    """The nearest perturbations, numbered, and cell types, of those that the conditions leave."""
    names = _where([c.replace("g.perturbation", "name") for c in conditions if c.startswith("g.perturbation")])
    types = _where([c.replace("g.", "") for c in conditions if c.startswith("g.cell_type_id")])
    near = "order by embedding <=> %(vector)s::vector limit"
    return (
        "alike as materialized (select p.name, row_number() over (order by p.distance) as place from "  # noqa: S608
        f"(select name, embedding <=> %(vector)s::vector as distance from perturbations {names} {near} %(paired)s) p), "
        f"types as materialized (select cell_type_id from cell_types {types} {near} %(types)s)"
    )


def _split(kind: EntityKind, conditions: Sequence[str]) -> tuple[list[str], list[str]]:
    """The conditions on the columns beside a vector, which need no look at the groups behind it, and those that do."""
    source = _SOURCES[kind]
    own = {"group": ("g.perturbation", "g.cell_type_id")}.get(kind, ())
    direct = [f"t{condition[1:]}" for condition in conditions if own and condition.startswith(own)]
    rest = [condition for condition in conditions if not (own and condition.startswith(own))]
    groups = f"exists (select from cell_groups g where {source.joined} and {' and '.join(rest)})"
    return direct, [groups] if rest else []


def _where(conditions: Sequence[str]) -> str:
    return f"where {' and '.join(conditions)}" if conditions else ""


def _prepare_index(connection: psycopg.Connection[Any], kind: EntityKind, limit: int) -> bool:
    """Set up this transaction for the index of a kind; False where there is none, or too much is asked of it."""
    if limit > MAX_EF_SEARCH:
        return False
    row = connection.execute(_PREPARE, [_index_name(_SOURCES[kind]), str(ef_search(limit))]).fetchone()
    return bool(row and row[0])


# in one query, as each is a journey to the server; versions before 0.8 can't go on until enough hits are found
_PREPARE = r"""
select to_regclass(%s) is not null, set_config('hnsw.ef_search', %s, true),
       (select set_config('hnsw.iterative_scan', 'strict_order', true) from pg_extension
        where extname = 'vector' and extversion !~ '^0\.[0-7](\.|$)')
"""


def _prepare_few(connection: psycopg.Connection[Any], kind: EntityKind, filters: Filters) -> bool:
    """Whether filters name what :data:`EXACT_UP_TO` texts at most have; then sets up this transaction for these."""
    if kind != "group" or (filters.perturbations is None and filters.cell_type_ids is None):
        return False
    own, _others = _split(kind, filters.conditions())
    # a page that is in memory costs about as much in any order
    query = (
        "select case when count(*) <= %(most)s then set_config('random_page_cost', '1.1', true) end is not null "  # noqa: S608
        f"from (select from {_SOURCES[kind].table} t {_where(own)} limit %(most)s + 1) few"
    )
    row = connection.execute(query.encode(), {**filters.values(), "most": EXACT_UP_TO}, prepare=False).fetchone()
    return bool(row and row[0])


def _build_index(connection: psycopg.Connection[Any], source: _Source, count: int) -> None:
    low, high = _BUILD_MEGABYTES
    memory = min(max(count * _BYTES_PER_VECTOR // 2**20, low), high)
    log.info("building the index of %d vectors of %s", count, source.table)
    with connection.transaction():
        connection.execute("select set_config('maintenance_work_mem', %s, true)", [f"{memory}MB"])
        # workers share the graph in /dev/shm, which containers keep small
        connection.execute("set local max_parallel_maintenance_workers = 0")
        connection.execute(
            f"create index if not exists {_index_name(source)} on {source.table} using hnsw "
            f"(embedding vector_cosine_ops) with (m = {HNSW_M}, ef_construction = {HNSW_EF_CONSTRUCTION})".encode()
        )
    connection.execute(f"analyze {source.table}".encode())


def _index_name(source: _Source) -> str:
    return f"{source.table}_embedding_hnsw"


_NAMES = """
select s.kind, s.synonym, s.target, coalesce(t.label, u.label, s.target) as label
from synonyms s
left join cell_types t on s.kind = 'cell_type' and t.cell_type_id = s.target
left join tissues u on s.kind = 'tissue' and u.tissue_id = s.target
where s.kind = any(%(kinds)s)
"""


def _candidate_names(connection: psycopg.Connection[Any], text: str, kinds: Sequence[str]) -> list[dict[str, Any]]:
    values = {"kinds": list(kinds), "text": text, "limit": TRIGRAM_CANDIDATES}
    query = _NAMES
    if has_trigrams(connection):
        query = f"{_NAMES} and s.synonym %% %(text)s order by similarity(s.synonym, %(text)s) desc limit %(limit)s"
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values).fetchall()
