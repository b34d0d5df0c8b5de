"""New cells in a trained latent space: genes matched by name, missing ones counted."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from pydantic import BaseModel
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from gca_core.errors import DataValidationError
from gca_core.io import as_uri, staged
from gca_core.latent.config import LatentConfig
from gca_core.latent.data.adapter import CountBatch, Registry
from gca_core.latent.data.count_store import equal_parts
from gca_core.latent.data.sources import CellSource, open_source
from gca_core.latent.model.adapter import TorchVAE
from gca_core.matrix.cells import write_cells

log = logging.getLogger(__name__)

MIN_GENE_SHARE = 0.5
LISTED = 20


class Embedding(BaseModel):
    """What :func:`embed` wrote.

    Args:
        n_cells: cells that were embedded.
        n_genes: genes of the model.
        n_missing_genes: of these, genes that the cells lack.
        missing_genes: the first 20 of them.
        n_unknown_genes: genes of the cells that the model doesn't know.
        n_empty_cells: cells without a count of the model's genes.
        uri: the h5ad file.
    """

    n_cells: int
    n_genes: int
    n_missing_genes: int
    missing_genes: list[str]
    n_unknown_genes: int
    n_empty_cells: int
    uri: str


def embed(
    input_uri: str,
    checkpoint_uri: str,
    output_uri: str,
    *,
    counts_layer: str | None = None,
    recover_counts: bool = False,
    batch_key: str | None = None,
    min_gene_share: float = MIN_GENE_SHARE,
    max_ram_usage_gb: float | None = None,
    device: str = "cpu",
) -> Embedding:
    """Write the latent means of other cells than the model was trained on.

    Genes are matched by name. Genes that the cells lack enter as zero counts, genes that the model doesn't know are
    left out; both are counted.

    Args:
        input_uri: the cells, in any format that training reads.
        checkpoint_uri: folder of the model.
        output_uri: the h5ad file to write: latent means (cells, latent) as ``X``, and the input's obs.
        counts_layer: where the counts are: ``X``, ``raw`` or a layer's name; None means ``X``.
        recover_counts: the values are log-normalised counts.
        batch_key: column of obs with the batches; a model whose encoder sees batches needs it.
        min_gene_share: share of the model's genes that the cells must have.
        max_ram_usage_gb: larger files are read in parts; None means no limit.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        DataValidationError: the input holds no counts, too few of the genes, one of them twice, or a batch that the
            encoder doesn't know; nothing is written.
    """
    model = TorchVAE.load(checkpoint_uri, device=device)
    config = LatentConfig(
        input_uri=input_uri,
        output_uri=output_uri,
        counts_layer=counts_layer,
        recover_counts=recover_counts,
        batch_key=batch_key,
        max_ram_usage_gb=max_ram_usage_gb,
    )
    with threadpool_limits(config.threads), open_source(config) as source:
        cells = _MatchedCells(source, model.registry, config, min_gene_share)
        latent = model.predict(cells.batches(), registry=cells.registry)
        obs = source.obs.copy()
    names = [f"latent_{i}" for i in range(latent.shape[1])]
    with staged(output_uri) as target:
        write_cells(ad.AnnData(X=latent, obs=obs, var=pd.DataFrame(index=names)), target)
    return cells.report(as_uri(output_uri))


class _MatchedCells:
    """Cells of a source with the columns of a model."""

    def __init__(self, source: CellSource, own: Registry, config: LatentConfig, min_gene_share: float) -> None:
        self._source, self._config = source, config
        present = set(source.genes)
        self._missing = [gene for gene in own.genes if gene not in present]
        _check_genes(source.genes, own.genes, self._missing, min_gene_share)
        self._columns = _column_matrix(source.genes, own.genes)
        names, self._codes = _batches(source.obs, config.batch_key)
        self.registry = own.model_copy(update={"batch_key": config.batch_key, "batches": names})
        self._n_empty = 0

    def batches(self) -> Iterator[CountBatch]:
        """All cells in file order."""
        start = 0
        for chunk in self._source.chunks():
            matched = sp.csr_matrix(chunk @ self._columns)
            self._n_empty += int((np.diff(matched.indptr) == 0).sum())
            codes = self._codes[start : start + matched.shape[0]]
            for part in equal_parts(np.arange(matched.shape[0]), self._config.batch_size):
                yield CountBatch(matched[part], codes[part])
            start += matched.shape[0]

    def report(self, uri: str) -> Embedding:
        """What matched, once all batches were taken."""
        unknown = len(self._source.genes) - (self._columns.shape[1] - len(self._missing))
        if self._missing:
            log.info("%d of the model's %d genes are missing", len(self._missing), self._columns.shape[1])
        return Embedding(
            n_cells=len(self._source.obs),
            n_genes=self._columns.shape[1],
            n_missing_genes=len(self._missing),
            missing_genes=self._missing[:LISTED],
            n_unknown_genes=unknown,
            n_empty_cells=self._n_empty,
            uri=uri,
        )


def _check_genes(found: Sequence[str], own: Sequence[str], missing: Sequence[str], min_share: float) -> None:
    twice = sorted(gene for gene, n in Counter(found).items() if n > 1 and gene in set(own))
    if twice:
        raise DataValidationError(
            f"{len(twice)} of the model's genes stand in several columns ({', '.join(twice[:5])}); make names unique "
            "with adata.var_names_make_unique()"
        )
    share = 1 - len(missing) / len(own)
    if share < min_share:
        raise DataValidationError(
            f"the cells have {len(own) - len(missing)} of the model's {len(own)} genes ({share:.0%}); at least "
            f"{min_share:.0%} are needed. missing are e.g. {', '.join(missing[:5])}, found e.g. "
            f"{', '.join(found[:5])}: are gene names of the same kind in var_names?"
        )


def _column_matrix(found: Sequence[str], own: Sequence[str]) -> sp.csr_matrix:
    places = {gene: column for column, gene in enumerate(own)}
    pairs = [(row, places[gene]) for row, gene in enumerate(found) if gene in places]
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    ones = np.ones(len(pairs), dtype=np.float32)
    return sp.csr_matrix((ones, (rows, columns)), shape=(len(found), len(own)))


def _batches(obs: pd.DataFrame, key: str | None) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    if key is None:
        return (), np.full(len(obs), -1, dtype=np.int64)
    if key not in obs.columns:
        found = ", ".join(map(repr, obs.columns)) or "none"
        raise DataValidationError(f"obs has no column {key!r} for batch_key; found {found}")
    names, codes = np.unique(obs[key].astype(str).to_numpy(dtype=str), return_inverse=True)
    return tuple(map(str, names)), codes.astype(np.int64)
