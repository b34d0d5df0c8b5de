"""Corrections of labels by people: a value that goes to disk and is put on the clusters it was made for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints, ValidationError, field_validator, model_validator

from gca_core.annotation.labels.names import common_name
from gca_core.annotation.models import STORED, UNKNOWN, Annotation, Override, Status
from gca_core.annotation.scoring.parameters import MIN_LIKENESS
from gca_core.errors import DataValidationError, complaints
from gca_core.io import PathInput, read_json

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

CORRECTIONS_FILE = "corrections.json"
FINGERPRINT_GENES = 20

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


class Correction(BaseModel, frozen=True, extra="forbid"):
    """One person's label for one cluster.

    Attributes:
        cluster: its name.
        genes: its top genes when the correction was made; they tell it from another cluster of that name.
        label, ontology_id: what was decided; without an id the label is free text or ``Unknown or Novel``.
        who: the reviewer.
        when: the time of the decision, ISO 8601 in UTC.
        note: the reviewer's words.
        replaced: the annotator's label at that time.
        run: the run's folder below the cohort's; empty in the corrections of one run.
    """

    cluster: str
    genes: tuple[str, ...] = Field(default=(), max_length=FINGERPRINT_GENES)
    label: _Text
    ontology_id: Annotated[str, StringConstraints(pattern=r"^CL:\d{7}$")] | None
    who: _Text
    when: str
    note: Annotated[str, StringConstraints(max_length=5_000)] = ""
    replaced: str
    run: str = ""

    @field_validator("when")
    @classmethod
    def _is_utc(cls, value: str) -> str:
        moment = datetime.fromisoformat(value)
        if moment.utcoffset() != timedelta(0):
            raise ValueError(f"the time {value!r} is not in UTC; expected a form such as 2030-01-31T09:30:00+00:00")
        return value

    def matches(self, other: Correction) -> bool:
        """Whether both are about the same cluster: of that name, with at least half of the top genes in common."""
        named = (self.run, self.cluster) == (other.run, other.cluster)
        return named and _likeness(self.genes, other.genes) >= MIN_LIKENESS

    def is_about(self, other: Correction) -> bool:
        """Whether both name the same cluster with the very same genes."""
        return (self.run, self.cluster, set(self.genes)) == (other.run, other.cluster, set(other.genes))

    def says_the_same(self, other: Correction) -> bool:
        """Whether both decide the same, whoever did so and when."""
        return (self.label, self.ontology_id, self.note) == (other.label, other.ontology_id, other.note)


class Corrections(BaseModel, frozen=True, extra="forbid"):
    """The corrections of a run or a cohort, as ``corrections.json`` keeps them; at most one per cluster."""

    version: Literal[1] = 1
    corrections: tuple[Correction, ...] = ()

    @model_validator(mode="after")
    def _one_each(self) -> Corrections:
        for i, correction in enumerate(self.corrections):
            if any(correction.is_about(other) for other in self.corrections[:i]):
                raise ValueError(f"there are two corrections of cluster {correction.cluster!r}; keep one of them")
        return self

    def of_run(self, run: str) -> Corrections:
        """Those of one run of a cohort, as corrections of that run alone."""
        mine = (c.model_copy(update={"run": ""}) for c in self.corrections if c.run == run)
        return Corrections(corrections=tuple(mine))

    def with_later(self, later: Sequence[Correction]) -> Corrections:
        """These and ``later`` ones, which win where both are about the same cluster.

        Where a later one decides the same as before, the earlier stays, with its time and reviewer.
        """
        kept = list(self.corrections)
        for correction in later:
            known = [c for c in kept if c.matches(correction)]
            if len(known) == 1 and known[0].says_the_same(correction):
                continue
            kept = [*(c for c in kept if c not in known), correction]
        return Corrections(corrections=tuple(kept))


@dataclass(frozen=True)
class Placement:
    """Where corrections went.

    Attributes:
        annotations: as given, with the labels of the corrections.
        n_placed: clusters with a correction.
        unplaced: corrections that fit no cluster, each with the reason.
    """

    annotations: tuple[Annotation, ...]
    n_placed: int
    unplaced: tuple[tuple[Correction, str], ...]


def load_corrections(uri: PathInput) -> Corrections:
    """Read a file of corrections.

    Raises:
        DataValidationError: no such file, no JSON, or no corrections.
    """
    try:
        return Corrections.model_validate(read_json(uri, what="file of corrections"))
    except ValidationError as error:
        raise DataValidationError(
            f"{str(uri)!r} is no file of corrections: {complaints(error, at_most=1)}; 'gca review --apply' writes one"
        ) from None


def kept_corrections(adata: AnnData) -> Corrections:
    """The corrections that an annotated AnnData brings; none where it brings none.

    Raises:
        DataValidationError: what is there is no record of corrections.
    """
    stored = adata.uns.get(STORED)
    text = stored.get("corrections") if isinstance(stored, dict) else None
    if text is None:
        return Corrections()
    try:
        return Corrections.model_validate_json(str(text))
    except ValueError as error:
        raise DataValidationError(
            f"uns[{STORED!r}]['corrections'] can't be read ({str(error).splitlines()[0]}); remove it to go on without"
        ) from None


def keep_corrections(adata: AnnData, corrections: Corrections) -> None:
    """Keep corrections in ``uns``, so that they outlive another annotation; nothing is written where there are none."""
    if corrections.corrections:
        stored = adata.uns.get(STORED)
        known = dict(stored) if isinstance(stored, dict) else {}
        adata.uns[STORED] = known | {"corrections": corrections.model_dump_json()}


def apply_corrections(annotations: Sequence[Annotation], corrections: Corrections) -> tuple[list[Annotation], int]:
    """The annotations with corrections put on the clusters they were made for, and how many were.

    Changes nothing it is given. Corrections that fit no cluster are named in the log as a warning;
    :func:`place_corrections` returns them.
    """
    placed = place_corrections(annotations, corrections)
    for correction, reason in placed.unplaced[:5]:
        log.warning("the correction of cluster %r to %r is left out: %s", correction.cluster, correction.label, reason)
    if len(placed.unplaced) > 5:
        log.warning("%d more corrections are left out", len(placed.unplaced) - 5)
    return list(placed.annotations), placed.n_placed


def place_corrections(annotations: Sequence[Annotation], corrections: Corrections) -> Placement:
    """Put each correction on the cluster of its name, if that cluster's top genes are those it was made for.

    They are when at least half of the genes are shared and no other cluster shares more. So a correction outlives
    another ranking, marker database or model, and does not move to what a new clustering happens to call the same.
    Where several fit, the one that shares most is taken, then the latest.
    """
    chosen: dict[int, tuple[float, str, Correction]] = {}
    unplaced = []
    for correction in corrections.corrections:
        place = _namesake(correction, annotations)
        reason = _misfit(correction, place, annotations)
        if place is None or reason is not None:
            unplaced.append((correction, reason or ""))
            continue
        candidate = (_likeness(correction.genes, annotations[place].markers), correction.when, correction)
        rival = chosen.get(place)
        if rival is None or candidate[:2] > rival[:2]:
            chosen[place] = candidate
            candidate = rival or candidate
        if rival is not None:
            unplaced.append((candidate[2], "another correction fits the cluster better, or is later"))
    corrected = tuple(_overridden(a, chosen[i][2]) if i in chosen else a for i, a in enumerate(annotations))
    return Placement(corrected, len(chosen), tuple(unplaced))


def _namesake(correction: Correction, annotations: Sequence[Annotation]) -> int | None:
    """The cluster of the correction's name; of several, as lists of markers may have them, the most alike."""
    named = [i for i, a in enumerate(annotations) if a.cluster == correction.cluster]
    return max(named, key=lambda i: _likeness(correction.genes, annotations[i].markers), default=None)


