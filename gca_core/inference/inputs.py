"""The cells of a request, read and checked."""

from dataclasses import dataclass

import anndata as ad

from gca_core.errors import DataValidationError
from gca_core.inference.models import InferenceRequest
from gca_core.matrix.cells import read_h5ad
from gca_core.matrix.places import only_genes, require_counts

PAIR = "pair"


@dataclass(frozen=True)
class Inputs:
    """The cells of a request."""

    prompt: ad.AnnData
    control: ad.AnnData
    query: ad.AnnData


def read_inputs(request: InferenceRequest) -> Inputs:
    """The three files of a request, without rows that are no genes.

    Raises:
        DataValidationError: a file is missing, or holds no counts, cells, matching genes or pairs.
    """
    names = ("prompt", "control", "query")
    files = {name: read_h5ad(getattr(request, f"{name}_uri"), what=f"{name} file") for name in names}
    inputs = Inputs(**{name: only_genes(file) for name, file in files.items()})
    _check(inputs, request)
    return inputs


def _check(inputs: Inputs, request: InferenceRequest) -> None:
    for name in ("prompt", "control", "query"):
        data: ad.AnnData = getattr(inputs, name)
        if not data.n_obs or not data.n_vars:
            raise DataValidationError(f"the {name} file holds {data.n_obs} cells and {data.n_vars} genes; needs both")
        if not data.var_names.is_unique:
            raise DataValidationError(f"the gene names of the {name} file are not unique; make them so first")
        require_counts(data)
    for name in ("prompt", "control"):
        if PAIR not in getattr(inputs, name).obs:
            raise DataValidationError(f"the {name} file lacks obs[{PAIR!r}], which matches it to the other side")
    if not inputs.prompt.var_names.equals(inputs.control.var_names):
        raise DataValidationError("the prompt and control files hold different genes; take both from one dataset")
    if not inputs.query.var_names.isin(inputs.prompt.var_names).any():
        raise DataValidationError("the query and the prompt share no gene; check that both use gene symbols")
    treated = set(inputs.prompt.obs[PAIR].astype(str))
    untreated = set(inputs.control.obs[PAIR].astype(str))
    if treated != untreated:
        odd = ", ".join(sorted(treated ^ untreated))
        raise DataValidationError(f"these pairs are on one side only: {odd}; every pair needs prompt and control cells")
    if request.pair_weights and sum(request.pair_weights.get(pair, 0.0) for pair in treated) <= 0:
        raise DataValidationError("the pair weights give no pair of the prompt a positive weight")
