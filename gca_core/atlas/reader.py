"""Reading the atlas: groups, their expression, and search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import psycopg
import scipy.sparse as sp
from psycopg.rows import dict_row

from gca_core import io
from gca_core.atlas import search
from gca_core.atlas.expression import ExpressionStore
from gca_core.atlas.models import CellGroup, CellsKind, DatasetInfo, EntityKind, NameHit, NameKind, SearchHit
from gca_core.config import Settings, load_settings
from gca_core.errors import CellRetrievalError, StoreError
from gca_core.store.migrations import require_current
from gca_core.store.models import Role
from gca_core.store.pool import MAX_CONNECTIONS, WAIT_SECONDS, pooled, retried
from gca_core.store.redact import redact
from gca_core.store.resolve import resolve_dsn, with_limits

T = TypeVar("T")
_GROUP_QUERY = """
select g.group_id, g.dataset, g.perturbation, g.is_control, g.cell_type_id, t.label as cell_type, g.donor, g.n_cells,
       g.control_group_id, g.control_match, g.tissue_id, u.label as tissue, g.row_start, d.store_uri
from cell_groups g join cell_types t using (cell_type_id) join datasets d using (dataset)
     left join tissues u using (tissue_id)
"""


class _Located(NamedTuple):
    group: CellGroup
    row_start: int
    store_uri: str


class Atlas:
    """The atlas in one database, with its expression stores.

    Each call is one transaction on a connection of the process's pool, so one object can serve several
    threads. A connection that breaks is replaced and the call made once more. Every list is in a fixed order.

    Args:
        dsn: connection string; holds a password, and isn't shown.
        store_root_uri: folder of the expression stores, used when datasets are ingested.
        max_connections: connections that this process opens at most.
        timeout: seconds that a call waits for one of them.
    """

    def __init__(
        self,
        dsn: str,
        store_root_uri: str,
        *,
        max_connections: int = MAX_CONNECTIONS,
        timeout: float = WAIT_SECONDS,
    ) -> None:
        self.dsn = dsn
        self.store_root_uri = store_root_uri
        self._max_connections = max_connections
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}(store_root_uri={self.store_root_uri!r})"

    def groups(
        self,
        *,
        dataset: str | None = None,
        perturbation: str | None = None,
        perturbations: Iterable[str] | None = None,
        cell_type_ids: Iterable[str] | None = None,
        tissue_ids: Iterable[str] | None = None,
        is_control: bool | None = None,
    ) -> list[CellGroup]:
        """The groups that meet every condition given, by id.

        Args:
            dataset: name of the dataset.
            perturbation: name of the perturbation, as :meth:`perturbations` has it.
            perturbations: several of them, of which a group has one.
            cell_type_ids: Cell Ontology ids of which a group has one.
            tissue_ids: UBERON ids of which a group has one.
            is_control: whether the groups are controls.
        """
        both = (None if perturbation is None else [perturbation], _listed(perturbations))
        wanted = both[0] if both[1] is None else both[1] if both[0] is None else sorted({*both[0]} & {*both[1]})
        filters = search.Filters(
            dataset=dataset,
            perturbations=wanted,
            cell_type_ids=_listed(cell_type_ids),
            tissue_ids=_listed(tissue_ids),
            is_control=is_control,
        )
        return [item.group for item in self._found(filters.conditions(), filters.values())]

    def get_groups(self, group_ids: Sequence[str]) -> list[CellGroup]:
        """The groups with these ids, in the order asked.

        Raises:
            CellRetrievalError: an id isn't in the atlas.
        """
        return [item.group for item in self._located(group_ids)] if group_ids else []

    def datasets(self) -> list[DatasetInfo]:
        """The datasets, by name."""
        rows = self._rows(
            "select dataset, n_cells, n_groups, n_genes, store_uri, content_hash, embedding_model, ingested_at "
            "from datasets order by dataset",
            {},
        )
        return [DatasetInfo.model_validate(row) for row in rows]

    def perturbations(self, dataset: str | None = None) -> list[str]:
        """The names of the perturbations that are not controls, in alphabetical order."""
        query = (
            "select distinct perturbation from cell_groups where not is_control "
            "and (%(dataset)s::text is null or dataset = %(dataset)s) order by perturbation"
        )
        return [row["perturbation"] for row in self._rows(query, {"dataset": dataset})]

    def cell_types(self, dataset: str | None = None) -> list[tuple[str, str]]:
        """Cell Ontology id and label of the cell types, by id."""
        query = (
            "select distinct t.cell_type_id, t.label from cell_types t join cell_groups g using (cell_type_id) "
            "where %(dataset)s::text is null or g.dataset = %(dataset)s order by t.cell_type_id"
        )
        return [(row["cell_type_id"], row["label"]) for row in self._rows(query, {"dataset": dataset})]

    def genes(self, dataset: str) -> list[str]:
        """The genes of a dataset, in the order of its matrices.

        Raises:
            CellRetrievalError: there is no such dataset.
        """
        return self._store(dataset).genes()

    def group_means(self, group_ids: Sequence[str]) -> tuple[npt.NDArray[np.float64], list[str]]:
        """Mean log1p counts per 10,000 of groups; reads no cells.

        Returns:
            (groups in the order asked x genes) and the genes: those of the one dataset, or those that
            all datasets share, in the order of the first group's.

        Raises:
            CellRetrievalError: an id is unknown, no id was given, or the datasets share no gene.
        """
        found = self._located(group_ids)
        stores, genes_of = _open_stores(found)
        genes = shared_genes(genes_of)
        result = np.empty((len(found), len(genes)))
        for dataset, store in stores.items():
            places = [place for place, item in enumerate(found) if item.group.dataset == dataset]
            means = store.means([found[place].group.group_id for place in places])
            result[places] = means[:, _columns(genes_of[dataset], genes)]
        return result, genes

    def materialise(
        self,
        group_ids: Sequence[str],
        *,
        cell_budget: int | None = None,
        seed: int = 0,
        kind: CellsKind = "prompt",
        max_cells: int | None = None,
    ) -> ad.AnnData:
        """Cells of groups as AnnData.

        The budget is shared out evenly, and what small groups leave over goes to the larger ones. Which
        cells of a group are taken depends on the group, its share and the seed alone.

        Args:
            group_ids: the groups; one named twice counts once.
            cell_budget: cells at most; None means all.
            seed: of the choice of cells.
            kind: ``prompt`` gives the cells of the groups, ``control`` those of their matched controls, and
                ``query`` the cells of the groups, which then have to be controls.
            max_cells: another name of ``cell_budget``.

        Returns:
            Raw counts (float32 CSR) in X, over the genes that the datasets share; obs with
            cell_group_id, perturbation, cell_type_id, cell_type, donor, is_control, dataset and
            cell_name. Cells are in the order of the groups asked, then of the store.

        Raises:
            CellRetrievalError: an id is unknown, none was given, the budget has no cell per group, or the
                groups don't fit the kind.
        """
        found = self._of_kind(self._located(list(dict.fromkeys(group_ids))), kind)
        shares = share_out([item.group.n_cells for item in found], max_cells if cell_budget is None else cell_budget)
        stores, genes_of = _open_stores(found)
        genes = shared_genes(genes_of)
        parts, tables = [], []
        for item, share in zip(found, shares, strict=True):
            group = item.group
            rows = _choose(group, share, seed)
            counts, names = stores[group.dataset].rows(item.row_start + rows)
            columns = genes_of[group.dataset]
            parts.append(counts if columns == genes else counts[:, _columns(columns, genes)])
            tables.append(_cell_table(group, rows, names))
        obs = pd.concat(tables)
        for name in obs.columns.drop(["is_control", "cell_name"]):
            obs[name] = pd.Categorical(obs[name], categories=sorted(set(obs[name].dropna())))
        return ad.AnnData(X=sp.csr_matrix(sp.vstack(parts)), obs=obs, var=pd.DataFrame(index=genes))

    def semantic(
        self,
        vector: Sequence[float],
        *,
        kind: EntityKind = "group",
        limit: int = 50,
        dataset: str | None = None,
        perturbations: Iterable[str] | None = None,
        exclude_perturbations: Iterable[str] = (),
        cell_type_ids: Iterable[str] | None = None,
        tissue_ids: Iterable[str] | None = None,
        is_control: bool | None = None,
        min_similarity: float | None = None,
    ) -> list[SearchHit]:
        """The groups, perturbations or cell types nearest to a vector, by cosine distance, then id.

        Exact below 50,000 entities of the kind, through an index from there on. The filters are about the
        groups behind a hit: with ``is_control=False`` a perturbation is found that some group really had.

        Args:
            vector: 1536 numbers of the atlas's embedding model.
            kind: what to look for.
            limit: hits at most.
            dataset: name of the dataset.
            perturbations: names of which one is the perturbation.
            exclude_perturbations: names that the perturbation must not have.
            cell_type_ids: Cell Ontology ids of which one is the cell type.
            tissue_ids: UBERON ids of which one is the tissue.
            is_control: whether the groups are controls.
            min_similarity: hits below this cosine similarity are left out.

        Raises:
            StoreError: the vector doesn't have 1536 numbers, or the database can't be read.
        """
        filters = search.Filters(
            dataset=dataset,
            perturbations=_listed(perturbations),
            exclude_perturbations=_listed(exclude_perturbations) or (),
            cell_type_ids=_listed(cell_type_ids),
            tissue_ids=_listed(tissue_ids),
            is_control=is_control,
        )
        hits = self._read(lambda connection: search.nearest(connection, kind, vector, limit, filters))
        return hits if min_similarity is None else [hit for hit in hits if hit.similarity >= min_similarity]

    def find_names(
        self, text: str, *, kind: NameKind | None = None, limit: int = 10, min_similarity: float = 0.5
    ) -> list[NameHit]:
        """The perturbations, cell types and tissues with a name or synonym spelled most like a text, best first.

        Args:
            text: a name as somebody wrote it.
            kind: what to look for; None means all.
            limit: hits at most.
            min_similarity: from 0 to 1, of the normalised spellings.
        """
        kinds: Sequence[NameKind] = ("perturbation", "cell_type", "tissue") if kind is None else (kind,)
        hits = self._read(lambda connection: search.find_names(connection, text, kinds, limit))
        return [hit for hit in hits if hit.similarity >= min_similarity]

    def embedding_model(self) -> str | None:
        """The name of the model whose vectors the atlas holds; None for an empty atlas."""
        rows = self._rows("select distinct embedding_model from datasets order by 1", {})
        return rows[0]["embedding_model"] if rows else None

    def similarity_threshold(self) -> float | None:
        """The cosine similarity that two unrelated names of the atlas's model hardly ever reach.

        It was measured when the first dataset came in; None where there were too few names for it.
        """
        query = (
            "select similarity_threshold from embedding_models where model in (select embedding_model from datasets)"
        )
        rows = self._rows(query, {})
        return rows[0]["similarity_threshold"] if rows else None

    def _of_kind(self, found: list[_Located], kind: CellsKind) -> list[_Located]:
        """The groups whose cells a file of this kind holds."""
        if kind == "query":
            perturbed = [item.group.group_id for item in found if not item.group.is_control]
            if perturbed:
                raise CellRetrievalError(
                    f"a query holds unperturbed cells, but these groups are perturbed: {', '.join(perturbed[:5])}; "
                    "name control groups"
                )
        if kind != "control":
            return found
        alone = [item.group.group_id for item in found if item.group.control_group_id is None]
        if alone:
            raise CellRetrievalError(
                f"these groups have no matched control: {', '.join(alone[:5])}{' and more' if len(alone) > 5 else ''}; "
                "leave them out"
            )
        return self._located(list(dict.fromkeys(str(item.group.control_group_id) for item in found)))

    def _located(self, group_ids: Sequence[str]) -> list[_Located]:
        """Groups with the place of their cells, all of one moment: a dataset may be replaced meanwhile."""
        if not group_ids:
            raise CellRetrievalError("no groups were asked for; expected at least one group id")
        wanted = sorted(set(group_ids))
        rows = self._found(["g.group_id = any(%(group_ids)s)"], {"group_ids": wanted})
        found = {item.group.group_id: item for item in rows}
        missing = [name for name in wanted if name not in found]
        if missing:
            raise CellRetrievalError(
                f"the atlas has no groups {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}; "
                "they may be of a dataset that was replaced: ask for the groups again"
            )
        return [found[name] for name in group_ids]

    def _store(self, dataset: str) -> ExpressionStore:
        rows = self._rows("select store_uri from datasets where dataset = %(dataset)s", {"dataset": dataset})
        if not rows:
            known = ", ".join(info.dataset for info in self.datasets()) or "none"
            raise CellRetrievalError(f"the atlas has no dataset {dataset!r}; it has: {known}")
        return ExpressionStore(rows[0]["store_uri"])

    def _found(self, conditions: Sequence[str], values: Mapping[str, Any]) -> list[_Located]:
        where = f"where {' and '.join(conditions)}" if conditions else ""
        return [_located(row) for row in self._rows(f"{_GROUP_QUERY} {where} order by g.group_id", values)]

    def _rows(self, query: str, values: Mapping[str, Any] | Sequence[Any]) -> list[dict[str, Any]]:
        def read(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
            with connection.cursor(row_factory=dict_row) as cursor:
                return cursor.execute(query.encode(), values).fetchall()

        return self._read(read)

    def _read(self, read: Callable[[psycopg.Connection[Any]], list[T]]) -> list[T]:
        """The result of ``read`` on a connection of the pool; once more where the connection broke."""

        def once() -> list[T]:
            with pooled(self.dsn, max_connections=self._max_connections, timeout=self._timeout) as connection:
                return read(connection)

        try:
            return retried(once)
        except psycopg.Error as error:
            raise StoreError(f"the atlas can't be read: {redact(' '.join(str(error).split()))}") from error


def open_atlas(
    settings: Settings | None = None,
    dsn: str | None = None,
    role: Role = "app",
    *,
    store_root_uri: str | None = None,
) -> Atlas:
    """The atlas of the settings, or the one at ``dsn``.

    The embedded server is started and brought to the current schema on the way; a server named by a
    DSN has to have that schema already (``gca atlas init``).

    Args:
        settings: read from the environment when None.
        dsn: a server instead of that of the settings.
        role: app, agent (reads only, limited) or admin (ingests).
        store_root_uri: folder of the expression stores; unset means ``atlases`` under GCA_HOME.

    Raises:
        ConfigurationError: no server is named and the profile is prod.
        StoreError: the server can't be reached or started, or its schema is old.
    """
    settings = settings or load_settings()
    given = with_limits(dsn) if dsn is not None and role == "agent" else dsn
    resolved = given or resolve_dsn(settings, role)
    require_current(resolved)
    root = (
        store_root_uri
        or getattr(settings, "atlas_store_uri", None)
        or (settings.home.expanduser().resolve() / "atlases").as_uri()
    )
    return Atlas(resolved, io.as_uri(root))


def share_out(sizes: Sequence[int], budget: int | None) -> list[int]:
    """Cells to take from each group: as even as the sizes allow; earlier groups get the odd ones.

    Raises:
        CellRetrievalError: the budget is below one cell per group.
    """
    if budget is None or budget >= sum(sizes):
        return list(sizes)
    if budget < len(sizes):
        raise CellRetrievalError(
            f"the budget is {budget} cells for {len(sizes)} groups; expected at least one cell per group: raise it "
            "or ask for fewer groups"
        )
    shares = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda index: (sizes[index], -index))
    left = budget
    for done, index in enumerate(order):
        shares[index] = min(sizes[index], left // (len(sizes) - done))
        left -= shares[index]
    return shares


def shared_genes(genes_of: Mapping[str, list[str]]) -> list[str]:
    """The genes that all datasets have, in the order of the first.

    Raises:
        CellRetrievalError: there is none.
    """
    lists = list(genes_of.values())
    common = set(lists[0]).intersection(*lists[1:])
    if not common:
        raise CellRetrievalError(f"the datasets {', '.join(genes_of)} share no gene; don't mix them in one prompt")
    return [gene for gene in lists[0] if gene in common]


def _listed(values: Iterable[str] | None) -> list[str] | None:
    return None if values is None else sorted(set(values))


def _located(row: Mapping[str, Any]) -> _Located:
    group = CellGroup.model_validate({name: row[name] for name in CellGroup.model_fields})
    return _Located(group, row["row_start"], row["store_uri"])


def _open_stores(found: Sequence[_Located]) -> tuple[dict[str, ExpressionStore], dict[str, list[str]]]:
    """The store and the genes of every dataset among the groups, in their order."""
    stores = {item.group.dataset: ExpressionStore(item.store_uri) for item in found}
    return stores, {dataset: store.genes() for dataset, store in stores.items()}


def _columns(genes: list[str], wanted: list[str]) -> npt.NDArray[np.int64]:
    place = {gene: column for column, gene in enumerate(genes)}
    return np.array([place[gene] for gene in wanted], dtype=np.int64)


def _choose(group: CellGroup, share: int, seed: int) -> npt.NDArray[np.int64]:
    """Rows within the group, ascending."""
    if share == group.n_cells:
        return np.arange(group.n_cells)
    generator = np.random.default_rng([seed, int(group.group_id.removeprefix("g-"), 16)])
    return np.sort(generator.choice(group.n_cells, size=share, replace=False)).astype(np.int64)


def _cell_table(group: CellGroup, rows: npt.NDArray[np.int64], names: list[str]) -> pd.DataFrame:
    columns = {
        "cell_group_id": group.group_id,
        "perturbation": group.perturbation,
        "cell_type_id": group.cell_type_id,
        "cell_type": group.cell_type,
        "donor": group.donor,
        "is_control": group.is_control,
        "dataset": group.dataset,
        "cell_name": names,
    }
    return pd.DataFrame(columns, index=[f"{group.group_id}:{row}" for row in rows])
