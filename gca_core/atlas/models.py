"""What the atlas holds, as values."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ControlMatch = Literal["type_and_donor", "type"]
EntityKind = Literal["perturbation", "cell_type"]


class CellGroup(BaseModel):
    """The cells of one dataset, perturbation, cell type and donor."""

    model_config = ConfigDict(frozen=True)

    group_id: str
    dataset: str
    perturbation: str
    is_control: bool
    cell_type_id: str
    cell_type: str
    donor: str | None
    n_cells: int
    control_group_id: str | None = None
    control_match: ControlMatch | None = None


class SearchHit(BaseModel):
    """A perturbation (id and label are its name) or a cell type, with its cosine distance to the query."""

    model_config = ConfigDict(frozen=True)

    kind: EntityKind
    id: str
    label: str
    distance: float


class DatasetInfo(BaseModel):
    """One dataset of the atlas."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    n_cells: int
    n_groups: int
    n_genes: int
    store_uri: str
    content_hash: str
    embedding_model: str
    ingested_at: datetime


class IngestConfig(BaseModel):
    """What to read from a file, and under which names.

    Attributes:
        input_uri: an h5ad file with raw counts.
        dataset: the name of the dataset; ingesting other content under it replaces it.
        perturbation_column: obs column of the perturbation.
        control_value: its value for unperturbed cells.
        perturbation_names: names to store instead of the column's values.
        cell_type_column: obs column of the cell type; cells without a value are left out.
        cell_type_id_column: obs column of Cell Ontology ids, used where it has one.
        donor_column: obs column of the donor.
        layer: the layer that holds the counts; None means X.
    """

    model_config = ConfigDict(frozen=True)

    input_uri: str
    dataset: str = Field(min_length=1)
    perturbation_column: str
    control_value: str
    perturbation_names: dict[str, str] = Field(default_factory=dict)
    cell_type_column: str
    cell_type_id_column: str | None = None
    donor_column: str | None = None
    layer: str | None = None


class IngestReport(BaseModel):
    """What an ingest did, and what it could not use."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    content_hash: str
    store_uri: str
    unchanged: bool = False
    n_cells_read: int
    n_cells: int
    n_genes: int
    n_groups: int
    n_control_groups: int
    n_groups_without_control: int
    n_unlabelled: int
    n_without_perturbation: int
    unmapped_cell_types: dict[str, int] = Field(default_factory=dict)
    cell_types: dict[str, str] = Field(default_factory=dict)
    perturbations: list[str] = Field(default_factory=list)
    embedding_model: str
    seconds: float


def make_group_id(dataset: str, perturbation: str, cell_type_id: str, donor: str | None) -> str:
    """The id of a group: ``g-`` and 12 hexadecimal digits of a hash of what makes it."""
    text = json.dumps([dataset, perturbation, cell_type_id, donor], ensure_ascii=False)
    return f"g-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
