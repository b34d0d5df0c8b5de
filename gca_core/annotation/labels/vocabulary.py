"""Labels in a vocabulary of the user's own: the names that it has for Cell Ontology terms.

An answer goes by the name of its term, or of the nearest term above it that the vocabulary lists.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from types import MappingProxyType

from gca_core.annotation.markers.delimited import decode_table, table_records
from gca_core.annotation.markers.remote import read_asset
from gca_core.annotation.models import UNKNOWN, Annotation, VocabularyInfo
from gca_core.errors import DataValidationError
from gca_core.io import content_hash
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

log = logging.getLogger(__name__)

BUNDLED = ("broad",)
LABEL, IDENTIFIER = "label", "ontology_id"
MAX_NAMED = 5

Pair = tuple[str, str]


@dataclass(frozen=True)
class Vocabulary:
    """Names of cell types by Cell Ontology id.

    Attributes:
        name: where they come from, for reports.
        content_hash: SHA-256 of the names with their terms, whatever else the file holds.
    """

    name: str
    content_hash: str
    names: Mapping[str, str] = field(hash=False)
    ontology: CellOntology = field(repr=False, compare=False)

    @classmethod
    def of(cls, pairs: Iterable[Pair], ontology: CellOntology, *, name: str) -> Vocabulary:
        """The vocabulary of pairs of a label and a Cell Ontology id; a label may stand for several terms.

        Where several labels have one term, the ontology's own label is taken, whatever its case, or else the first.

        Raises:
            DataValidationError: no pairs, or ids that are no terms in use; names up to five of them.
        """
        given = [(label.strip(), identifier.strip().upper().replace("_", ":")) for label, identifier in pairs]
        _refuse(_faults(given, ontology), name)
        names: dict[str, str] = {}
        for label, term in given:
            if label.casefold() == ontology.label(term).casefold() or term not in names:
                names[term] = label
        if not names:
            raise DataValidationError(f"the vocabulary {name!r} has no rows; expected a label in each, with its term")
        return cls(name, content_hash(names), MappingProxyType(names), ontology)

    @classmethod
    def from_info(cls, info: VocabularyInfo, ontology: CellOntology) -> Vocabulary:
        """The vocabulary that a report was written with."""
        return cls(info.name, info.sha256, MappingProxyType(info.names), ontology)

    @property
    def info(self) -> VocabularyInfo:
        """As reports name it."""
        return VocabularyInfo(
            name=self.name,
            sha256=self.content_hash,
            n_names=len(set(self.names.values())),
            names=dict(sorted(self.names.items())),
        )

    def name_of(self, term: str | None) -> str | None:
        """The name of a term, or of the nearest term above it that has one; None where there is none.

        A term above another that has a name is not near. Of those that are equally near, the most specific one is
        taken, which has most ancestors, then the smaller id.
        """
        if term is None or term not in self.ontology:
            return None
        if term in self.names:
            return self.names[term]
        above, ancestors = self.ontology.ancestors(term), self.ontology.ancestors
        listed = [a for a in above if a in self.names and a in self.ontology]
        lowest = set(listed).difference(*(ancestors(a) for a in listed))
        nearest = min(lowest, key=lambda a: (above[a], -len(ancestors(a)), a), default=None)
        return None if nearest is None else self.names[nearest]


VocabularyInput = str | os.PathLike[str] | Vocabulary | None


def read_vocabulary(source: str | os.PathLike[str], ontology: CellOntology | None = None) -> Vocabulary:
    """The vocabulary of a file, or a bundled one.

    Args:
        source: ``broad``, or a CSV or TSV file by path or URI, with the columns ``label`` and ``ontology_id``. Labels
            without an id, in a row or for want of the column, are looked up in the Cell Ontology.
        ontology: None means the bundled one.

    Raises:
        DataValidationError: no such file, none that can be read, or rows that :meth:`Vocabulary.of` refuses.
    """
    name, known = os.fspath(source), ontology or load_ontology()
    if name in BUNDLED:
        data = (resources.files("gca_core.annotation") / "data" / f"{name}.tsv").read_bytes()
    else:
        try:
            data = read_asset(name, what="vocabulary")
        except DataValidationError as error:
            raise DataValidationError(f"{error}. bundled are: {', '.join(BUNDLED)}") from None
    try:
        rows = list(_rows(decode_table(data, name=name)))
    except DataValidationError as error:
        raise DataValidationError(f"the vocabulary {name!r} can't be read: {error}") from None
    return Vocabulary.of(_identified(rows, known, name), known, name=name)


def as_vocabulary(given: VocabularyInput) -> Vocabulary | None:
    """A vocabulary as it is, or that of a file or a name; None for none."""
    return given if given is None or isinstance(given, Vocabulary) else read_vocabulary(given)


def in_vocabulary(annotations: Iterable[Annotation], vocabulary: Vocabulary) -> list[Annotation]:
    """The annotations with their labels also in the vocabulary's names; ``Unknown or Novel`` stays what it is."""
    return [
        a.model_copy(
            update={"vocabulary_label": UNKNOWN if a.primary_label == UNKNOWN else vocabulary.name_of(a.ontology_id)}
        )
        for a in annotations
    ]


