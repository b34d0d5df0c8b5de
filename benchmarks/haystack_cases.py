"""Questions to an atlas whose answer is hidden, and how good an answer is.

An answer is a change of mean log1p(CP10k). It is held against the truth by three figures: Pearson over all genes,
overlap of the 50 largest changes, and the share of other perturbations' true responses in that type that it resembles
less than the asked one's (discrimination; 0.5 is chance). Their mean is the utility U. No answer counts as no change:
0, 0 and 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from bench_responses import pooled
from haystack_data import Measured
from haystack_simulated import CONTROL, Question

from gca_core import io
from gca_core.atlas import Atlas, IngestConfig, open_atlas
from gca_core.atlas.ingest import ingest
from gca_core.atlas.ingest.names import load_name_resolver
from gca_core.atlas.models import CellGroup, DatasetInfo, SearchHit, make_group_id
from gca_core.config import Settings
from gca_core.errors import CellRetrievalError
from gca_core.grounding.models import Expectation, GroundingConfig, GroundingScore
from gca_core.grounding.score import score_prediction, score_response
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.models import (
    CandidateEvaluation,
    EvaluationStatus,
    IterationConfig,
    PromptCandidate,
    ReferenceChange,
    StructuredQuery,
)
from gca_core.haystack.prompts.from_reference import Guide, guide_for
from gca_core.haystack.prompts.materialise import write_candidate, write_jobs, write_query
from gca_core.haystack.reference import AtlasReference
from gca_core.haystack.steps import compare_with, expected_of, measure_by
from gca_core.haystack.understand import understand
from gca_core.inference.job import run_job
from gca_core.inference.prediction import LOG, change, differential_change, read_prediction
from gca_core.inference.resample import draw, solve_rates
from gca_core.matrix.compare import de_overlap, pearson
from gca_core.matrix.differential import DifferentialExpression
from gca_core.matrix.normalise import log_normalise
from gca_core.responses.reference import Reference

TOP = 50
Array = npt.NDArray[np.float64]
Pair = tuple[ad.AnnData, ad.AnnData]


class WithheldAtlas(Atlas):
    """An atlas that doesn't show some of its perturbed groups, by perturbation, type and where it is named, donor."""

    def __init__(self, atlas: Atlas, hidden: Iterable[tuple[str, ...]]) -> None:
        super().__init__(atlas.dsn, atlas.store_root_uri)
        self._atlas = atlas
        self._hidden = frozenset(hidden)

    def _shown(self, group: CellGroup) -> bool:
        key = (group.perturbation, group.cell_type_id)
        return group.is_control or not {key, (*key, group.donor)} & self._hidden

    def groups(self, **conditions: object) -> list[CellGroup]:  # type: ignore[override]
        return [g for g in self._atlas.groups(**conditions) if self._shown(g)]  # type: ignore[arg-type]

    def get_groups(self, group_ids: Sequence[str]) -> list[CellGroup]:
        found = self._atlas.get_groups(group_ids)
        if not all(map(self._shown, found)):
            raise CellRetrievalError("a group that was put aside was asked for")
        return found

    def perturbations(self, dataset: str | None = None) -> list[str]:
        return sorted({g.perturbation for g in self.groups(dataset=dataset, is_control=False)})

    def semantic(self, *args: object, **options: object) -> list[SearchHit]:  # type: ignore[override]
        return self._atlas.semantic(*args, **options)  # type: ignore[arg-type]

    def datasets(self) -> list[DatasetInfo]:
        """With a content hash of what is shown, so that nothing is kept from one question to the next."""
        mark = io.content_hash(sorted(map(list, self._hidden)))[:12]
        return [
            info.model_copy(update={"content_hash": f"{info.content_hash}-{mark}"}) for info in self._atlas.datasets()
        ]


