"""What the words of a file mean: cell types, perturbations and tissues, by the bundled knowledge."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gca_core.atlas.models import NameKind

Resolve = Callable[[str], str | None]
CALIBRATION_NAMES = 200


def _nothing(_kind: NameKind, _identifier: str) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class NameResolver:
    """Functions from a file's words to the atlas's.

    Attributes:
        resolve_cell_type: from a label to a Cell Ontology id, or None.
        label_cell_type: from an id to the label to store; without, the atlas's own, else the file's is stored.
        resolve_perturbation: from a value to the catalogue's name, or None.
        resolve_tissue: from a label to an UBERON id, or None.
        label_tissue: the same for tissues.
        synonyms: from a kind and an id or a name to other names of the same.
        names: unrelated names, on which the similarity that chance gives is measured.
    """

    resolve_cell_type: Resolve
    label_cell_type: Callable[[str], str] | None = None
    resolve_perturbation: Resolve | None = None
    resolve_tissue: Resolve | None = None
    label_tissue: Callable[[str], str] | None = None
    synonyms: Callable[[NameKind, str], Iterable[str]] = _nothing
    names: tuple[str, ...] = ()


def load_name_resolver() -> NameResolver:
    """The bundled Cell Ontology, catalogue and tissue names."""
    from gca_core.knowledge.bundled import genetic
    from gca_core.knowledge.bundled.catalogue import load_catalogue
    from gca_core.knowledge.bundled.ontology import load_ontology
    from gca_core.knowledge.bundled.tissues import resolve_tissue, tissue_label, tissue_synonyms

    ontology, catalogue = load_ontology(), load_catalogue()

    def resolve_perturbation(text: str) -> str | None:
        entry = genetic.resolve_perturbation(text, catalogue)
        return None if entry is None else entry.name

    def label_cell_type(identifier: str) -> str:
        return ontology.label(identifier) if identifier in ontology else identifier

    def synonyms(kind: NameKind, identifier: str) -> Iterable[str]:
        if kind == "perturbation":
            entry = catalogue.resolve(identifier)
            return () if entry is None else (entry.name, *entry.synonyms)
        if kind == "cell_type":
            return ontology.synonyms(identifier) if identifier in ontology else ()
        return tissue_synonyms(identifier)

    return NameResolver(
        resolve_cell_type=ontology.resolve,
        label_cell_type=label_cell_type,
        resolve_perturbation=resolve_perturbation,
        resolve_tissue=resolve_tissue,
        label_tissue=tissue_label,
        synonyms=synonyms,
        names=_one_of_each_family((entry.family, entry.name) for entry in catalogue.entries.values()),
    )


def _one_of_each_family(entries: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The first name of every family: names that have nothing to do with each other."""
    by_family = itertools.groupby(sorted(entries), key=lambda entry: entry[0])
    return tuple(next(members)[1] for _family, members in by_family)[:CALIBRATION_NAMES]