def tell_unnamed(annotations: Sequence[Annotation], vocabulary: Vocabulary) -> None:
    """Log which labels the vocabulary has no name for, if any, once for all of them."""
    unnamed = list(dict.fromkeys(a.primary_label for a in annotations if a.vocabulary_label is None))
    if unnamed:
        log.warning(
            "the vocabulary %r has no name at or above %s; the vocabulary_label of these clusters is missing. add a "
            "row for each, or for a term above it",
            vocabulary.name,
            ", ".join(unnamed),
        )


def _rows(text: str) -> Iterator[Pair]:
    """Label and id of each row, the id empty where there is none."""
    lines = table_records(text)
    header = [cell.strip().casefold() for cell in lines[0][1]] if lines else []
    if header.count(LABEL) != 1 or header.count(IDENTIFIER) > 1:
        found = ", ".join(map(repr, lines[0][1])) if lines else "none"
        raise DataValidationError(f"expected the columns {LABEL} and {IDENTIFIER}, or {LABEL} alone; found {found}")
    for number, cells in lines[1:]:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise DataValidationError(
                f"line {number} has {len(cells)} cells, but the header has {len(header)} columns; put quotes around "
                "labels that hold the separator"
            )
        row = dict(zip(header, map(str.strip, cells), strict=True))
        if not row[LABEL]:
            raise DataValidationError(f"line {number} has no label; name the cell type, or remove the line")
        yield row[LABEL], row.get(IDENTIFIER, "")


def _identified(rows: Iterable[Pair], ontology: CellOntology, name: str) -> list[Pair]:
    """The rows, each with an id; labels that come without one are looked up."""
    pairs = [(label, identifier or ontology.resolve(label) or "") for label, identifier in rows]
    missing = [label for label, identifier in pairs if not identifier]
    faults = []
    for label in missing[:MAX_NAMED]:
        close = ", ".join(ontology.suggest(label))
        faults.append(f"{label!r} is no name of the Cell Ontology" + (f" (close: {close})" if close else ""))
    _refuse([*faults, *missing[MAX_NAMED:]], name)
    return pairs


def _faults(pairs: Sequence[Pair], ontology: CellOntology) -> list[str]:
    """What is wrong with pairs, in words."""
    faults = []
    for label, term in pairs:
        if term not in ontology:
            instead = ontology.resolve(term)
            why = "no term in use" if instead is None else f"an obsolete term; use {instead}"
            faults.append(f"{label!r} has the id {term!r}, {why}")
        elif label == UNKNOWN:
            faults.append(f"{label!r} is what clusters without a label are called; give {term} another name")
    return faults


def _refuse(faults: Sequence[str], name: str) -> None:
    if faults:
        more = f"; and {len(faults) - MAX_NAMED} more" if len(faults) > MAX_NAMED else ""
        raise DataValidationError(
            f"the vocabulary {name!r} has faulty rows: {'; '.join(faults[:MAX_NAMED])}{more}. expected a label and an "
            "id of the Cell Ontology such as CL:0000084 in each; correct or remove these rows"
        )
