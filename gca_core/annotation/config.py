"""What one annotation of one file is asked to do."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from gca_core.annotation.defaults import MIN_OVERLAP
from gca_core.matrix.methods import RankingMethod

TOP_N_MARKERS = 40
PREFIX = "gptca_"
# species and tissue of each preset
PRESETS = {
    "human_pbmc": ("human", "blood"),
    "mouse_pbmc": ("mouse", "blood"),
    "mouse_brain": ("mouse", "brain"),
}
# run ids of schedulers hold times, hence + and :
REQUEST_ID = r"^[A-Za-z0-9][A-Za-z0-9._:+@=-]*$"

Uri = Annotated[str, StringConstraints(min_length=1)]


class AnnotationConfig(BaseModel):
    """One annotation of one file; see :func:`gca_core.annotation.annotate_anndata` for the other options.

    Options that are None stand for their defaults.

    Attributes:
        input_uri: an h5ad, zarr, loom or 10x file.
        output_uri: the folder for the results.
        preset: ``human_pbmc``, ``mouse_pbmc`` or ``mouse_brain`` instead of species and tissue.
        label_column: column of obs with known labels, to measure agreement.
        ontology_column: column of obs with the Cell Ontology ids of the known labels.
        marker_db: a marker table instead of the bundled one.
        vocabulary: ``broad``, or a table with names for the labels, which are written beside them.
        recompute_markers: False uses the ranking in ``uns["rank_genes_groups"]``, of the cluster column.
        backed: leave the matrix in its file and read it in parts; None does so for large h5ad files.
        json_report, summary_csv, html_report: further places for these results.
        request_id: names this run in logs and results; None makes one up.
        corrections: a file of corrections written by a review, which replace labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_uri: Uri
    output_uri: Uri
    cluster_key: str | None = None
    preset: str | None = None
    species: str = "human"
    tissue: str | None = None
    label_column: str | None = None
    ontology_column: str | None = None
    marker_db: str | None = None
    vocabulary: Uri | None = None
    prefix: str = PREFIX
    top_n_markers: int = Field(default=TOP_N_MARKERS, ge=5)
    min_overlap: int = Field(default=MIN_OVERLAP, ge=1)
    force_unknown: bool = True
    layer: str | None = None
    gene_symbols: str | None = None
    ranking: RankingMethod = "t-test_overestim_var"
    recompute_markers: bool = True
    resolution: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**32)
    backed: bool | None = None
    json_report: Uri | None = None
    summary_csv: Uri | None = None
    html_report: Uri | None = None
    request_id: Annotated[str, StringConstraints(pattern=REQUEST_ID, max_length=200)] | None = None
    corrections: Uri | None = None

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        """Fill species and tissue from the preset; what is given beside it has to say the same."""
        if not isinstance(given, dict):
            return given
        values = {name: value for name, value in given.items() if value is not None}
        preset = values.get("preset")
        if preset is None:
            return values
        if preset not in PRESETS:
            raise ValueError(f"the preset {preset!r} is not known; use one of {', '.join(PRESETS)}")
        for name, value in zip(("species", "tissue"), PRESETS[preset], strict=True):
            if values.setdefault(name, value) != value:
                raise ValueError(
                    f"the preset {preset} means {name} {value!r}, but {name} is {values[name]!r}; leave one of them out"
                )
        return values

    @model_validator(mode="after")
    def _check_ranking(self) -> AnnotationConfig:
        if not self.recompute_markers and self.cluster_key is None:
            raise ValueError("a ranking that is there belongs to clusters; name their column as cluster_key")
        return self

    def check_input(self) -> None:
        """Refuse a file, columns or a layer that aren't there, and a folder that can't be written to."""
        from gca_core.matrix.peek import check_input

        columns = {"cluster": self.cluster_key, "label": self.label_column, "ontology": self.ontology_column}
        check_input(self.input_uri, columns, layer=self.layer, output_uri=self.output_uri)
