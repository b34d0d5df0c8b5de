"""What an inference job is asked and what it answers."""

from enum import StrEnum

from pydantic import BaseModel, Field

DEFAULT_BACKEND = "shift"


class InferenceStatus(StrEnum):
    """How one request ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FailureKind(StrEnum):
    """What a failure is of, so that whoever sent the job knows whether another try can help."""

    BAD_INPUT = "bad_input"
    OUT_OF_MEMORY = "out_of_memory"
    MISSING_MODEL = "missing_model"
    STORAGE = "storage"
    OTHER = "other"


class InferenceRequest(BaseModel, frozen=True):
    """One prediction: how would the query cells look after what was done to the prompt cells?

    Args:
        candidate_id: content hash of the prompt candidate; names the answer.
        prompt_uri: h5ad of perturbed cells, raw counts, with ``obs["pair"]``.
        query_uri: h5ad of unperturbed cells of the target type, raw counts.
        control_uri: h5ad of the prompt's matched control cells, with the same pairs in ``obs["pair"]``.
        output_uri: where the predicted cells go, h5ad of counts.
        backend: name of a registered predictor.
        checkpoint: weights of a model backend.
        gene_list_uri: JSON or text list of the genes a model backend knows.
        diffusion_steps: generation steps T of a model backend.
        batch_size: windows per forward pass of a model backend.
        seeds: one draw of the query's cells per seed; their log1p(CP10k) is averaged, and X holds the first draw.
        pair_weights: weight of each pair in the averaged shift, and share of its cells in a model's prompt; equal where
            empty.
    """

    candidate_id: str = Field(min_length=1)
    prompt_uri: str
    query_uri: str
    control_uri: str
    output_uri: str
    backend: str = DEFAULT_BACKEND
    checkpoint: str | None = None
    gene_list_uri: str | None = None
    diffusion_steps: int = Field(default=5, ge=1)
    batch_size: int = Field(default=32, ge=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    pair_weights: dict[str, float] = Field(default_factory=dict)


class InferenceResult(BaseModel, frozen=True):
    """What came of one request; ``error`` is a sentence for the reader, never a secret.

    ``cached``: the prediction was made before, for the same cells, model and seeds.
    """

    candidate_id: str
    status: InferenceStatus
    prediction_uri: str | None = None
    duration_seconds: float = 0.0
    metrics: dict[str, float] = Field(default_factory=dict)
    error: str | None = None
    failure: FailureKind | None = None
    backend: str
    model: str = ""
    cached: bool = False


class InferenceJob(BaseModel, frozen=True):
    """A file of requests that one process works through.

    ``job_id`` is the hash of what is asked, so that asking the same twice names the same job.
    """

    job_id: str = Field(min_length=1)
    job_uri: str
    requests: tuple[InferenceRequest, ...] = Field(min_length=1)


class JobFile(BaseModel, frozen=True, extra="forbid"):
    """The content of ``JOB.json``."""

    job_id: str = Field(min_length=1)
    requests: tuple[InferenceRequest, ...] = Field(min_length=1)


class JobResults(BaseModel, frozen=True):
    """The content of ``results.json``; written again after each request."""

    job_id: str
    results: tuple[InferenceResult, ...] = ()
