"""Columns of published kinds of files, so that nobody has to look them up.

Each entry lists the names under which such files have a thing, the likeliest first; the first that the file has
is taken. What a user gives goes before the preset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from gca_core.atlas.models import IngestConfig, PresetName
from gca_core.errors import DataValidationError


@dataclass(frozen=True)
class Preset:
    """What a kind of file calls things.

    Attributes:
        about: the files that are meant.
        obs: names of obs columns by the option that they fill.
        control_value: the value of unperturbed cells; None where no cell was perturbed.
        perturbation_kind: what was done to the others.
        layers: where raw counts may be; ``raw`` is raw.X; X is taken where none of them is there.
        gene_columns: var columns of gene symbols; the index is taken where none of them is there.
        needed: options without which a file is not of this kind.
    """

    about: str
    obs: Mapping[str, Sequence[str]]
    control_value: str | None = None
    perturbation_kind: str | None = None
    layers: Sequence[str] = ()
    gene_columns: Sequence[str] = ()
    needed: Sequence[str] = ("cell_type_column",)


PRESETS: Mapping[PresetName, Preset] = MappingProxyType(
    {
        "parse_pbmc": Preset(
            about="Parse Biosciences, 10 million PBMC of 12 donors under 90 cytokines",
            obs={
                "perturbation_column": ("cytokine",),
                "cell_type_column": ("cell_type",),
                "donor_column": ("donor",),
            },
            control_value="PBS",
            perturbation_kind="cytokine",
            needed=("perturbation_column", "cell_type_column"),
        ),
        "openproblems": Preset(
            about="Open Problems perturbation prediction (NeurIPS 2023), PBMC under 146 compounds: sc_counts.h5ad",
            obs={
                "perturbation_column": ("sm_name",),
                "cell_type_column": ("cell_type",),
                "donor_column": ("donor_id",),
            },
            control_value="Dimethyl Sulfoxide",
            perturbation_kind="drug",
            layers=("counts",),
            needed=("perturbation_column", "cell_type_column"),
        ),
        "tabula_sapiens": Preset(
            about="Tabula Sapiens, the files of figshare and those of CELLxGENE Discover",
            obs={
                "cell_type_column": ("cell_ontology_class", "cell_type"),
                "cell_type_id_column": ("cell_type_ontology_term_id",),
                "donor_column": ("donor", "donor_id"),
                "tissue_column": ("organ_tissue", "tissue"),
                "tissue_id_column": ("tissue_ontology_term_id",),
            },
            layers=("raw_counts", "raw"),
            gene_columns=("gene_symbol", "feature_name"),
        ),
        "cellxgene_census": Preset(
            about="CELLxGENE Census slices (get_anndata) and source files, and files of CELLxGENE Discover",
            obs={
                "cell_type_column": ("cell_type",),
                "cell_type_id_column": ("cell_type_ontology_term_id",),
                "donor_column": ("donor_id",),
                "tissue_column": ("tissue",),
                "tissue_id_column": ("tissue_ontology_term_id",),
            },
            layers=("raw",),
            gene_columns=("feature_name",),
        ),
    }
)


def apply_preset(
    config: IngestConfig, *, obs: Sequence[str], var: Sequence[str], layers: Sequence[str]
) -> IngestConfig:
    """The configuration with what the preset fills in.

    Args:
        config: what the user gave.
        obs: the file's obs columns.
        var: its var columns.
        layers: its layers, with ``raw`` among them where raw.X is there.

    Raises:
        DataValidationError: the file isn't of the preset's kind.
    """
    if config.preset is None:
        return config
    preset = PRESETS[config.preset]
    found = {option: _first(names, obs) for option, names in preset.obs.items()}
    found |= {"layer": _first(preset.layers, layers), "gene_column": _first(preset.gene_columns, var)}
    given = config.model_dump(exclude_none=True)
    values = {option: name for option, name in found.items() if name is not None} | given
    for option in preset.needed:
        if option not in values:
            raise DataValidationError(
                f"{config.input_uri} doesn't look like a file of the preset {config.preset} ({preset.about}): it has "
                f"no column {' or '.join(map(repr, preset.obs[option]))}; give the {option.replace('_', ' ')} yourself"
            )
    if "perturbation_column" in values and "control_value" not in values:
        if preset.control_value is None:
            raise DataValidationError(
                f"the preset {config.preset} knows no control; with a perturbation column give the control value, too"
            )
        values["control_value"] = preset.control_value
    if not given.keys() & {"perturbation_column", "perturbation_kind", "perturbation_kind_column"}:
        values["perturbation_kind"] = preset.perturbation_kind
    return IngestConfig.model_validate(values)


def _first(names: Sequence[str], present: Sequence[str]) -> str | None:
    return next((name for name in names if name in present), None)
