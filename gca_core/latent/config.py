"""What a latent run is told: one frozen model.

Its values come from, lowest first: the defaults here, the machine profile, the caller's defaults, the run's own
YAML file, ``GCA_VAE__*`` variables, and arguments.
"""

import os
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from gca_core.errors import ConfigurationError, complaints

Likelihood = Literal["nb", "zinb", "gaussian"]
Dispersion = Literal["gene", "gene-batch"]
Device = Literal["auto", "cpu", "cuda"]
Compression = Literal["gzip", "lzf", "none"]
ENVIRONMENT_PREFIX = "GCA_VAE__"
Width = Annotated[int, Field(ge=1, le=8192)]


class LatentConfig(BaseModel, extra="forbid", frozen=True, coerce_numbers_to_str=True, defer_build=True):
    """Options of :func:`gca_core.latent.run_training`.

    Args:
        input_uri: an h5ad or loom file, a zarr store, a 10x h5 file or a folder with 10x mtx files, path or URI.
        output_uri: folder, path or URI, that receives the results.
        overwrite: replace earlier results; or else refuse to.
        counts_layer: where the values are: ``X``, ``raw`` or a layer's name. Unset means ``X``, or with
            ``recover_counts`` the first of ``X`` and ``raw`` that is log-normalised.
        recover_counts: the values are log-normalised counts; recover the counts from them.
        n_top_genes: highly variable genes that the model sees, chosen on the training cells; unset means all.
        max_ram_usage_gb: memory the process may use, in GiB; a file that doesn't fit is read in parts. Unset
            means no limit.
        batch_key: column of obs with the batch, a covariate of the decoder.
        labels_key: column of obs with known labels, used for the evaluation; for training only with ``label_head``.
        label_map: replaces labels before the evaluation, e.g. fine by coarse ones; every label has to
            be in it, and a label mapped to null is left out of the evaluation.
        latent_dim: size of the latent space.
        hidden_dims: widths of the encoder's layers; the decoder has them in reverse order.
        dropout: share of the encoder's hidden units left out in training.
        likelihood: distribution of the counts: ``nb``, ``zinb``, or ``gaussian`` on log-normalised values.
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
        device: where to compute: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is a GPU.
        autocast: mixed precision on CUDA.
        gpu_memory_fraction: share of the GPU's memory that the process may take.
        compression: of the h5ad files that are written.
    """

    input_uri: str = Field(min_length=1)
    output_uri: str = Field(min_length=1)
    overwrite: bool = True
    counts_layer: str | None = None
    recover_counts: bool = False
    n_top_genes: int | None = Field(2000, ge=2)
    max_ram_usage_gb: float | None = Field(None, gt=0)
    batch_key: str | None = None
    labels_key: str | None = None
    label_map: dict[str, str | None] | None = None

    latent_dim: int = Field(10, ge=1, le=512)
    hidden_dims: tuple[Width, ...] = Field((128,), min_length=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    likelihood: Likelihood = "nb"
    dispersion: Dispersion = "gene"
    encode_covariates: bool = False
    label_head: bool = False
    classification_weight: float = Field(50.0, gt=0)

    lr: float = Field(0.001, gt=0, le=1)
    weight_decay: float = Field(1e-6, ge=0)
    epochs: int = Field(200, ge=1)
    batch_size: int = Field(128, ge=2)
    kl_warmup_epochs: int | None = Field(None, ge=0)
    early_stopping_patience: int | None = Field(45, ge=1)
    validation_fraction: float = Field(0.1, gt=0, le=0.5)

    test_batches: tuple[str, ...] = ()
    split_key: str | None = None
    test_fraction: float = Field(0.0, ge=0, le=0.5)
    evaluation_cells: int = Field(50_000, ge=100)
    n_folds: int = Field(5, ge=2)
    knn_neighbors: int = Field(15, ge=1)
    seed: int = Field(0, ge=0, lt=2**32)
    threads: int = Field(1, ge=1, le=256)
    loader_workers: int = Field(1, ge=1, le=64)
    device: Device = "cpu"
    autocast: bool = False
    gpu_memory_fraction: float = Field(0.8, gt=0, le=1)
    compression: Compression = "gzip"

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        unknown = [key for key in values if key not in cls.model_fields] if isinstance(values, Mapping) else []
        if unknown:
            raise ValueError("; ".join(_unknown_key(str(key), list(cls.model_fields)) for key in unknown))
        return values

    @model_validator(mode="after")
    def _options_fit_together(self) -> Self:
        if self.label_map is not None and self.labels_key is None:
            raise ValueError("label_map is set but labels_key is not; name the column whose labels it maps")
        if self.label_map is not None and not self.label_map:
            raise ValueError("label_map is empty; leave it out, or map every label of labels_key")
        return self

    @model_validator(mode="after")
    def _named_columns(self) -> Self:
        if self.label_head and self.labels_key is None:
            raise ValueError("label_head is on but labels_key is not set; name the column with the labels")
        if self.test_batches and self.split_column is None:
            raise ValueError("test_batches are named but neither split_key nor batch_key; name the column they are in")
        if self.test_batches and self.test_fraction:
            raise ValueError("test_batches and test_fraction are both set; leave one of them out")
        return self

    def check_input(self) -> None:
        """Refuse a file, columns or a layer that aren't there, and a folder that can't be written to."""
        from gca_core.matrix.peek import check_input

        columns = {"label": self.labels_key, "batch": self.batch_key, "split": self.split_key}
        check_input(self.input_uri, columns, layer=self.counts_layer, output_uri=self.output_uri, what="input")

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


def _unknown_key(key: str, known: list[str]) -> str:
    import difflib

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
    source: str | os.PathLike[str] | None = None, *, defaults: Mapping[str, Any] | None = None, **overrides: Any
) -> LatentConfig:
    """Read a YAML file, or a bundled example by its name, and whatever wins over it.

    Args:
        source: the file or the example's name; None means none.
        defaults: values where neither file, environment nor overrides have one, such as those of a machine profile.
        overrides: values that win over all others, unless None.

    Raises:
        ConfigurationError: the YAML is not a mapping, a key is unknown or a value does not fit.
        DataValidationError: there is no such file.
    """
    values = _read_yaml(source) if source is not None else {}
    given = {key: value for key, value in overrides.items() if value is not None}
    return make_config({**(defaults or {}), **values, **environment_options(), **given})


