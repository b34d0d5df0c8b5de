"""The atlas's own answer to a question: group means are read here, and :mod:`gca_core.responses` does the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from gca_core import io
from gca_core.cache import FileCache, cache_root
from gca_core.errors import CellRetrievalError, DataValidationError
from gca_core.haystack.models import (
    Contribution,
    GeneChange,
    HaystackRun,
    Measurement,
    ReferenceChange,
    ReferenceResponse,
    StructuredQuery,
)
from gca_core.knowledge.bundled.genetic import resolve_perturbation
from gca_core.knowledge.bundled.likeness import likeness_matrix
from gca_core.knowledge.bundled.names import normalise_name
from gca_core.matrix.compare import pearson
from gca_core.responses.backtest import Regime, backtest
from gca_core.responses.covariance import Shares
from gca_core.responses.left_out import Support
from gca_core.responses.measured import pool_groups, type_distances
from gca_core.responses.reference import Answer, Reference

if TYPE_CHECKING:
    from gca_core.atlas.models import CellGroup
    from gca_core.haystack.context import HaystackContext

T = TypeVar("T")
Array = npt.NDArray[np.float64]

# of perturbed groups that are read: 20,000 genes of so many are 0.3 GB
MOST_GROUPS = 2000
CONTRIBUTIONS, TOP_GENES = 8, 50
# what is kept is dropped when the fit changes
FIT_VERSION = 2
_FITS = TypeAdapter(list[tuple[Support, Shares]])


@dataclass(frozen=True)
class AtlasReference:
    """Measured responses of the atlas with the genes that they are of.

    Attributes:
        reference: estimates from them.
        genes: (n_genes,) symbols.
        groups: the perturbed groups behind them.
        names: of each of the atlas's perturbations, the name that stands in ``reference``.
        key: hash of all that the fit follows from.
    """

    reference: Reference
    genes: list[str]
    groups: tuple[CellGroup, ...]
    names: Mapping[str, str]
    key: str

    @cached_property
    def cache(self) -> FileCache:
        """Where what was fitted to an atlas is kept."""
        return FileCache(cache_root() / "responses")

    def answer(self, perturbation: str, cell_type_id: str) -> Answer:
        """The estimate for a pair.

        Raises:
            DataValidationError: the pair is unknown here, or nothing else was measured.
        """
        return self._with_fits(lambda: self.reference.answer(perturbation, cell_type_id))

    def backtest(self) -> list[Regime]:
        """How good the estimates of known pairs are, beside plain answers."""
        return self._with_fits(lambda: backtest(self.reference))

    def _with_fits(self, make: Callable[[], T]) -> T:
        """Make something with what was fitted before, and keep what had to be fitted for it."""
        kept = self.cache.get(self.key)
        if kept is not None:
            self.reference.fitted.update(_FITS.validate_json(kept.content))
        before = len(self.reference.fitted)
        made = make()
        if len(self.reference.fitted) > before:
            self.cache.put(self.key, _FITS.dump_json(list(self.reference.fitted.items())))
        return made


def find_measurement(query: StructuredQuery, context: HaystackContext) -> tuple[Measurement | None, ReferenceChange]:
    """The asked response itself, in words and gene by gene; None and empty where the atlas doesn't hold it."""
    atlas = context.require_atlas()
    wanted = _canonical([query.perturbation], context)[0]
    of_type = atlas.groups(dataset=query.dataset, cell_type_ids=[query.cell_type_id], is_control=False)
    names = _canonical([g.perturbation for g in of_type], context)
    groups = [g for g, n in zip(of_type, names, strict=True) if n == wanted and g.control_group_id is not None]
    if not groups:
        return None, ReferenceChange()
    try:
        treated, genes = atlas.group_means([g.group_id for g in groups])
    except CellRetrievalError:  # datasets that share no gene: no one answer
        return None, ReferenceChange()
    changes = treated - atlas.group_means([g.control_group_id or "" for g in groups])[0]
    agreements = [pearson(a, b) for a, b in combinations(changes, 2)]
    mean = np.average(changes, axis=0, weights=[g.n_cells for g in groups])
    found = Measurement(
        n_groups=len(groups),
        n_cells=sum(g.n_cells for g in groups),
        agreement=round(float(np.mean(agreements)), 4) if agreements else None,
        top_genes=_largest(mean, genes),
    )
    return found, as_reference(genes, mean)


