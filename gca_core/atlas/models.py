"""What the atlas holds, as values."""

import hashlib
import json
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from gca_core.errors import ConfigurationError

MAX_NAME = 500
ControlMatch = Literal["type_and_donor", "type"]
EntityKind = Literal["perturbation", "cell_type", "group"]
NameKind = Literal["perturbation", "cell_type", "tissue"]
CellsKind = Literal["prompt", "control", "query"]


class CellGroup(BaseModel, frozen=True, defer_build=True):
    """The cells of one dataset, perturbation, cell type and donor, and of one tissue where the dataset names them."""

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
    tissue_id: str | None = None
    tissue: str | None = None


class SearchHit(BaseModel, frozen=True, defer_build=True):
    """A perturbation (id and label are its name), a cell type or a group, with its cosine distance to the query."""

    kind: EntityKind
    id: str
    label: str
    distance: float

    @property
    def similarity(self) -> float:
        """1 minus the distance."""
        return 1.0 - self.distance


class NameHit(BaseModel, frozen=True, defer_build=True):
    """An entity one of whose names is spelled like the text asked for; 1 is the same spelling."""

    kind: NameKind
    id: str
    label: str
    name: str
    similarity: float


class DatasetInfo(BaseModel, frozen=True, defer_build=True):
    """One dataset of the atlas."""

    dataset: str
    n_cells: int
    n_groups: int
    n_genes: int
    store_uri: str
    content_hash: str
    embedding_model: str
    ingested_at: datetime


PresetName = Literal["parse_pbmc", "openproblems", "tabula_sapiens", "cellxgene_census"]


class IngestConfig(BaseModel, frozen=True, defer_build=True, coerce_numbers_to_str=True):
    """What to read from a file, and under which names.

    Attributes:
        input_uri: an h5ad, zarr, loom or 10x file with raw counts.
        dataset: the name of the dataset; ingesting other content under it replaces it.
        preset: fills what is not given below with the columns of a published kind of file: ``parse_pbmc``,
            ``openproblems``, ``tabula_sapiens`` or ``cellxgene_census``.
        perturbation_column: column of obs with the perturbation; unset where all cells are unperturbed.
        control_value: its value for unperturbed cells, as it is written there.
        perturbation_names: names to store instead of the column's values.
        perturbation_kind: what was done, for all values: ``cytokine``, ``drug``, ``treatment``, ``knockout``,
            ``CRISPRi``, ``CRISPRa``, ``knockdown``, ``overexpression``; where a gene was changed the values are genes.
        perturbation_kind_column: column of obs that says so for each cell.
        cell_type_column: column of obs with the cell type; cells without a value are left out.
        cell_type_id_column: column of obs with Cell Ontology ids, used where it has one.
        donor_column: column of obs with the donor.
        tissue_column: column of obs with the tissue.
        tissue_id_column: column of obs with UBERON ids, used where it has one.
        layer: the layer that holds the counts, or ``raw`` for those of ``raw.X``; unset means X.
        gene_column: column of var with the genes' names; unset means the index, or symbols found beside ids or numbers.
    """

    input_uri: str
    dataset: str = Field(min_length=1, max_length=MAX_NAME)
    preset: PresetName | None = None
    perturbation_column: str | None = None
    control_value: str | None = None
    perturbation_names: dict[str, str] = Field(default_factory=dict)
    perturbation_kind: str | None = None
    perturbation_kind_column: str | None = None
    cell_type_column: str | None = None
    cell_type_id_column: str | None = None
    donor_column: str | None = None
    tissue_column: str | None = None
    tissue_id_column: str | None = None
    layer: str | None = None
    gene_column: str | None = None

    @field_validator("perturbation_kind")
    @classmethod
    def _known_kind(cls, value: str | None) -> str | None:
        from gca_core.knowledge.bundled.genetic import read_kind

        try:
            return value and read_kind(value).name
        except ConfigurationError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.preset is None and self.cell_type_column is None:
            raise ValueError("cell_type_column is missing; name it, or a preset that knows it")
        if self.preset is None and (self.perturbation_column is None) != (self.control_value is None):
            raise ValueError("perturbation_column and control_value go together: give both, or neither")
        if self.perturbation_kind is not None and self.perturbation_kind_column is not None:
            raise ValueError("give perturbation_kind or perturbation_kind_column, not both")
        return self

    def columns(self) -> dict[str, str | None]:
        """The obs columns by what they are."""
        return {
            "perturbation column": self.perturbation_column,
            "perturbation kind column": self.perturbation_kind_column,
            "cell type column": self.cell_type_column,
            "cell type id column": self.cell_type_id_column,
            "donor column": self.donor_column,
            "tissue column": self.tissue_column,
            "tissue id column": self.tissue_id_column,
        }

    def check_input(self) -> None:
        """Refuse a file, columns or a layer that aren't there."""
        from gca_core.matrix.peek import check_input

        columns = {what.removesuffix(" column"): name for what, name in self.columns().items()}
        check_input(self.input_uri, columns, layer=self.layer, what="h5ad file")


class IngestReport(BaseModel, frozen=True, defer_build=True):
    """What an ingest did, and what it could not use or name.

    Attributes:
        unchanged: the atlas had this content already.
        resumed_at: the first cell that was read, where an ingest that was killed went on; else 0.
        n_matched: number of perturbed groups by how their control was found.
        perturbation_names: names that were stored instead of the file's values.
        unmapped_cell_types: labels that are no known cell type, with their cells, which were left out.
        unmapped_perturbations: perturbations that the catalogue doesn't know; kept as they are.
        unmapped_tissues: labels that are no known tissue, with their cells, which are kept without a tissue.
        columns: the columns and options that were used, after the preset.
        notes: what was guessed.
        seconds: time that the ingest took.
    """

    dataset: str
    content_hash: str
    store_uri: str
    unchanged: bool = False
    resumed_at: int = 0
    n_cells_read: int
    n_cells: int
    n_genes: int
    n_groups: int
    n_control_groups: int
    n_groups_without_control: int
    n_matched: dict[str, int] = Field(default_factory=dict)
    n_unlabelled: int
    n_without_perturbation: int
    unmapped_cell_types: dict[str, int] = Field(default_factory=dict)
    unmapped_perturbations: list[str] = Field(default_factory=list)
    unmapped_tissues: dict[str, int] = Field(default_factory=dict)
    cell_types: dict[str, str] = Field(default_factory=dict)
    tissues: dict[str, str] = Field(default_factory=dict)
    perturbations: list[str] = Field(default_factory=list)
    perturbation_names: dict[str, str] = Field(default_factory=dict)
    columns: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    embedding_model: str
    seconds: float


def make_group_id(
    dataset: str, perturbation: str, cell_type_id: str, donor: str | None, tissue_id: str | None = None
) -> str:
    """The id of a group: ``g-`` and 12 hexadecimal digits of a hash of what makes it."""
    parts = [dataset, perturbation, cell_type_id, donor]
    text = json.dumps(parts if tissue_id is None else [*parts, tissue_id], ensure_ascii=False)
    return f"g-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