def _misfit(correction: Correction, place: int | None, annotations: Sequence[Annotation]) -> str | None:
    """Why a correction doesn't belong on the cluster of its name; None if it does."""
    if place is None:
        return "there is no cluster of that name"
    likeness = _likeness(correction.genes, annotations[place].markers)
    if likeness < MIN_LIKENESS:
        return f"the cluster of that name shares only {100 * likeness:.0f} % of the top genes it was made for"
    nearer = next(
        (
            a.cluster
            for i, a in enumerate(annotations)
            if i != place and _likeness(correction.genes, a.markers) > likeness
        ),
        None,
    )
    return None if nearer is None else f"cluster {nearer!r} is more like the one it was made for"


def _likeness(genes: Sequence[str], markers: Sequence[str]) -> float:
    """Share of top genes in common, of the shorter list; two empty lists are alike."""
    a, b = set(genes), set(markers[:FINGERPRINT_GENES])
    if not a or not b:
        return float(a == b)
    return len(a & b) / min(len(a), len(b))


def _overridden(annotation: Annotation, correction: Correction) -> Annotation:
    """The annotation with the person's label; evidence, flags and confidence stay as they were found."""
    known = annotation.override
    override = Override(
        label=correction.label,
        ontology_id=correction.ontology_id,
        who=correction.who,
        when=correction.when,
        note=correction.note,
        replaced=annotation.primary_label if known is None else known.replaced,
    )
    evidence = annotation.rationale if known is None else annotation.rationale.removeprefix(_decision(known))
    return annotation.model_copy(
        update={
            "primary_label": correction.label,
            "ontology_id": None if correction.label == UNKNOWN else correction.ontology_id,
            "status": Status.SUPPORTED,
            "rationale": _decision(override) + evidence,
            "annotator": "review",
            "common_name": common_name(None if correction.label == UNKNOWN else correction.ontology_id),
            "override": override,
        }
    )


def _decision(override: Override) -> str:
    day = override.when[:10]
    if override.label == override.replaced:
        return f"{override.who} confirmed this label on {day}. The annotator found: "
    return f"{override.who} decided this on {day} in place of {override.replaced}. The annotator found: "
