"""What a latent run is told: one frozen model.

Its values come from, lowest first: ``default.yaml``, the machine profile, the caller's defaults, the run's own
YAML file, ``GCA_VAE__*`` variables, and arguments.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Mapping
from functools import cache, partial
from importlib import resources
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gca_core.errors import ConfigurationError, complaints
from gca_core.io import read_yaml

Likelihood = Literal["nb", "zinb", "gaussian"]
Dispersion = Literal["gene", "gene-batch"]
Device = Literal["auto", "cpu", "cuda"]
Compression = Literal["gzip", "lzf", "none"]
ENVIRONMENT_PREFIX = "GCA_VAE__"
NESTED = "__"
MAPPINGS = frozenset({"label_map"})
Width = Annotated[int, Field(ge=1, le=8192)]


@cache
def _packaged_defaults() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("default.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def default_value(name: str) -> Any:
    """The value of an option in ``default.yaml``."""
    return copy.deepcopy(_packaged_defaults()[name])


class LatentConfig(BaseModel):
    """Options of :func:`gca_core.latent.run_training`; their defaults stand in ``default.yaml``.

    Args:
        input_uri: an h5ad file, a zarr store, a 10x h5 file or a folder with 10x mtx files, path or URI.
        output_dir: folder, path or URI, that receives the results.
        counts_layer: where the values are: ``X``, ``raw`` or a layer's name. Unset means ``X``, or with
            ``recover_counts`` the first of ``X`` and ``raw`` that is log-normalised.
        recover_counts: the values are log-normalised counts; recover the counts from them.
        n_top_genes: highly variable genes that the model sees, chosen on the training cells; unset means all.
        max_ram_usage_gb: memory the process may use, in GiB; a file that doesn't fit is read in parts. Unset
            means no limit.
        batch_key: column of obs with the batch, a covariate of the decoder.
        label_key: column of obs with known labels, used for the evaluation; for training only with ``label_head``.
        label_map: replaces labels before the evaluation, e.g. fine by coarse ones; every label has to
            be in it, and a label mapped to null is left out of the evaluation.
        latent_dim: size of the latent space.
        hidden_dims: widths of the encoder's layers; the decoder has them in reverse order.
        dropout: share of the encoder's hidden units left out in training.
        likelihood: ``nb``, ``zinb``, or ``gaussian`` on log-normalised values.
        dispersion: one per ``gene``, or per ``gene-batch``.
        encode_covariates: show the batch to the encoder too; cells of batches that weren't trained on can
            then not be embedded.
        label_head: a classifier of the labels on the latent space, trained along with it from the labelled
            training cells.
        classification_weight: weight of its cross-entropy beside the ELBO's nats per cell.
        lr: learning rate of Adam.
        weight_decay: L2 penalty of Adam.
        epochs: passes over the training cells at most.
        batch_size: cells per step.
        kl_warmup_epochs: epochs over which the weight of the KL term rises from 0 to 1; unset means half
            of ``epochs``.
        early_stopping_patience: epochs without a better held-out ELBO after which training stops,
            counted once the warm-up is over; unset means never.
        validation_fraction: share of the cells held out of training to watch the ELBO.
        test_batches: values of ``split_key`` whose cells are kept out of training; the evaluation is then of
            these cells.
        split_key: column of obs with the values of ``test_batches``; unset means ``batch_key``.
        test_fraction: share of the cells kept out of training as test cells, by chance, if no test batches are
            named.
        evaluation_cells: cells of the evaluation at most, drawn by chance.
        n_folds: folds of the evaluation, where no test cells are kept out.
        knn_neighbors: neighbours of the kNN classifier.
        seed: seed of every random choice.
        threads: CPU threads of torch, OpenMP and MKL; another number can change sums in their last digits, so
            results are identical only for equal numbers.
        loader_workers: threads that prepare batches ahead, from counts in memory; one means that each batch is made
            when it is needed. No number depends on theirs.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is a GPU.
        autocast: mixed precision on CUDA.
        gpu_memory_fraction: share of the GPU's memory that the process may take.
        compression: of the h5ad files that are written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, validate_default=True)

    input_uri: str = Field(min_length=1)
    output_dir: str = Field(min_length=1)
    counts_layer: str | None = Field(default_factory=partial(default_value, "counts_layer"))
    recover_counts: bool = Field(default_factory=partial(default_value, "recover_counts"))
    n_top_genes: int | None = Field(default_factory=partial(default_value, "n_top_genes"), ge=2)
    max_ram_usage_gb: float | None = Field(default_factory=partial(default_value, "max_ram_usage_gb"), gt=0)
    batch_key: str | None = Field(default_factory=partial(default_value, "batch_key"))
    label_key: str | None = Field(default_factory=partial(default_value, "label_key"))
    label_map: dict[str, str | None] | None = Field(default_factory=partial(default_value, "label_map"))

    latent_dim: int = Field(default_factory=partial(default_value, "latent_dim"), ge=1, le=512)
    hidden_dims: tuple[Width, ...] = Field(default_factory=partial(default_value, "hidden_dims"), min_length=1)
    dropout: float = Field(default_factory=partial(default_value, "dropout"), ge=0, lt=1)
    likelihood: Likelihood = Field(default_factory=partial(default_value, "likelihood"))
    dispersion: Dispersion = Field(default_factory=partial(default_value, "dispersion"))
    encode_covariates: bool = Field(default_factory=partial(default_value, "encode_covariates"))
    label_head: bool = Field(default_factory=partial(default_value, "label_head"))
    classification_weight: float = Field(default_factory=partial(default_value, "classification_weight"), gt=0)

    lr: float = Field(default_factory=partial(default_value, "lr"), gt=0, le=1)
    weight_decay: float = Field(default_factory=partial(default_value, "weight_decay"), ge=0)
    epochs: int = Field(default_factory=partial(default_value, "epochs"), ge=1)
    batch_size: int = Field(default_factory=partial(default_value, "batch_size"), ge=2)
    kl_warmup_epochs: int | None = Field(default_factory=partial(default_value, "kl_warmup_epochs"), ge=0)
    early_stopping_patience: int | None = Field(default_factory=partial(default_value, "early_stopping_patience"), ge=1)
    validation_fraction: float = Field(default_factory=partial(default_value, "validation_fraction"), gt=0, le=0.5)

    test_batches: tuple[str, ...] = Field(default_factory=partial(default_value, "test_batches"))
    split_key: str | None = Field(default_factory=partial(default_value, "split_key"))
    test_fraction: float = Field(default_factory=partial(default_value, "test_fraction"), ge=0, le=0.5)
    evaluation_cells: int = Field(default_factory=partial(default_value, "evaluation_cells"), ge=100)
    n_folds: int = Field(default_factory=partial(default_value, "n_folds"), ge=2)
    knn_neighbors: int = Field(default_factory=partial(default_value, "knn_neighbors"), ge=1)
    seed: int = Field(default_factory=partial(default_value, "seed"), ge=0, lt=2**32)
    threads: int = Field(default_factory=partial(default_value, "threads"), ge=1, le=256)
    loader_workers: int = Field(default_factory=partial(default_value, "loader_workers"), ge=1, le=64)
    device: Device = Field(default_factory=partial(default_value, "device"))
    autocast: bool = Field(default_factory=partial(default_value, "autocast"))
    gpu_memory_fraction: float = Field(default_factory=partial(default_value, "gpu_memory_fraction"), gt=0, le=1)
    compression: Compression = Field(default_factory=partial(default_value, "compression"))

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        unknown = [key for key in values if key not in cls.model_fields] if isinstance(values, Mapping) else []
        if unknown:
            raise ValueError("; ".join(_unknown_key(str(key), list(cls.model_fields)) for key in unknown))
        return values

    @model_validator(mode="after")
    def _options_fit_together(self) -> Self:
        if self.label_map is not None and self.label_key is None:
            raise ValueError("label_map is set but label_key is not; name the column whose labels it maps")
        if self.label_map is not None and not self.label_map:
            raise ValueError("label_map is empty; leave it out, or map every label of label_key")
        return self

    @model_validator(mode="after")
    def _named_columns(self) -> Self:
        if self.label_head and self.label_key is None:
            raise ValueError("label_head is on but label_key is not set; name the column with the labels")
        if self.test_batches and self.split_column is None:
            raise ValueError("test_batches are named but neither split_key nor batch_key; name the column they are in")
        if self.test_batches and self.test_fraction:
            raise ValueError("test_batches and test_fraction are both set; leave one of them out")
        return self

    def check_input(self) -> None:
        """Refuse a file, columns or a layer that aren't there, and a folder that can't be written to."""
        from gca_core.matrix.peek import check_input

        columns = {"label": self.label_key, "batch": self.batch_key, "split": self.split_key}
        check_input(self.input_uri, columns, layer=self.counts_layer, output_uri=self.output_dir, what="input")

    @property
    def split_column(self) -> str | None:
        """Column of obs with the values of ``test_batches``."""
        return self.split_key or self.batch_key

    @property
    def h5ad_compression(self) -> Literal["gzip", "lzf"] | None:
        """``compression`` as anndata takes it."""
        return None if self.compression == "none" else self.compression

    @property
    def warmup(self) -> int:
        """Epochs over which the weight of the KL term rises."""
        return self.epochs // 2 if self.kl_warmup_epochs is None else self.kl_warmup_epochs


