"""The values a HAYSTACK run is made of; all serialise to JSON."""

from enum import StrEnum

from pydantic import BaseModel, Field

from gca_core.grounding.models import Expectation, GroundingConfig, GroundingScore
from gca_core.inference.models import InferenceJob
from gca_core.knowledge.bundled.catalogue import PerturbationType
from gca_core.responses.models import Expected, Forecast, Selection

MAX_CANDIDATES = 50
EMPTY_ATLAS = "the atlas is empty; ingest first: gca atlas ingest FILE --dataset NAME ..., or the DAG gca_atlas_ingest"


class Strategy(StrEnum):
    """Where a candidate came from."""

    DIRECT = "direct"
    ONTOLOGY = "ontology"
    SEMANTIC = "semantic"
    MECHANISTIC = "mechanistic"
    MODEL = "model"
    REFINEMENT = "refinement"
    REFERENCE = "reference"


class TerminationReason(StrEnum):
    """Why a run stopped."""

    THRESHOLD = "threshold"
    PLATEAU = "plateau"
    MAX_ITERATIONS = "max_iterations"
    BUDGET = "budget"
    CANCELLED = "cancelled"
    EMPTY_PROPOSAL = "empty_proposal"
    MEASURED = "measured"
    FEEDBACK = "feedback"


class AgentTurn(BaseModel, frozen=True):
    """One answer of a model: the tools that it called, its text, and what of it was refused; all cut to a length."""

    tools: tuple[str, ...] = ()
    text: str = ""
    refused: tuple[str, ...] = ()


class AgentReport(BaseModel, frozen=True):
    """What a sub-agent was asked with and what came of it.

    Attributes:
        agent: its name, which is that of its prompt file.
        prompt_version: of that file; changes with its content.
        model: ``provider:model``.
        failure: why there is no usable answer; empty where there is one.
        calls: requests that were sent, retries included.
        turns: the transcript; left out where the report stands in a run's state.
    """

    agent: str
    prompt_version: str
    model: str
    failure: str = ""
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    duration_seconds: float = 0.0
    turns: tuple[AgentTurn, ...] = ()


class Verdict(StrEnum):
    """What a run came to: the answer was measured, or its prediction is grounded or not, or can't be judged."""

    MEASURED = "measured"
    GROUNDED = "grounded"
    NOT_GROUNDED = "not grounded"
    UNGROUNDABLE = "ungroundable"
    NO_PREDICTION = "no prediction"


class StructuredQuery(BaseModel, frozen=True):
    """What a question asks, as the rules or a language model read it.

    ``expectation`` holds what the catalogue expects of the perturbation, its targets and pathways among it; it is
    empty for a perturbation that only the atlas knows. ``tissues`` are those that are named, UBERON id to label; they
    are kept and don't decide which cells prompt. ``ambiguities`` says what was read without certainty.
    ``reader`` is ``rules`` or the model's name, of which ``reading`` then reports.
    """

    question: str
    cell_type_id: str
    cell_type: str
    cell_type_text: str
    perturbation: str
    perturbation_text: str
    perturbation_type: PerturbationType
    family: str = ""
    expectation: Expectation = Expectation()
    species: str = "human"
    dataset: str | None = None
    in_catalogue: bool = True
    tissues: dict[str, str] = Field(default_factory=dict)
    ambiguities: tuple[str, ...] = ()
    reader: str = "rules"
    reading: AgentReport | None = None
    notes: tuple[str, ...] = ()


class RankingWeights(BaseModel, frozen=True):
    """How much relevance, diversity and data quality count in the ranking."""

    relevance: float = Field(default=0.4, ge=0)
    diversity: float = Field(default=0.3, ge=0)
    quality: float = Field(default=0.3, ge=0)


