"""The files of a candidate: prompt, control and query cells, materialised from the atlas."""

from __future__ import annotations

from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd

from gca_core import io
from gca_core.atlas import Atlas
from gca_core.haystack.models import IterationConfig, PromptCandidate
from gca_core.inference.local import job_hash, write_job
from gca_core.inference.models import InferenceJob, InferenceRequest

PAIR = "pair"


def query_uri(work_uri: str) -> str:
    """Where the query cells of a run lie."""
    return io.join_uri(work_uri, "query.h5ad")


def write_query(atlas: Atlas, group_ids: Sequence[str], work_uri: str, config: IterationConfig) -> str:
    """Write the unperturbed cells of the target type and return their URI."""
    query = atlas.materialise(list(group_ids), max_cells=config.query_cells, seed=config.seed)
    return _write(query, query_uri(work_uri))


def write_candidate(
    atlas: Atlas, candidate: PromptCandidate, work_uri: str, query: str, config: IterationConfig
) -> InferenceRequest:
    """Write a candidate's prompt and control cells and return its request.

    Each perturbed group is one pair; control cells that serve several groups are written once for each.
    """
    folder = io.as_uri(io.as_path(work_uri) / "candidates" / io.safe_name(candidate.candidate_id))
    prompt = atlas.materialise(list(candidate.cell_group_ids), max_cells=config.prompt_cells, seed=config.seed)
    prompt.obs[PAIR] = prompt.obs["cell_group_id"].astype(str).astype("category")
    control = _paired_control(atlas, candidate, config)
    return InferenceRequest(
        candidate_id=candidate.candidate_id,
        prompt_uri=_write(prompt, io.join_uri(folder, "prompt.h5ad")),
        query_uri=query,
        control_uri=_write(control, io.join_uri(folder, "control.h5ad")),
        output_uri=io.join_uri(folder, "prediction.h5ad"),
        backend=config.backend,
        checkpoint=config.checkpoint,
        gene_list_uri=config.gene_list_uri,
        diffusion_steps=config.diffusion_steps,
        batch_size=config.batch_size,
        seeds=tuple(config.seed + i for i in range(config.prediction_seeds)),
        pair_weights=dict(zip(candidate.cell_group_ids, candidate.weights, strict=True)),
    )


def write_jobs(requests: Sequence[InferenceRequest], work_uri: str, config: IterationConfig) -> list[InferenceJob]:
    """Write job files of at most ``candidates_per_job`` requests each; the same requests give the same jobs."""
    jobs = []
    for start in range(0, len(requests), config.candidates_per_job):
        part = tuple(requests[start : start + config.candidates_per_job])
        job_id = job_hash(part)
        job_uri = io.as_uri(io.as_path(work_uri) / "jobs" / job_id / "job.json")
        write_job(part, job_uri, job_id=job_id)
        jobs.append(InferenceJob(job_id=job_id, job_uri=job_uri, requests=part))
    return jobs


def _paired_control(atlas: Atlas, candidate: PromptCandidate, config: IterationConfig) -> ad.AnnData:
    unique = sorted(set(candidate.control_group_ids))
    cells = atlas.materialise(unique, max_cells=config.prompt_cells, seed=config.seed)
    groups = cells.obs["cell_group_id"].astype(str).to_numpy()
    rows, pairs = [], []
    for perturbed, control in zip(candidate.cell_group_ids, candidate.control_group_ids, strict=True):
        found = np.flatnonzero(groups == control)
        rows.append(found)
        pairs += [perturbed] * len(found)
    places = np.concatenate(rows)
    names = [f"{name}:{pair}" for name, pair in zip(cells.obs_names[places], pairs, strict=True)]
    obs = cells.obs.iloc[places].set_axis(names).assign(**{PAIR: pd.Categorical(pairs)})
    return ad.AnnData(cells.X[places], obs=obs, var=cells.var)


def _write(data: ad.AnnData, uri: str) -> str:
    with io.staged(uri) as path:
        data.write_h5ad(path, compression="gzip")
    return io.as_uri(uri)