def used_config(run_uri: str) -> LatentConfig:
    """The configuration that a finished run used; the environment of today has no say."""
    from gca_core.io import join_uri

    return make_config(_read_yaml(join_uri(run_uri, "config.used.yaml")))


def environment_options() -> dict[str, Any]:
    """Options that ``GCA_VAE__*`` variables set: ``GCA_VAE__EPOCHS=50``, lists and mappings as JSON.

    An empty variable counts as unset, ``null`` as None.

    Raises:
        ConfigurationError: a variable names no option, or its text isn't JSON.
    """
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

    class Variables(BaseSettings, LatentConfig):
        pass

    for variable in sorted(os.environ):
        name = variable[len(ENVIRONMENT_PREFIX) :].lower()
        if variable.upper().startswith(ENVIRONMENT_PREFIX) and name not in LatentConfig.model_fields:
            known = list(LatentConfig.model_fields)
            raise ConfigurationError(f"environment variable {variable}: {_unknown_key(name, known)}")
    source = EnvSettingsSource(
        Variables, env_prefix=ENVIRONMENT_PREFIX, env_ignore_empty=True, env_parse_none_str="null"
    )
    try:
        return source()
    except SettingsError as error:
        raise ConfigurationError(
            f"a {ENVIRONMENT_PREFIX}* variable is not valid JSON, write lists as [1, 2]: {error}"
        ) from None


def dump_config(config: LatentConfig) -> str:
    """``config`` as YAML that :func:`load_config` reads back exactly."""
    # escapes other than ASCII: PyYAML folds some Unicode line breaks when they stand as they are
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=False)


def example_configs() -> dict[str, dict[str, Any]]:
    """The bundled example configurations by name; each lacks ``input_uri`` and ``output_uri``."""
    folder = resources.files(__package__).joinpath("examples")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {f.name.removesuffix(".yaml"): yaml.safe_load(f.read_text(encoding="utf-8")) for f in files}


def _read_yaml(source: str | os.PathLike[str]) -> dict[str, Any]:
    from gca_core.io import read_yaml

    examples = example_configs()
    if os.fspath(source) in examples:
        return examples[os.fspath(source)]
    values = read_yaml(source, what="configuration")
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"the configuration {os.fspath(source)!r} holds a {type(values).__name__}; expected 'option: value' lines"
        )
    return values
