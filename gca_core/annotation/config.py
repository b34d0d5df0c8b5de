"""The options of annotation: each one's type, default, limits and help, for functions, files, commands and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from gca_core.annotation.scoring.parameters import MIN_OVERLAP, TOP_N_MARKERS
from gca_core.errors import ConfigurationError, complaints
from gca_core.matrix import RankingMethod

# species and tissue of each preset
PRESETS: dict[str, tuple[Literal["human", "mouse"], str]] = {
    "human_pbmc": ("human", "blood"),
    "mouse_pbmc": ("mouse", "blood"),
    "mouse_brain": ("mouse", "brain"),
}
# run ids of schedulers hold times, hence + and :
REQUEST_ID = r"^[A-Za-z0-9][A-Za-z0-9._:+@=-]*$"

Uri = Annotated[str, StringConstraints(min_length=1)]
M = TypeVar("M", bound="AnnotationOptions")


def _option(default: Any, group: str, description: str, **limits: Any) -> Any:
    """A field with its help, in the group of options that the command line shows it in."""
    return Field(default, description=description, json_schema_extra={"group": group}, **limits)


class AnnotationOptions(BaseModel, frozen=True, extra="forbid"):
    """How clusters are labelled, whatever holds them; see the description of each field.

    The functions that annotate take these as keyword arguments, each as far as it can use them.
    """

    cluster_key: str | None = _option(
        None, "Input", "Column of obs with the clusters. Left out: Leiden clusters are computed."
    )
    species: Literal["human", "mouse"] = _option(
        "human", "Input", "Of the cells. A marker table without rows for mouse is matched by the symbols' letters."
    )
    tissue: str | None = _option(
        None, "Input", "Where the cells are from, such as blood, lung or PBMC; other types need more evidence."
    )
    labels_key: str | None = _option(
        None, "Input", "Column of obs with known labels, to measure agreement with or to validate."
    )
    ontology_column: str | None = _option(
        None, "Input", "Column of obs with the Cell Ontology ids of the known labels."
    )
    layer: str | None = _option(
        None, "Input", "Layer with log-normalised values or counts. Left out: found by looking."
    )
    gene_symbols: str | None = _option(
        None, "Input", "Column of var with gene symbols. Left out: the names, or a column found by looking."
    )
    reference_labels: str | None = _option(None, "Evidence", "Column of the reference's obs with its labels.")
    opinion_column: str | None = _option(
        None, "Evidence", "Column of obs with labels by another model, which are heard beside the markers."
    )
    consensus: bool = _option(
        False, "Evidence", "Join markers or model, ULM on cells, the reference and the other labels by majority."
    )
    top_n_markers: int = _option(TOP_N_MARKERS, "Evidence", "Genes taken per cluster.", ge=5)
    min_overlap: int = _option(MIN_OVERLAP, "Evidence", "Fewest markers that support a label.", ge=1)
    force_unknown: bool = _option(
        True, "Guardrails", "Call clusters with too little evidence Unknown or Novel, or keep the label, flagged."
    )
    ranking: RankingMethod = _option("t-test_overestim_var", "Evidence", "Test that ranks genes, as scanpy names it.")
    resolution: float = _option(
        1.0, "Evidence", "Of Leiden clusters, where they are computed.", gt=0, allow_inf_nan=False
    )
    seed: int = _option(0, "Evidence", "Of everything random.", ge=0, lt=2**32)
    prefix: str = _option("gptca_", "Output", "Prefix of the columns written to obs.")
    request_id: Annotated[str, StringConstraints(pattern=REQUEST_ID, max_length=200)] | None = _option(
        None, "Output", "Names this run in logs and results. Left out: a new one."
    )


class AnnotationConfig(AnnotationOptions):
    """One annotation of one file. Options that are None stand for their defaults."""

    input_uri: Uri = Field(description="An h5ad, zarr, loom or 10x file: a path, or a file:// or gs:// URI.")
    output_uri: Uri = Field(description="Folder for the results.", json_schema_extra={"group": "Output"})
    preset: str | None = _option(None, "Input", "Species and tissue in one: human_pbmc, mouse_pbmc or mouse_brain.")
    backed: bool | None = _option(
        None, "Input", "Leave the matrix in its file and read it in parts. Left out: large h5ad files only."
    )
    recompute_markers: bool = _option(
        True, "Evidence", "Rank genes; or else use the ranking in uns['rank_genes_groups'] of the cluster column."
    )
    marker_db: str | None = _option(
        None, "Evidence", "A marker table of any known format. Left out: GCA_MARKER_DB_PATH, or the bundled one."
    )
    vocabulary: Uri | None = _option(
        None,
        "Evidence",
        "Names to write the labels in, too: broad, or a CSV or TSV with the columns label and ontology_id.",
    )
    reference: Uri | None = _option(
        None, "Evidence", "A file of labelled cells that each cell is compared with; they are heard beside the markers."
    )
    corrections: Uri | None = _option(
        None, "Evidence", "Corrections that 'gca review --apply' wrote; they replace labels."
    )
    umap: bool = _option(True, "Output", "Compute a UMAP to draw the cells on, where obsm holds none.")
    json_report: Uri | None = _option(None, "Output", "A further place for report.json.")
    summary_csv: Uri | None = _option(None, "Output", "A further place for clusters.csv.")
    html_report: Uri | None = _option(None, "Output", "A further place for report.html.")
    overwrite: bool = _option(True, "Output", "Replace earlier results, or refuse to.")

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
        if (self.reference is None) != (self.reference_labels is None):
            raise ValueError("a reference needs the column of its labels: name both reference and reference_labels")
        return self

    def check_input(self) -> None:
        """Refuse a file, columns or a layer that aren't there, and a folder that can't be written to."""
        from gca_core.matrix.peek import check_input

        columns = {
            "cluster": self.cluster_key,
            "label": self.labels_key,
            "ontology": self.ontology_column,
            "opinion": self.opinion_column,
        }
        check_input(self.input_uri, columns, layer=self.layer, output_uri=self.output_uri)


def make_options(model: type[M], values: Mapping[str, Any]) -> M:
    """The options that ``values`` describe.

    Raises:
        ConfigurationError: one is unknown or out of range, or two of them contradict each other.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigurationError(complaints(error)) from None