class VectorAtlas(Atlas):
    """Responses without cells, as groups of an atlas in memory."""

    def __init__(self, dataset: str, measured: Measured, context: HaystackContext) -> None:
        super().__init__("", "file:///nowhere")
        self.dataset = dataset
        self._model = context.embedding_model
        self._groups: dict[str, CellGroup] = {}
        self.changes: dict[str, Array] = {}
        for row, response in zip(measured.obs.itertuples(), measured.change, strict=True):
            control = self._add(CONTROL, row.cell_type_id, row.cell_type)
            group = self._add(row.perturbation, row.cell_type_id, row.cell_type, control)
            self.changes[group] = response
        names = sorted({g.perturbation for g in self._groups.values() if not g.is_control})
        self._names = dict(zip(names, np.array(context.embed(names)), strict=True))

    def shown(self, genes: list[str], visible: set[str]) -> AtlasReference:
        """The measured responses that are not hidden, as a question sees them."""
        groups = [group for identifier, group in sorted(self._groups.items()) if identifier in visible]
        obs = pd.DataFrame([group.model_dump() for group in groups]).assign(n_cells=0, n_controls=0)
        data = pooled(Measured(obs, np.array([self.changes[g.group_id] for g in groups]), None, genes))
        names = {name: name for name in data.perturbations}
        key = io.content_hash(sorted(visible))
        return AtlasReference(Reference(data), genes, tuple(groups), names, key)

    def _add(self, perturbation: str, cell_type_id: str, cell_type: str, control: str | None = None) -> str:
        identifier = make_group_id(self.dataset, perturbation, cell_type_id, None)
        self._groups[identifier] = CellGroup(
            group_id=identifier,
            dataset=self.dataset,
            perturbation=perturbation,
            is_control=control is None,
            cell_type_id=cell_type_id,
            cell_type=cell_type,
            donor=None,
            n_cells=100,
            control_group_id=control,
            control_match=control and "type",
        )
        return identifier

    def groups(  # type: ignore[override]
        self,
        *,
        dataset: str | None = None,
        perturbation: str | None = None,
        cell_type_ids: Iterable[str] | None = None,
        is_control: bool | None = None,
    ) -> list[CellGroup]:
        types = None if cell_type_ids is None else set(cell_type_ids)
        return [
            group
            for _, group in sorted(self._groups.items())
            if dataset in {None, self.dataset}
            and (perturbation is None or group.perturbation == perturbation)
            and (types is None or group.cell_type_id in types)
            and (is_control is None or group.is_control == is_control)
        ]

    def get_groups(self, group_ids: Sequence[str]) -> list[CellGroup]:
        return [self._groups[identifier] for identifier in group_ids]

    def datasets(self) -> list[DatasetInfo]:
        return []

    def similarity_threshold(self) -> float | None:
        return None

    def semantic(  # type: ignore[override]
        self,
        vector: Sequence[float],
        *,
        limit: int,
        exclude_perturbations: Iterable[str] = (),
        min_similarity: float = -1.0,
        **_: object,
    ) -> list[SearchHit]:
        left = set(exclude_perturbations)
        near = {name: float(own @ np.array(vector)) for name, own in self._names.items() if name not in left}
        ranked = sorted((-s, name) for name, s in near.items() if s >= min_similarity)[:limit]
        return [SearchHit(kind="perturbation", id=name, label=name, distance=1 + s) for s, name in ranked]


def take_in(cells: ad.AnnData, dataset: str, settings: Settings, context: HaystackContext) -> None:
    """Cells into the atlas, the way a user's go."""
    path = settings.home / f"{dataset}.h5ad"
    cells.write_h5ad(path)
    config = IngestConfig(
        input_uri=str(path), dataset=dataset, perturbation_column="perturbation", control_value=CONTROL,
        cell_type_column="cell_type", cell_type_id_column="cell_type_id",
        donor_column="donor" if "donor" in cells.obs else None,
    )  # fmt: skip
    admin = open_atlas(settings, role="admin")
    ingest(config, admin, embed=context.embed, resolver=load_name_resolver(), embedding_model=context.embedding_model)
    path.unlink()


class Utility(NamedTuple):
    """How good a change is against the truth; discrimination is NaN where there is nothing to tell apart."""

    pearson: float = 0.0
    overlap: float = 0.0
    discrimination: float = 0.5

    @property
    def mean(self) -> float:
        return float(np.nanmean(self))


