"""The demonstration: the bundled Kang 2018 cells as an atlas, without the answer to the question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
from pydantic import BaseModel

from gca_core import io
from gca_core.atlas import open_atlas
from gca_core.atlas.ingest import ingest
from gca_core.atlas.ingest.names import NameResolver
from gca_core.atlas.models import IngestConfig
from gca_core.config import Settings
from gca_core.errors import CellRetrievalError
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.demo.holdout import split_withheld
from gca_core.haystack.models import StructuredQuery
from gca_core.haystack.results.compare import TruthComparison, compare_with_truth

if TYPE_CHECKING:
    from anndata import AnnData

PERTURBATION = "interferon beta"
STIMULATED, CONTROL = "stim", "ctrl"
ID_COLUMN, CONDITION = "cell_type_ontology_id", "condition"


class DemoFiles(BaseModel, frozen=True):
    """The bundled data without the answer, and the answer, as h5ad files.

    Attributes:
        dataset: name in the atlas.
        atlas_uri: what the atlas may know.
        truth_uri: the stimulated cells of the asked type, which the atlas doesn't hold.
        control_uri: the control cells of that type.
    """

    dataset: str
    atlas_uri: str
    truth_uri: str
    control_uri: str

    def ingest_config(self) -> IngestConfig:
        """How the atlas's part is ingested."""
        return IngestConfig(
            input_uri=self.atlas_uri,
            dataset=self.dataset,
            perturbation_column=CONDITION,
            control_value=CONTROL,
            perturbation_names={STIMULATED: PERTURBATION},
            cell_type_column="cell_type",
            cell_type_id_column=ID_COLUMN,
        )

    def compare(self, prediction_uri: str) -> TruthComparison:
        """Hold a prediction against the cells that were put aside."""
        with io.local_copy(self.truth_uri) as truth, io.local_copy(self.control_uri) as control:
            return compare_with_truth(prediction_uri, ad.read_h5ad(truth), ad.read_h5ad(control))


def write_demo_files(query: StructuredQuery, folder_uri: str) -> DemoFiles:
    """Split the bundled data into what the atlas may know and the answer to a question.

    Raises:
        CellRetrievalError: the bundled data don't hold what is asked.
    """
    from gca_core.datasets import kang2018_mini

    cells = kang2018_mini()
    _check(query, cells)
    kept, truth = split_withheld(cells, query.cell_type_id, perturbed_value=STIMULATED)
    same_type = (cells.obs[ID_COLUMN] == query.cell_type_id).to_numpy(dtype=bool, na_value=False)
    parts = {"atlas": kept, "truth": truth, "control": cells[same_type & (cells.obs[CONDITION] == CONTROL).to_numpy()]}
    uris = {name: io.join_uri(folder_uri, f"{name}.h5ad") for name in parts}
    for name, part in parts.items():
        with io.staged(uris[name]) as path:
            part.write_h5ad(path, compression="gzip")
    dataset = f"kang2018-mini-without-{query.cell_type_id.replace(':', '-')}"
    return DemoFiles(dataset=dataset, atlas_uri=uris["atlas"], truth_uri=uris["truth"], control_uri=uris["control"])


def prepare_demo(query: StructuredQuery, context: HaystackContext, settings: Settings) -> DemoFiles:
    """Ingest the bundled data without the stimulated cells of the asked type.

    Raises:
        CellRetrievalError: the bundled data don't hold what is asked.
        StoreError: the database can't be reached.
    """
    folder = io.join_uri(settings.results_root(), "haystack", "demo", io.safe_name(query.cell_type_id))
    files = write_demo_files(query, folder)
    ingest(
        files.ingest_config(),
        open_atlas(settings, role="admin"),
        embed=lambda texts: context.embed(texts),
        resolver=NameResolver(context.ontology.resolve, label_cell_type=context.ontology.label),
        embedding_model=context.embedding_model,
    )
    return files


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