def as_reference(genes: Sequence[str], change: Array) -> ReferenceChange:
    """What predictions are compared with, of the genes' changes (n_genes,)."""
    return ReferenceChange(genes=tuple(genes), change=tuple(np.round(change, 6).tolist()))


def reference_uri(run: HaystackRun) -> str:
    """Where a run keeps what its predictions are compared with."""
    return io.join_uri(run.work_uri, "reference.json")


def read_measure(run: HaystackRun) -> ReferenceChange:
    """What the predictions of a run are compared with; empty before the first proposal."""
    if not io.as_path(reference_uri(run)).exists():
        return ReferenceChange()
    return ReferenceChange.model_validate(io.read_json(reference_uri(run), what="reference response"))


def describe_reference(
    query: StructuredQuery, context: HaystackContext, prediction: Mapping[str, float] | None = None
) -> ReferenceResponse:
    """The reference response to a question in words and figures.

    Args:
        query: what is asked.
        context: with an atlas.
        prediction: a predicted change by gene, to compare it with.
    """
    try:
        atlas, answer, _ = reference_for(query, context)
    except (CellRetrievalError, DataValidationError) as error:
        return ReferenceResponse(available=False, description=str(error))
    data, change = atlas.reference.data, answer.change
    shared = [i for i, gene in enumerate(atlas.genes) if gene in (prediction or {})]
    heaviest = np.argsort(-np.abs(answer.weights), kind="stable")[:CONTRIBUTIONS]
    labels = {g.cell_type_id: g.cell_type for g in atlas.groups}
    return ReferenceResponse(
        available=True,
        description=f"made from {answer.support}",
        n_pairs=int(np.count_nonzero(answer.weights)),
        forecast=answer.forecast,
        contributions=tuple(
            Contribution(
                perturbation=data.perturbations[data.perturbation[i]],
                cell_type=labels[data.cell_types[data.cell_type[i]]],
                weight=round(float(answer.weights[i]), 3),
            )
            for i in heaviest
        ),
        top_genes=_largest(change, atlas.genes),
        pearson_with_prediction=round(pearson(change[shared], [prediction[atlas.genes[i]] for i in shared]), 4)
        if prediction and len(shared) > 1
        else None,
    )


def reference_for(query: StructuredQuery, context: HaystackContext) -> tuple[AtlasReference, Answer, str]:
    """The reference response to a question, what it was made from, and the name of the perturbation there.

    Raises:
        CellRetrievalError: the atlas holds no perturbed group with a control.
        DataValidationError: nothing but the asked pair was measured.
    """
    found = read_reference(context, query.dataset, (query.perturbation, query.cell_type_id))
    asked = _canonical([query.perturbation], context)[0]
    return found, found.answer(asked, query.cell_type_id), asked


