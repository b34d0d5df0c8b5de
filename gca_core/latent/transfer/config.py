"""What a transfer of labels is told; light, so that a DAG can be checked when it is parsed."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from gca_core.errors import ConfigurationError, complaints


class TransferConfig(BaseModel, extra="forbid", frozen=True, defer_build=True):
    """Options of :func:`gca_core.latent.transfer.labels.transfer_labels`.

    Args:
        input_uri: the cells to label, path or URI, in a format that training reads.
        run_uri: folder of the training run, whose cells have labels.
        output_uri: folder that receives the results.
        n_neighbors: labelled cells that vote on each new cell.
        min_probability: share of the votes that the winner needs; below it the cell gets no label.
        max_distance_quantile: a cell gets no label when its neighbours are farther away, on average, than this share
            of the run's labelled cells have theirs; None means that distance has no say.
        counts_layer: where the new cells' values are, as for training.
        recover_counts: they are log-normalised counts.
        batch_key: column of obs with batches of the new cells, for models whose encoder sees them.
        labels_key: column of obs with known labels, to report the agreement with; nothing else looks at it.
        label_map: replaces those labels first; None means that of the run, if ``labels_key`` is the run's.
    """

    input_uri: str = Field(min_length=1)
    run_uri: str = Field(min_length=1)
    output_uri: str = Field(min_length=1)
    n_neighbors: int = Field(default=15, ge=1)
    min_probability: float = Field(default=0.5, ge=0, le=1)
    max_distance_quantile: float | None = Field(default=0.99, gt=0, le=1)
    counts_layer: str | None = None
    recover_counts: bool = False
    batch_key: str | None = None
    labels_key: str | None = None
    label_map: dict[str, str | None] | None = None


def make_transfer_config(values: Mapping[str, Any]) -> TransferConfig:
    """Build the configuration; None counts as not given.

    Raises:
        ConfigurationError: a key is unknown or a value does not fit.
    """
    try:
        return TransferConfig.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError(f"the options of the transfer are not valid: {complaints(error)}") from None