def _option_names() -> list[str]:
    return list(LatentConfig.model_fields)


def _unknown_key(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"unknown option {key!r}; {advice}"


def make_config(values: Mapping[str, Any]) -> LatentConfig:
    """Build the configuration, with all complaints in one line.

    Raises:
        ConfigurationError: a key is unknown or a value does not fit.
    """
    try:
        return LatentConfig.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigurationError(f"the latent configuration is not valid: {complaints(error)}") from None


def load_config(
    source: str | os.PathLike[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    **overrides: Any,
) -> LatentConfig:
    """Read a YAML file, or a bundled example by its name, and whatever wins over it.

    Args:
        source: the file or the example's name; None means none.
        defaults: values where neither file, environment nor overrides have one, such as those of a machine profile.
        environ: where ``GCA_VAE__*`` variables are looked for; None means the process's environment.
        overrides: values that win over all others, unless None.

    Raises:
        ConfigurationError: the YAML is not a mapping, a key is unknown or a value does not fit.
        DataValidationError: there is no such file.
    """
    values = _read_yaml(source) if source is not None else {}
    given = {key: value for key, value in overrides.items() if value is not None}
    variables = environment_options(os.environ if environ is None else environ)
    return make_config({**(defaults or {}), **_with_entries(values, variables), **given})


def environment_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """Options that ``GCA_VAE__*`` variables set, read as YAML: ``GCA_VAE__HIDDEN_DIMS='[128, 64]'``.

    A second double underscore names an entry of a mapping, as it is written: ``GCA_VAE__LABEL_MAP__Treg=T``.
    An empty variable counts as unset.

    Raises:
        ConfigurationError: a variable names no option, or its text isn't YAML.
    """
    options: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.upper().startswith(ENVIRONMENT_PREFIX) or not environ[variable].strip():
            continue
        option, _, entry = variable[len(ENVIRONMENT_PREFIX) :].partition(NESTED)
        name = option.lower()
        if name not in LatentConfig.model_fields:
            raise ConfigurationError(f"environment variable {variable}: {_unknown_key(name, _option_names())}")
        value = _variable_value(variable, environ[variable])
        if not entry:
            options[name] = value
        elif name in MAPPINGS and isinstance(options.get(name) or {}, dict):
            options[name] = {**(options.get(name) or {}), entry: value}
        else:
            raise ConfigurationError(f"environment variable {variable}: the option {name!r} has no entries")
    return options


def _variable_value(variable: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigurationError(
            f"environment variable {variable} is not valid YAML; write numbers and words as they are, lists as [1, 2]"
        ) from None


def _with_entries(values: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**values, **variables}
    for name in MAPPINGS & values.keys() & variables.keys():
        if isinstance(values[name], Mapping) and isinstance(variables[name], Mapping):
            merged[name] = {**values[name], **variables[name]}
    return merged


def dump_config(config: LatentConfig) -> str:
    """``config`` as YAML that :func:`load_config` reads back exactly."""
    # escapes other than ASCII: PyYAML folds some Unicode line breaks when they stand as they are
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=False)


def example_configs() -> dict[str, dict[str, Any]]:
    """The bundled example configurations by name; each lacks ``input_uri`` and ``output_dir``."""
    folder = resources.files(__package__).joinpath("examples")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {f.name.removesuffix(".yaml"): yaml.safe_load(f.read_text(encoding="utf-8")) for f in files}


def _read_yaml(source: str | os.PathLike[str]) -> dict[str, Any]:
    examples = example_configs()
    if os.fspath(source) in examples:
        return examples[os.fspath(source)]
    values = read_yaml(source, what="configuration")
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"the configuration {os.fspath(source)!r} holds a {type(values).__name__}; expected 'option: value' lines"
        )
    return values
