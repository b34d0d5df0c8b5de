"""Labels that somebody else gave, judged by the marker evidence; none is changed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gca_core.annotation.labels.offline import judge_label
from gca_core.annotation.models import (
    UNKNOWN,
    Alternative,
    Annotation,
    ClusterMarkers,
    Confidence,
    Evidence,
    FlagReason,
    Status,
)
from gca_core.annotation.scoring.marker_model import MarkerModel, Weighed
from gca_core.annotation.scoring.parameters import N_ALTERNATIVES
from gca_core.knowledge.bundled.ontology import CellOntology

_PARENTHESES = re.compile(r"\s*\([^)]*\)")
_NO_TYPE = re.compile(
    r"(unknown|unclear|unassigned|undetermined|ambiguous|novel|none|nan|n/?a|other|doublets?)\b.*", re.IGNORECASE
)


@dataclass(frozen=True)
class GivenLabel:
    """What a group's cells are labelled as.

    Attributes:
        label: the commonest one; None where no cell has any.
        identifier: the commonest id beside that label; None where there is none, or no column of ids.
        n_labelled, n_same: cells with any label, and with this one.
        others: further labels in the group, commonest first.
    """

    label: str | None
    identifier: str | None = None
    n_labelled: int = 0
    n_same: int = 0
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Meaning:
    """The term that a given label stands for, with what is wrong about its name or id."""

    term: str | None
    flags: tuple[FlagReason, ...] = ()
    caveats: tuple[str, ...] = ()


def given_labels(groups: pd.Series, labels: pd.Series, identifiers: pd.Series | None) -> list[GivenLabel]:
    """The commonest label of each group, ties by name.

    Args:
        groups: a categorical over the cells without unused categories.
        labels: of the cells; blank ones count as missing.
        identifiers: Cell Ontology ids of the cells' labels, if there are any.
    """
    frame = pd.DataFrame({"group": groups.cat.codes.to_numpy(), "label": _texts(labels).to_numpy()})
    frame["id"] = None if identifiers is None else _texts(identifiers).to_numpy()
    found = []
    for code in range(len(groups.cat.categories)):
        cells = frame[(frame["group"] == code) & frame["label"].notna()]
        names = _by_count(cells["label"])
        if not names:
            found.append(GivenLabel(None))
            continue
        same = cells[cells["label"] == names[0]]
        ids = _by_count(same["id"].dropna())
        found.append(GivenLabel(names[0], ids[0] if ids else None, len(cells), len(same), tuple(names[1:])))
    return found


@dataclass(frozen=True)
class LabelValidator:
    """Judges the labels of n groups.

    Attributes:
        model: the marker database over the measured genes.
        weighed: the evidence of the groups.
        offline: what the evidence alone says about each group.
        ids_given: whether there is a column of ids, so that a missing id is worth a flag.
        elsewhere: the terms that the marker database knows for the other species.
        borrowed: whether the markers are those of another species.
    """

    model: MarkerModel
    ontology: CellOntology
    weighed: Weighed
    offline: Sequence[Annotation]
    min_overlap: int
    ids_given: bool
    elsewhere: frozenset[str] = frozenset()
    borrowed: bool = False

    def judge(self, i: int, cluster: ClusterMarkers, given: GivenLabel) -> Annotation:
        """The given label of group ``i`` with its evidence, flags, and what the evidence would rather have."""
        meaning = self._read(given)
        judged = None
        if meaning.term is not None:
            judged = judge_label(
                cluster, meaning.term, i, self.weighed, self.model, self.ontology, min_overlap=self.min_overlap
            )
        if judged is None or meaning.term is None:
            return self._unjudged(i, given, meaning)
        found, caveats = judged.flag_reasons, judged.caveats
        if self.borrowed:
            found = (*found, FlagReason.SPECIES_MISMATCH)
            caveats = (*caveats, "the marker database has no markers of this species; judged by those of human")
        flags = tuple(dict.fromkeys((*meaning.flags, *found)))
        better = self._better(i, meaning.term)
        return judged.model_copy(
            update={
                "primary_label": given.label,
                "ontology_id": meaning.term,
                "proposed_label": better.label if better is not None and flags else None,
                "confidence": Confidence.MEDIUM
                if flags and judged.confidence is Confidence.HIGH
                else judged.confidence,
                "status": Status.FLAGGED if flags else Status.SUPPORTED,
                "flag_reasons": flags,
                "caveats": (*meaning.caveats, *_mixture(given), *caveats),
                "alternatives": _first(better, judged.alternatives),
            }
        )

    def _read(self, given: GivenLabel) -> _Meaning:
        """The term behind a label and its id: the label counts, and the id where the label is no known name."""
        if given.label is None:
            return _Meaning(None, (FlagReason.VALIDATION_MISSING,), ("the cells of this group carry no label",))
        if _NO_TYPE.fullmatch(given.label):
            return _Meaning(None, (FlagReason.VALIDATION_MISSING,), (f"{given.label} names no cell type to judge",))
        by_label = self.ontology.resolve(given.label) or self.ontology.resolve(_PARENTHESES.sub("", given.label))
        by_id = None if given.identifier is None else self.ontology.resolve(given.identifier)
        flags: list[FlagReason] = []
        caveats: list[str] = []
        if self.ids_given and by_id is None:
            flags.append(FlagReason.MISSING_ONTOLOGY_ID)
            named = "there is no id" if given.identifier is None else f"{given.identifier} is no term in use"
            caveats.append(f"{named} of the Cell Ontology beside the label")
        if by_label is None:
            close = ", ".join(self.ontology.suggest(given.label))
            caveats.append(f"{given.label} is no name of the Cell Ontology" + (f"; close: {close}" if close else ""))
            if by_id is None:
                return _Meaning(None, (FlagReason.MISSING_ONTOLOGY_ID, FlagReason.VALIDATION_MISSING), tuple(caveats))
            return _Meaning(by_id, tuple(flags), (*caveats, f"judged by its id, {self.ontology.label(by_id)}"))
        if by_id is not None and by_id != by_label:
            if not (self.ontology.is_a(by_id, by_label) or self.ontology.is_a(by_label, by_id)):
                flags.append(FlagReason.ONTOLOGY_MISMATCH)
            caveats.append(f"the id {by_id} is that of {self.ontology.label(by_id)}; the label was judged")
        return _Meaning(by_label, tuple(flags), tuple(caveats))

    def _unjudged(self, i: int, given: GivenLabel, meaning: _Meaning) -> Annotation:
        """A label that no marker speaks for or against, with what the evidence says by itself."""
        flags, caveats = list(meaning.flags), list(meaning.caveats)
        if meaning.term is not None:
            flags.append(FlagReason.LABEL_NOT_IN_KB)
            caveats.append(f"the marker database has nothing on {self.ontology.label(meaning.term)}")
            line = {meaning.term, *self.ontology.ancestors(meaning.term), *self.ontology.descendants(meaning.term)}
            if line & self.elsewhere:
                flags.append(FlagReason.SPECIES_MISMATCH)
                caveats.append("it knows the type in the other species alone")
        offline, better = self.offline[i], self._better(i, meaning.term)
        return offline.model_copy(
            update={
                "primary_label": given.label or UNKNOWN,
                "ontology_id": meaning.term,
                "proposed_label": None if better is None else better.label,
                "confidence": Confidence.LOW,
                "status": Status.FLAGGED,
                "flag_reasons": tuple(dict.fromkeys(flags)),
                "rationale": f"not judged; by the markers alone the group is: {offline.rationale}",
                "caveats": (*caveats, *_mixture(given)),
                "alternatives": _first(better, offline.alternatives),
                "evidence": Evidence(),
            }
        )

    def _better(self, i: int, term: str | None) -> Alternative | None:
        """What the evidence alone says, where that stands and is another line than the given term."""
        offline = self.offline[i]
        if offline.ontology_id is None:
            return None
        if term is not None and (
            self.ontology.is_a(term, offline.ontology_id) or self.ontology.is_a(offline.ontology_id, term)
        ):
            return None
        return Alternative(
            label=offline.primary_label,
            ontology_id=offline.ontology_id,
            score=offline.evidence.score,
            reason=f"the label that the evidence supports ({offline.confidence.value} confidence)",
        )


def _first(better: Alternative | None, others: Sequence[Alternative]) -> tuple[Alternative, ...]:
    if better is None:
        return tuple(others)
    return (better, *(a for a in others if a.ontology_id != better.ontology_id))[:N_ALTERNATIVES]


def _mixture(given: GivenLabel) -> tuple[str, ...]:
    if not given.others:
        return ()
    share = 100 * given.n_same / given.n_labelled
    more = f" and {len(given.others) - 3} more" if len(given.others) > 3 else ""
    return (f"{share:.0f} % of the labelled cells carry this label; others: {', '.join(given.others[:3])}{more}",)


def _texts(values: pd.Series) -> pd.Series:
    """Values as stripped texts; missing and blank ones are None."""
    plain = values.astype(object)
    texts = {value: str(value).strip() or None for value in plain.dropna().unique()}
    return plain.map(texts)


def _by_count(values: pd.Series) -> list[str]:
    counts = values.value_counts()
    return sorted(counts.index, key=lambda name: (-counts[name], name))