class IterationConfig(BaseModel, frozen=True, extra="forbid"):
    """The bounds of a run and what it is run with.

    Args:
        max_iterations: iterations at most, 1 to 10.
        score_threshold: a grounding score that ends the run.
        plateau_window: iterations without a gain of ``min_improvement`` that end the run.
        min_improvement: the gain that counts as one.
        max_evaluations: predictions at most over the whole run; unbounded where None.
        budget_seconds: inference seconds at most over the whole run; unbounded where None.
        candidates_per_iteration: prompts tried per iteration (K).
        candidates_per_job: prompts that one inference job works through; all of an iteration unless it says fewer.
        ontology_distance: steps in the Cell Ontology that count as near.
        prompt_cells: perturbed cells per prompt at most; as many control cells.
        query_cells: unperturbed cells of the target type at most.
        search_limit: groups a semantic search may return.
        strategies: which strategies propose.
        weights: ranking weights.
        grounding: weights of the grounding score.
        backend: what predicts; ``shift`` is the mean shift of the prompt.
        checkpoint: weights of a model backend.
        gene_list_uri: genes a model backend knows.
        diffusion_steps: generation steps of a model backend.
        batch_size: windows per forward pass of a model backend.
        max_model_calls: calls of a configured language model per proposal, over all its agents; 0 asks for no prompts.
        max_model_tokens: its tokens at most over the whole run.
        max_model_seconds: seconds over the whole run after which it is not called again.
        seed: seed of every random choice.
        prediction_seeds: predictions per candidate, with seeds ``seed``, ``seed + 1``, ...
        nonce: any text; a new one makes the same work count as new.
        predict_anyway: predict also what the atlas holds measured.
    """

    max_iterations: int = Field(default=5, ge=1, le=10)
    score_threshold: float = Field(default=7.0, ge=1, le=10)
    plateau_window: int = Field(default=3, ge=1)
    min_improvement: float = Field(default=1.0, ge=0)
    max_evaluations: int | None = Field(default=None, ge=1)
    budget_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    candidates_per_iteration: int = Field(default=4, ge=1, le=MAX_CANDIDATES)
    candidates_per_job: int = Field(default=MAX_CANDIDATES, ge=1)
    ontology_distance: int = Field(default=2, ge=0)
    prompt_cells: int = Field(default=1000, ge=10)
    query_cells: int = Field(default=500, ge=10)
    search_limit: int = Field(default=100, ge=1)
    strategies: tuple[Strategy, ...] = (
        Strategy.DIRECT,
        Strategy.ONTOLOGY,
        Strategy.MECHANISTIC,
        Strategy.SEMANTIC,
        Strategy.REFERENCE,
    )
    weights: RankingWeights = RankingWeights()
    grounding: GroundingConfig = GroundingConfig()
    backend: str = "shift"
    checkpoint: str | None = None
    gene_list_uri: str | None = None
    diffusion_steps: int = Field(default=5, ge=1)
    batch_size: int = Field(default=32, ge=1)
    max_model_calls: int = Field(default=8, ge=0, le=50)
    max_model_tokens: int = Field(default=500_000, ge=1)
    max_model_seconds: float = Field(default=300.0, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    prediction_seeds: int = Field(default=1, ge=1, le=10)
    nonce: str = ""
    predict_anyway: bool = False


class PromptCandidate(BaseModel, frozen=True):
    """A prompt worth trying: perturbed groups of the atlas, their controls, and why.

    ``candidate_id`` is a hash of the content: groups, query, backend and seeds. ``weights`` gives
    each group's share in the averaged shift.
    """

    candidate_id: str
    strategy: Strategy
    strategies: tuple[Strategy, ...] = ()
    cell_group_ids: tuple[str, ...] = Field(min_length=1)
    control_group_ids: tuple[str, ...] = Field(min_length=1)
    query_group_ids: tuple[str, ...] = Field(min_length=1)
    weights: tuple[float, ...] = ()
    perturbations: tuple[str, ...] = ()
    cell_types: tuple[str, ...] = ()
    n_cells: int = 0
    relevance: float = Field(default=0.0, ge=0, le=1)
    diversity: float = Field(default=1.0, ge=0, le=1)
    quality: float = Field(default=0.0, ge=0, le=1)
    rank_score: float = 0.0
    rationale: str = ""


class Proposal(BaseModel, frozen=True):
    """The candidates of one iteration, or why there are none."""

    iteration: int
    candidates: tuple[PromptCandidate, ...] = ()
    jobs: tuple[InferenceJob, ...] = ()
    empty_reason: str = ""
    notes: tuple[str, ...] = ()
    agents: tuple[AgentReport, ...] = ()


class EvaluationStatus(StrEnum):
    """How the evaluation of one prediction ended."""

    SCORED = "scored"
    UNGROUNDABLE = "ungroundable"
    FAILED = "failed"


class GeneChange(BaseModel, frozen=True):
    """A gene and its predicted change of mean log1p(CP10k)."""

    gene: str
    change: float


class ReferenceChange(BaseModel, frozen=True):
    """The change of each gene in the reference response, with which predictions are compared; empty where none is.

    Where the atlas holds the asked response, that is the reference. ``forecast`` is its accuracy, ``selection`` how the
    accuracy of a prediction follows from that; both None where the atlas has too few pairs to say.
    """

    genes: tuple[str, ...] = ()
    change: tuple[float, ...] = ()
    forecast: Forecast | None = None
    selection: Selection | None = None


class CandidateEvaluation(BaseModel, frozen=True):
    """One candidate, its prediction and how grounded that is.

    ``agreement`` is the Pearson correlation of the predicted change with the reference response; None where the atlas
    gives none. ``expected`` is the accuracy to expect of it; None where the atlas has too few pairs to say. ``cached``
    says whether the prediction was made before, ``literature_cached`` how many of PubMed's answers were.
    """

    candidate: PromptCandidate
    status: EvaluationStatus
    grounding: GroundingScore | None = None
    prediction_uri: str | None = None
    query_uri: str | None = None
    top_genes: tuple[GeneChange, ...] = ()
    agreement: float | None = None
    expected: Expected | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    duration_seconds: float = 0.0
    backend: str = ""
    model: str = ""
    cached: bool = False
    literature_answers: int = 0
    literature_cached: int = 0
    error: str | None = None

    @property
    def score(self) -> float | None:
        """The grounding score, or None."""
        return self.grounding.score if self.grounding else None


class IterationRecord(BaseModel, frozen=True):
    """What one iteration tried and what came of it."""

    iteration: int
    evaluations: tuple[CandidateEvaluation, ...] = ()
    best_candidate_id: str | None = None
    best_score: float | None = None
    empty_reason: str = ""
    notes: tuple[str, ...] = ()
    agents: tuple[AgentReport, ...] = ()
    duration_seconds: float = 0.0


class Provenance(BaseModel, frozen=True):
    """What ran: everything that decides the result beside the question."""

    package_version: str
    ontology_version: str
    knowledge_version: str
    catalogue_version: str
    embedding_model: str
    backend: str
    seed: int
    language_model: str | None = None


class Measurement(BaseModel, frozen=True):
    """The asked response, as the atlas holds it.

    Attributes:
        n_groups: measured groups: its replicates by dataset, donor and tissue.
        n_cells: perturbed cells in them.
        agreement: mean Pearson correlation between two of the groups; None with one.
        top_genes: the largest changes of the groups' mean, by their cells.
    """

    n_groups: int
    n_cells: int
    agreement: float | None = None
    top_genes: tuple[GeneChange, ...] = ()

    def __str__(self) -> str:
        agree = "" if self.agreement is None else f", which agree at Pearson {self.agreement:.2f}"
        return f"measured in {self.n_groups} group{'s' * (self.n_groups > 1)} of {self.n_cells} cells{agree}"


class Feedback(BaseModel, frozen=True):
    """What a person said to the results so far.

    Attributes:
        iteration: after which it was said, from 0.
        stop: no further iteration is wanted.
        excluded_group_ids: groups that no later prompt may have.
        preferred_pathways: gene sets or footprints that later prompts should carry.
        note: a word for the report.
        notes: what of the answer could not be used.
        by: who said it, as Airflow names people.
    """

    iteration: int
    stop: bool = False
    excluded_group_ids: tuple[str, ...] = ()
    preferred_pathways: tuple[str, ...] = ()
    note: str = ""
    notes: tuple[str, ...] = ()
    by: str = ""


class HaystackRun(BaseModel, frozen=True):
    """The state of a run after ``len(iterations)`` iterations; one link of the chain of states."""

    run_id: str
    results_uri: str
    query: StructuredQuery
    config: IterationConfig
    provenance: Provenance
    measured: Measurement | None = None
    iterations: tuple[IterationRecord, ...] = ()
    feedback: tuple[Feedback, ...] = ()

    @property
    def work_uri(self) -> str:
        """The folder below the results that holds states, proposals, jobs and candidates."""
        from gca_core import io

        return io.join_uri(self.results_uri, "work")

    def evaluations(self) -> tuple[CandidateEvaluation, ...]:
        """All evaluations so far, in order."""
        return tuple(evaluation for record in self.iterations for evaluation in record.evaluations)

    def excluded(self) -> frozenset[str]:
        """Groups that a person wants in no further prompt."""
        return frozenset(group for said in self.feedback for group in said.excluded_group_ids)

    def preferred(self) -> tuple[str, ...]:
        """Pathways that a person wants prompts to carry, the latest said first."""
        return tuple(dict.fromkeys(name for said in reversed(self.feedback) for name in said.preferred_pathways))

    def agents(self) -> tuple[AgentReport, ...]:
        """What a language model did so far, in order."""
        reading = () if self.query.reading is None else (self.query.reading,)
        return (*reading, *(report for record in self.iterations for report in record.agents))


class GateDecision(BaseModel, frozen=True):
    """Go on, or stop and why."""

    go: bool
    reason: TerminationReason | None = None
    detail: str = ""


class HaystackOutputs(BaseModel, frozen=True):
    """Where a finished run's results lie, and its figures. Iterations count from 0."""

    run_id: str
    h5ad_uri: str | None
    html_uri: str
    markdown_uri: str
    json_uri: str
    state_uri: str
    best_score: float | None
    best_iteration: int | None
    best_candidate_id: str | None
    termination_reason: TerminationReason
    n_iterations: int
    n_evaluations: int
    status: str
    verdict: Verdict
    verdict_detail: str
    expected: Expected | None = None
    forecast: Forecast | None = None
    measured: Measurement | None = None


class Contribution(BaseModel, frozen=True):
    """A measured response in the reference: its weight, of the responses as they were measured."""

    perturbation: str
    cell_type: str
    weight: float


class ReferenceResponse(BaseModel, frozen=True):
    """The atlas's own estimate of the asked response, made of measured ones; see :mod:`gca_core.responses`.

    Attributes:
        description: what it is made of, or why there is none.
        n_pairs: measured pairs of perturbation and type that it was made from.
        forecast: how accurate such estimates are; None where the atlas has too few pairs to say.
        contributions: the largest weights, largest first.
        pearson_with_prediction: over all genes; None without a prediction.
        selection: what the accuracy of a prediction is expected by; None where the atlas has too few pairs to say.
    """

    available: bool
    description: str
    n_pairs: int = 0
    forecast: Forecast | None = None
    contributions: tuple[Contribution, ...] = ()
    top_genes: tuple[GeneChange, ...] = ()
    pearson_with_prediction: float | None = None
    selection: Selection | None = None


class Baseline(BaseModel, frozen=True):
    """The mean response of all other types to the same perturbation, as it would be without any choice."""

    available: bool
    description: str
    n_groups: int = 0
    grounding: GroundingScore | None = None
    pearson_with_prediction: float | None = None
    top_genes: tuple[GeneChange, ...] = ()