@dataclass(frozen=True)
class Truth:
    """The true response, and those of all perturbations of the type in which the asked one has its place."""

    change: Array
    others: Array
    place: int

    def utility(self, change: Array) -> Utility:
        if not np.ptp(change):
            return NOTHING if len(self.others) > 1 else Utility(discrimination=np.nan)
        told = np.nan
        if len(self.others) > 1:
            likeness = self._standard @ (change - change.mean())
            rest = np.delete(likeness, self.place)
            told = float(np.mean((rest < likeness[self.place]) + 0.5 * (rest == likeness[self.place])))
        return Utility(pearson(change, self.change), de_overlap(change, self.change, TOP), told)

    @cached_property
    def _standard(self) -> Array:
        centred = self.others - self.others.mean(axis=1, keepdims=True)
        return np.asarray(centred / np.linalg.norm(centred, axis=1, keepdims=True))


NOTHING = Utility()


class Tried(NamedTuple):
    """A candidate with its change, and the tests of its cells where there are any."""

    evaluation: CandidateEvaluation
    change: Array
    found: DifferentialExpression | None


def tested(predicted: ad.AnnData, control: ad.AnnData) -> DifferentialExpression:
    config = GroundingConfig()
    return differential_change(predicted, control, min_lfc=config.min_lfc, max_padj=config.max_padj)


@dataclass
class Case:
    """A question with its answer hidden.

    Attributes:
        changes: the response of every group that is shown.
        realise: from a mean response to predicted cells and their control; None where there are no cells.
        measured: what the atlas itself has for an answer, where the truth is another measurement.
        vectors: the measured responses, where there are no cells.
        by_model: from a prompt to predicted cells and their control, where a model predicts.
    """

    question: Question
    query: StructuredQuery
    context: HaystackContext
    config: IterationConfig
    genes: list[str]
    truth: Truth
    changes: Mapping[str, Array]
    realise: Callable[[Array], Pair] | None
    measured: Array | None = None
    vectors: AtlasReference | None = None
    by_model: Callable[[PromptCandidate], Pair] | None = None
    _tried: dict[str, Tried] = field(default_factory=dict)

    @property
    def atlas(self) -> Atlas:
        return self.context.require_atlas()

    @cached_property
    def guide(self) -> Guide | None:
        """What prompts are weighed by."""
        if self.vectors is None:
            return guide_for(self.query, self.context)
        asked = self.query.perturbation
        return Guide(self.vectors, self.vectors.answer(asked, self.query.cell_type_id), asked)

    @cached_property
    def measure(self) -> ReferenceChange:
        """What predictions are compared with."""
        return measure_by(self.guide, self.config, self.context) if self.guide else ReferenceChange()

    def predict(self, shift: Array) -> Array:
        """The change that comes of a mean response."""
        return shift if self.realise is None else change(*self.realise(shift))

    def score(
        self, changes: Array, found: DifferentialExpression | None, expectation: Expectation | None = None
    ) -> GroundingScore:
        """Of a prediction, by what is expected of the asked perturbation, or of another."""
        expected = expectation or self.query.expectation
        if found is None:
            return score_prediction(changes, self.genes, expected, self.context.knowledge)
        return score_response(found, expected, self.context.knowledge)

    def evaluate(self, candidate: PromptCandidate) -> CandidateEvaluation:
        """As the step does it, without files; once for each candidate."""
        key = candidate.candidate_id
        if key not in self._tried:
            shift = np.average([self.changes[g] for g in candidate.cell_group_ids], axis=0, weights=candidate.weights)
            cells = self.by_model(candidate) if self.by_model else self.realise and self.realise(shift)
            changes, found = (shift, None) if cells is None else (change(*cells), tested(*cells))
            score = self.score(changes, found)
            status = EvaluationStatus.UNGROUNDABLE if score.score is None else EvaluationStatus.SCORED
            # best_of asks that there be a prediction
            near = compare_with(self.measure, changes, self.genes)
            own = CandidateEvaluation(
                candidate=candidate,
                status=status,
                grounding=score,
                prediction_uri=key,
                agreement=near,
                expected=expected_of(self.measure, near, score),
            )
            self._tried[key] = Tried(own, changes, found)
        return self._tried[key].evaluation

    def keep_run(self, evaluations: Iterable[CandidateEvaluation]) -> None:
        """What a run predicted, read from its files."""
        for evaluation in evaluations:
            if evaluation.prediction_uri and evaluation.query_uri:
                cells = read_prediction(evaluation.prediction_uri, evaluation.query_uri)
                assert cells[0].var_names.tolist() == self.genes
                self._tried[evaluation.candidate.candidate_id] = Tried(evaluation, change(*cells), tested(*cells))

    def change_of(self, evaluation: CandidateEvaluation) -> Array:
        return self._tried[evaluation.candidate.candidate_id].change

    @property
    def tried(self) -> list[Tried]:
        """Every candidate that any way of answering has tried."""
        return list(self._tried.values())


