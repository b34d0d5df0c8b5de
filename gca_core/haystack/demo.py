"""The demonstration: the bundled Kang 2018 cells as an atlas, without the answer to the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gca_core import io
from gca_core.atlas import open_atlas
from gca_core.atlas.ingest import ingest
from gca_core.atlas.models import IngestConfig
from gca_core.config import Settings
from gca_core.errors import CellRetrievalError
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.holdout import split_withheld
from gca_core.haystack.models import StructuredQuery

if TYPE_CHECKING:
    from anndata import AnnData

PERTURBATION = "interferon beta"
STIMULATED, CONTROL = "stim", "ctrl"
ID_COLUMN, CONDITION = "cell_type_ontology_id", "condition"


@dataclass(frozen=True)
class Demo:
    """A dataset of the atlas, and what was put aside.

    Attributes:
        dataset: name in the atlas.
        truth: the stimulated cells of the asked type, which the atlas doesn't hold.
        control: the control cells of that type.
    """

    dataset: str
    truth: AnnData
    control: AnnData


def prepare_demo(query: StructuredQuery, context: HaystackContext, settings: Settings) -> Demo:
    """Ingest the bundled data without the stimulated cells of the asked type.

    Raises:
        CellRetrievalError: the bundled data don't hold what is asked.
        StoreError: the database can't be reached.
    """
    from gca_core.datasets import kang2018_mini

    cells = kang2018_mini()
    _check(query, cells)
    kept, truth = split_withheld(cells, query.cell_type_id, perturbed_value=STIMULATED)
    dataset = f"kang2018_mini_without_{query.cell_type_id.replace(':', '_')}"
    source = io.join_uri(settings.results_root(), "haystack", "demo", f"{dataset}.h5ad")
    with io.staged(source) as path:
        kept.write_h5ad(path, compression="gzip")
    ingest(
        IngestConfig(
            input_uri=source,
            dataset=dataset,
            perturbation_column=CONDITION,
            control_value=CONTROL,
            perturbation_names={STIMULATED: PERTURBATION},
            cell_type_column="cell_type",
            cell_type_id_column=ID_COLUMN,
        ),
        open_atlas(settings, role="admin"),
        embed=lambda texts: context.embed(texts),
        resolve_cell_type=context.ontology.resolve,
        label_of=context.ontology.label,
        embedding_model=context.embedding_model,
    )
    same_type = (cells.obs[ID_COLUMN] == query.cell_type_id).to_numpy(dtype=bool, na_value=False)
    control = cells[same_type & (cells.obs[CONDITION] == CONTROL).to_numpy()].copy()
    return Demo(dataset=dataset, truth=truth, control=control)


def _check(query: StructuredQuery, cells: AnnData) -> None:
    if query.perturbation != PERTURBATION:
        raise CellRetrievalError(
            f"the demonstration data hold {PERTURBATION!r} only, but the question asks for {query.perturbation!r}; "
            "ingest a dataset of yours and leave out --demo"
        )
    known = cells.obs[[ID_COLUMN, "cell_type"]].dropna().drop_duplicates()
    if query.cell_type_id not in set(known[ID_COLUMN]):
        raise CellRetrievalError(
            f"the demonstration data hold no {query.cell_type!r}; they hold: "
            f"{'; '.join(sorted(known['cell_type'].astype(str)))}"
        )