def read_reference(
    context: HaystackContext, dataset: str | None = None, asked: tuple[str, str] | None = None
) -> AtlasReference:
    """The measured responses of the atlas, or of one dataset.

    Where there are more than 2,000 perturbed groups, those of the asked perturbation and of the asked type come first.

    Args:
        context: with an atlas.
        dataset: name of a dataset.
        asked: perturbation and Cell Ontology id of a question, neither of which need have a group.

    Raises:
        CellRetrievalError: the atlas holds no perturbed group with a control, or its datasets share no gene.
    """
    atlas = context.require_atlas()
    everything = atlas.groups(dataset=dataset)
    treated = [g for g in everything if not g.is_control and g.control_group_id is not None]
    if not treated:
        raise CellRetrievalError("the atlas holds no perturbed cells with a control; ingest a dataset that has them")
    named = dict(zip(names := sorted({g.perturbation for g in treated}), _canonical(names, context), strict=True))
    wanted = None if asked is None else (_canonical([asked[0]], context)[0], asked[1])
    treated = _first(treated, named, wanted)
    controls = [g for g in everything if g.is_control]
    means, genes = atlas.group_means([*(g.group_id for g in treated), *(g.group_id for g in controls)])
    place = {g.group_id: len(treated) + i for i, g in enumerate(controls)}
    changes = means[: len(treated)] - means[[place[g.control_group_id or ""] for g in treated]]
    pairs = [(named[g.perturbation], g.cell_type_id) for g in treated]
    perturbations, types = (sorted(set(part)) for part in zip(*pairs, *([wanted] if wanted else []), strict=True))
    profiles = _profiles(types, controls, means[len(treated) :], context)
    cells = {g.group_id: g.n_cells for g in controls}
    data = pool_groups(
        perturbations,
        types,
        pairs,
        changes.astype(np.float32),
        likeness_matrix([resolve_perturbation(name, context.catalogue) for name in perturbations]),
        type_distances(profiles, _steps(types, context)),
        np.array([min(g.n_cells, cells[g.control_group_id or ""]) for g in treated], dtype=np.float64),
        [(g.dataset, g.donor) for g in treated],
    )
    content = {
        "version": FIT_VERSION,
        "datasets": {d.dataset: d.content_hash for d in atlas.datasets() if d.dataset in {g.dataset for g in treated}},
        "groups": sorted(g.group_id for g in treated),
        "catalogue": context.catalogue.version,
        "ontology": context.ontology.version,
    }
    return AtlasReference(Reference(data), genes, tuple(treated), named, io.content_hash(content))


def _largest(change: Array, genes: Sequence[str]) -> tuple[GeneChange, ...]:
    order = np.argsort(-np.abs(change), kind="stable")[:TOP_GENES]
    return tuple(GeneChange(gene=genes[i], change=round(float(change[i]), 6)) for i in order)


def _canonical(names: Sequence[str], context: HaystackContext) -> list[str]:
    """The catalogue's names; spellings of one perturbation become one name."""
    entries = [resolve_perturbation(name, context.catalogue) for name in names]
    return [entry.name if entry else normalise_name(name) for name, entry in zip(names, entries, strict=True)]


def _first(groups: list[CellGroup], named: dict[str, str], wanted: tuple[str, str] | None) -> list[CellGroup]:
    """At most so many groups as may be read, those nearest to what is asked first, in their order."""
    if len(groups) <= MOST_GROUPS:
        return groups

    def far(group: CellGroup) -> int:
        other = wanted is None or named[group.perturbation] != wanted[0]
        return 2 * other + (wanted is None or group.cell_type_id != wanted[1])

    kept = {g.group_id for g in sorted(groups, key=far)[:MOST_GROUPS]}
    return [g for g in groups if g.group_id in kept]


def _profiles(types: Sequence[str], controls: Sequence[CellGroup], means: Array, context: HaystackContext) -> Array:
    """Mean log expression of each type's control cells, else of its subtypes'; NaN where there are none."""
    of_type: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(controls):
        of_type[group.cell_type_id].append(row)
    found = np.full((len(types), means.shape[1]), np.nan)
    for place, name in enumerate(types):
        below = context.ontology.descendants(name) if name in context.ontology and name not in of_type else {name}
        rows = [row for t in sorted(below) for row in of_type.get(t, ())]
        if rows:
            found[place] = np.average(means[rows], axis=0, weights=[controls[row].n_cells for row in rows])
    return found


def _steps(types: Iterable[str], context: HaystackContext) -> Array:
    known = context.ontology
    return np.array(
        [[known.distance(a, b) if a in known and b in known else None for b in types] for a in types], dtype=np.float64
    )
