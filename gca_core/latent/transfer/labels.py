"""Labels for new cells from a trained model: neighbours in its latent space vote, or nobody answers."""

import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import NearestNeighbors

from gca_core.errors import DataValidationError
from gca_core.io import as_uri, join_uri, staged, write_json
from gca_core.latent.config import used_config
from gca_core.latent.data.adapter import LABEL_COLUMN, SPLIT_COLUMN, mapped_labels
from gca_core.latent.transfer.config import TransferConfig as TransferConfig
from gca_core.latent.transfer.mapping import Embedding, embed
from gca_core.matrix.cells import read_h5ad, write_cells

log = logging.getLogger(__name__)

Matrix = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.object_]


class Votes(BaseModel, frozen=True, arbitrary_types_allowed=True):
    """What the neighbours say of each cell.

    Args:
        proposed: (cells,) label with most votes; of equal ones the first by name.
        probability: (cells,) its share of the votes.
        distance: (cells,) mean Euclidean distance to the voters, in the latent space.
        max_distance: above it there is no answer; None means no limit.
        min_probability: below it there is no answer.
    """

    proposed: npt.NDArray[np.object_]
    probability: npt.NDArray[np.float64]
    distance: npt.NDArray[np.float64]
    max_distance: float | None
    min_probability: float

    @property
    def labels(self) -> Labels:
        """(cells,) the proposed label, None where there is no answer."""
        answers = self.proposed.copy()
        answers[self.probability < self.min_probability] = None
        if self.max_distance is not None:
            answers[self.distance > self.max_distance] = None
        return answers


def neighbour_votes(
    reference: Matrix,
    labels: Labels,
    query: Matrix,
    *,
    n_neighbors: int = 15,
    min_probability: float = 0.5,
    max_distance_quantile: float | None = 0.99,
) -> Votes:
    """Let the nearest labelled cells vote on new ones.

    Args:
        reference: (reference cells, latent).
        labels: (reference cells,), None where a cell has none; such cells don't vote.
        query: (cells, latent).
        n_neighbors: voters.
        min_probability: share of the votes that an answer needs.
        max_distance_quantile: quantile of the reference cells' own mean distances, each cell left out of its own
            neighbours, above which there is no answer.

    Raises:
        DataValidationError: there are not more labelled reference cells than neighbours.
    """
    voters = np.array([label is not None for label in labels])
    points, names = reference[voters], labels[voters]
    if len(points) <= n_neighbors:
        raise DataValidationError(
            f"the run has {len(points)} labelled cells; more than n_neighbors ({n_neighbors}) are needed"
        )
    index = NearestNeighbors(n_neighbors=n_neighbors).fit(points)
    limit = None
    if max_distance_quantile is not None:
        own_distances, _ = index.kneighbors()
        limit = float(np.quantile(own_distances.mean(axis=1), max_distance_quantile))
    distances, neighbours = index.kneighbors(query)
    known, codes = np.unique(names.astype(str), return_inverse=True)
    shares = np.stack([(codes[neighbours] == code).mean(axis=1) for code in range(len(known))], axis=1)
    return Votes(
        proposed=known[shares.argmax(axis=1)].astype(object),
        probability=shares.max(axis=1),
        distance=distances.mean(axis=1).astype(np.float64),
        max_distance=limit,
        min_probability=min_probability,
    )


def agreement(answers: Labels, truth: Labels) -> dict[str, float]:
    """How far answers agree with known labels.

    Args:
        answers: (cells,), None where there is none.
        truth: (cells,), None where nothing is known; such cells don't count.

    Returns:
        ``accuracy`` and ``macro_f1`` over all cells with a known label, where no answer is a wrong one,
        ``coverage`` (the share with an answer) and ``accuracy_of_answers``; empty without known labels.
    """
    known = np.array([label is not None for label in truth], dtype=bool)
    if not known.any():
        return {}
    told, asked = truth[known].astype(str), np.where(answers[known] == None, "", answers[known]).astype(str)  # noqa: E711
    answered = asked != ""
    metrics = {
        "accuracy": accuracy_score(told, asked),
        "macro_f1": f1_score(told, asked, labels=sorted(set(told)), average="macro", zero_division=0),
        "coverage": answered.mean(),
    }
    if answered.any():
        metrics["accuracy_of_answers"] = accuracy_score(told[answered], asked[answered])
    return {name: round(float(value), 6) for name, value in metrics.items()}