def case_of(
    question: Question,
    truth: Truth,
    context: HaystackContext,
    dataset: str,
    *,
    genes: list[str] | None = None,
    config: IterationConfig | None = None,
    measured: bool = False,
) -> Case:
    """A question to an atlas of cells, or where the genes are given, of vectors.

    ``measured``: whether the hidden groups are another measurement than the truth.
    """
    atlas, config = context.require_atlas(), config or IterationConfig()
    context = replace(context, atlas=WithheldAtlas(atlas, question.hidden))
    query = understand(
        None, context, cell_type=question.cell_type_id, perturbation=question.perturbation, dataset=dataset
    )
    shown = context.require_atlas().groups(dataset=dataset, is_control=False)
    if isinstance(atlas, VectorAtlas):
        changes = {group.group_id: atlas.changes[group.group_id] for group in shown}
        vectors = atlas.shown(genes or [], set(changes))
        return Case(question, query, context, config, genes or [], truth, changes, None, vectors=vectors)
    changes, genes = changes_of(atlas, shown)
    hidden = (
        []
        if not measured
        else atlas.groups(
            dataset=dataset, perturbation=query.perturbation, cell_type_ids=[query.cell_type_id], is_control=False
        )
    )
    own = np.mean(list(changes_of(atlas, hidden)[0].values()), axis=0) if hidden else None
    realise = realiser(atlas, dataset, question.cell_type_id, config)
    by_model = None if config.checkpoint is None else jobs_of(atlas, config, context.settings.home / "prompts")
    return Case(question, query, context, config, genes, truth, changes, realise, own, by_model=by_model)


def changes_of(atlas: Atlas, groups: Sequence[CellGroup]) -> tuple[dict[str, Array], list[str]]:
    """The response of each group that has a control, and the genes."""
    paired = [group for group in groups if group.control_group_id is not None]
    treated, genes = atlas.group_means([group.group_id for group in paired])
    untreated, _ = atlas.group_means([str(group.control_group_id) for group in paired])
    return dict(zip([group.group_id for group in paired], treated - untreated, strict=True)), genes


def jobs_of(atlas: Atlas, config: IterationConfig, folder: Path) -> Callable[[PromptCandidate], Pair]:
    """What a model predicts from a prompt, by the job that the loop would send."""

    def predict(candidate: PromptCandidate) -> Pair:
        work = str(folder)
        query = write_query(atlas, candidate.query_group_ids, work, config)
        (job,) = write_jobs([write_candidate(atlas, candidate, work, query, config)], work, config)
        (result,) = run_job(job.job_uri).results
        assert result.prediction_uri is not None, result.error
        return read_prediction(result.prediction_uri, query)

    return predict


def realiser(atlas: Atlas, dataset: str, cell_type_id: str, config: IterationConfig) -> Callable[[Array], Pair]:
    """What the backend ``shift`` makes of a mean response and the query cells."""
    groups = atlas.groups(dataset=dataset, cell_type_ids=[cell_type_id], is_control=True)
    query = atlas.materialise([g.group_id for g in groups], max_cells=config.query_cells, seed=config.seed)
    query.layers[LOG] = log_normalise(query.X)
    counts = sp.csr_matrix(query.X).astype(np.int64)
    means = np.asarray(log_normalise(counts, dtype=np.float64).mean(axis=0)).ravel()

    def realise(shift: Array) -> Pair:
        rates = solve_rates(counts, means, np.maximum(means + shift, 0.0))
        drawn = draw(counts, rates, np.random.default_rng(config.seed))
        return ad.AnnData(drawn, obs=query.obs, var=query.var, layers={LOG: log_normalise(drawn)}), query

    return realise
