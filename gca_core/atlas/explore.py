"""What the atlas holds, for people who look around in it: counts, names, and groups page by page.

Loads neither anndata nor the expression stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import dict_row
from pydantic import BaseModel

from gca_core.atlas.models import CellGroup
from gca_core.errors import StoreError
from gca_core.store.migrations import check_current
from gca_core.store.pool import pooled, retried
from gca_core.store.redact import redact

_OVERVIEW = """
select (select count(*) from datasets) as n_datasets,
       (select coalesce(sum(n_cells), 0) from datasets)::bigint as n_cells,
       (select coalesce(sum(n_groups), 0) from datasets)::bigint as n_groups,
       (select count(*) from perturbations p where exists
           (select 1 from cell_groups g where g.perturbation = p.name and not g.is_control)) as n_perturbations,
       (select count(*) from cell_types t where exists
           (select 1 from cell_groups g where g.cell_type_id = t.cell_type_id)) as n_cell_types
"""
_NAMES = {
    "cell_type": "select label as name from cell_types",
    "perturbation": "select name from perturbations",
    "tissue": "select label as name from tissues",
    "dataset": "select dataset as name from datasets",
}
# synonyms hold the own name of everything too
_KNOWN_AS = """
select target from synonyms where kind = %(kind)s and strpos(lower(synonym), lower(%(text)s)) > 0 union select %(text)s
"""
_DATASETS = "select dataset as target from datasets where strpos(lower(dataset), lower(%(text)s)) > 0"
_COLUMNS = {"cell_type": "cell_type_id", "perturbation": "perturbation", "tissue": "tissue_id", "dataset": "dataset"}
# a word that fits every name leaves nothing out; a group may have no tissue
_IDS = {
    "cell_type": "select cell_type_id as id from cell_types",
    "perturbation": "select name as id from perturbations",
    "tissue": "select null as id",
    "dataset": "select dataset as id from datasets",
}
# the page is cut before labels are looked up
_PAGE = """
select g.*, t.label as cell_type, u.label as tissue from (
    select group_id, dataset, perturbation, is_control, cell_type_id, donor, n_cells, control_group_id, control_match,
           tissue_id
    from cell_groups g where {where} order by {order} limit %(limit)s offset %(offset)s
) g join cell_types t using (cell_type_id) left join tissues u using (tissue_id) order by {order}
"""
_ORDER = "g.perturbation, g.cell_type_id, g.group_id"


# of the perturbations and types with most cells
_OPEN_PAIRS = """
select p.perturbation, t.label as cell_type from
    (select perturbation, sum(n_cells) as n from cell_groups where not is_control group by 1 order by 2 desc limit 5) p
    cross join
    (select cell_type_id, sum(n_cells) as n from cell_groups where is_control group by 1 order by 2 desc limit 20) c
    join cell_types t using (cell_type_id)
where not exists
    (select 1 from cell_groups g where g.perturbation = p.perturbation and g.cell_type_id = c.cell_type_id)
order by p.n desc, c.n desc, 1, 2 limit %(limit)s
"""


class Overview(BaseModel, frozen=True):
    """How much the atlas holds; controls are no perturbations."""

    n_datasets: int
    n_cells: int
    n_groups: int
    n_perturbations: int
    n_cell_types: int


class GroupPage(BaseModel, frozen=True):
    """Some of the groups that fit, by perturbation and cell type, and how many fit in all."""

    groups: tuple[CellGroup, ...]
    n_groups: int
    n_cells: int


class Explorer:
    """Looks around in the atlas behind a connection string.

    Raises:
        StoreError: by each method, where the database can't be read.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn, self._checked = dsn, False

    def overview(self) -> Overview:
        """Counts of everything."""
        return Overview.model_validate(self._rows(_OVERVIEW, {})[0])

    def names(self, limit: int = 500) -> dict[str, list[str]]:
        """Names to choose from, in alphabetical order: cell_type, perturbation, tissue, dataset."""
        wanted = {kind: f"{query} order by 1 limit %(limit)s" for kind, query in _NAMES.items()}
        return {kind: [row["name"] for row in self._rows(query, {"limit": limit})] for kind, query in wanted.items()}

    def open_pairs(self, limit: int = 3) -> list[tuple[str, str]]:
        """Cell types with controls, and perturbations that were measured in other types only: what is worth asking."""
        rows = self._rows(_OPEN_PAIRS, {"limit": limit})
        return [(row["cell_type"], row["perturbation"]) for row in rows]

    def browse(
        self,
        *,
        cell_type: str | None = None,
        perturbation: str | None = None,
        tissue: str | None = None,
        dataset: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> GroupPage:
        """The groups that fit every word given: a part of a name or synonym in any case, or an id.

        Costs time linear in the groups that fit; 50 ms for all of 100,000.
        """
        asked = {"cell_type": cell_type, "perturbation": perturbation, "tissue": tissue, "dataset": dataset}
        conditions: list[str] = []
        values: dict[str, Any] = {}
        for kind, text in asked.items():
            if text and text.strip():
                # as a list that is known, so that an index serves
                query = _DATASETS if kind == "dataset" else _KNOWN_AS
                known = {row["target"] for row in self._rows(query, {"kind": kind, "text": text.strip()})}
                if not known.issuperset(row["id"] for row in self._rows(_IDS[kind], {})):
                    values[kind] = list(known)
                    conditions.append(f"g.{_COLUMNS[kind]} = any(%({kind})s)")
        where = " and ".join(conditions) or "true"
        count = f"select count(*) as n_groups, coalesce(sum(n_cells), 0)::bigint as n_cells from cell_groups g where {where}"  # noqa: E501, S608
        page = {"limit": limit, "offset": offset}
        rows = self._rows(_PAGE.format(where=where, order=_ORDER), {**values, **page})
        groups = tuple(CellGroup.model_validate(row) for row in rows)
        return GroupPage(groups=groups, **self._rows(count, values)[0])

    def _rows(self, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        def once() -> list[dict[str, Any]]:
            with pooled(self._dsn) as connection, connection.cursor(row_factory=dict_row) as cursor:
                if not self._checked:
                    check_current(connection)
                    self._checked = True
                return cursor.execute(query.encode(), values).fetchall()

        try:
            return retried(once)
        except psycopg.Error as error:
            raise StoreError(f"the atlas can't be read: {redact(' '.join(str(error).split()))}") from error