class Transfer(BaseModel):
    """What :func:`transfer_labels` found, and the content of ``transfer.json``.

    Args:
        n_cells: new cells.
        n_labelled: those with a label.
        n_abstained: those without.
        labels: cells by label.
        min_probability: share of the votes that a label needed.
        max_distance: mean distance to the neighbours above which a cell got no label.
        mapping: what the embedding says of genes and cells.
        metrics: agreement with known labels, where a column was named.
        uris: labels, latent, transfer.
    """

    n_cells: int
    n_labelled: int
    n_abstained: int
    labels: dict[str, int]
    min_probability: float
    max_distance: float | None
    mapping: Embedding
    metrics: dict[str, float]
    uris: dict[str, str]


def transfer_labels(config: TransferConfig) -> Transfer:
    """Map new cells into a run's latent space, and label them by its labelled cells.

    Test cells of the run have no vote. The new cells are embedded by
    :func:`gca_core.latent.transfer.mapping.embed`, which counts the model's genes that they lack.

    Args:
        config: the new cells, the run, and when not to answer.

    Raises:
        DataValidationError: the run has no labels, or the cells don't fit its model; nothing is written then.
    """
    reference, labels = _reference(config.run_uri)
    with tempfile.TemporaryDirectory(prefix="gca-transfer-") as folder:
        scratch = str(Path(folder) / "latent.h5ad")
        mapping = embed(
            config.input_uri,
            join_uri(config.run_uri, "model"),
            scratch,
            counts_layer=config.counts_layer,
            recover_counts=config.recover_counts,
            batch_key=config.batch_key,
        )
        cells = read_h5ad(scratch, what="file with latent cells")
    votes = neighbour_votes(
        np.asarray(reference.X),
        labels,
        np.asarray(cells.X),
        n_neighbors=config.n_neighbors,
        min_probability=config.min_probability,
        max_distance_quantile=config.max_distance_quantile,
    )
    metrics = {}
    if config.labels_key is not None:
        metrics = agreement(votes.labels, mapped_labels(cells.obs, config.labels_key, _label_map(config)))
    return _written(config, cells, votes, mapping, metrics)


def _reference(run_uri: str) -> tuple[ad.AnnData, Labels]:
    cells = read_h5ad(join_uri(run_uri, "latent.h5ad"), what="file with latent cells")
    if LABEL_COLUMN not in cells.obs:
        raise DataValidationError(
            f"the run in {run_uri!r} was trained without a label column; name one in labels_key and train anew"
        )
    labels = np.array([None if pd.isna(value) else str(value) for value in cells.obs[LABEL_COLUMN]], dtype=object)
    if SPLIT_COLUMN in cells.obs:
        labels[(cells.obs[SPLIT_COLUMN] == "test").to_numpy()] = None
    return cells, labels


def _label_map(config: TransferConfig) -> dict[str, str | None] | None:
    if config.label_map is not None:
        return config.label_map
    run = used_config(config.run_uri)
    return run.label_map if run.labels_key == config.labels_key else None


def _written(
    config: TransferConfig, cells: ad.AnnData, votes: Votes, mapping: Embedding, metrics: dict[str, float]
) -> Transfer:
    answers = votes.labels
    table = pd.DataFrame(
        {
            "label": pd.Categorical(answers),
            "proposed_label": pd.Categorical(votes.proposed),
            "probability": votes.probability.round(6),
            "distance": votes.distance.round(6),
        },
        index=cells.obs_names,
    )
    uris = {name: join_uri(config.output_uri, name) for name in ("labels.csv", "latent.h5ad", "transfer.json")}
    with staged(uris["labels.csv"]) as target:
        table.to_csv(target, index_label="cell")
    cells.obs = cells.obs.assign(**{f"transferred_{name}": table[name] for name in table.columns})
    with staged(uris["latent.h5ad"]) as target:
        write_cells(cells, target)
    answered = [str(label) for label in answers if label is not None]
    result = Transfer(
        n_cells=len(answers),
        n_labelled=len(answered),
        n_abstained=len(answers) - len(answered),
        labels=dict(sorted(Counter(answered).items())),
        min_probability=votes.min_probability,
        max_distance=votes.max_distance,
        mapping=mapping,
        metrics=metrics,
        uris={name.partition(".")[0]: as_uri(uri) for name, uri in uris.items()},
    )
    log.info("labelled %d of %d cells", result.n_labelled, result.n_cells)
    write_json(uris["transfer.json"], result)
    return result
