"""The development part of the GPTCelltype benchmark and its scoring rule (Hou and Ji, Nature Methods 2024).

413 published clusters with their top genes, the authors' labels, and GPT-4's answers. The files are read where
GCA_BENCH_DATA points; they are measured on only, and nothing of them is in this project.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from gca_core.annotation.labels.offline import annotate_clusters
from gca_core.annotation.labels.vocabulary import Vocabulary
from gca_core.annotation.markers.database import MarkerDatabase, symbol_aliases
from gca_core.annotation.markers.tissues import tissue_name
from gca_core.annotation.models import Annotation, ClusterMarkers, RankedGene
from gca_core.annotation.scoring.evidence import weigh_lists
from gca_core.annotation.scoring.marker_model import build_model
from gca_core.knowledge.bundled.ontology import CellOntology, load_ontology

FOLDER = "annotation_benchmark"
CLUSTERS, LABELS, RELATION = "clusters_dev_413.csv", "label_to_cl.csv", "broadtype_relation.csv"
MALIGNANT = "malignant cell"
LookUp = Literal["name", "id", "term"]


@dataclass(frozen=True)
class PublishedCluster:
    """One cluster: its top genes, best first, the authors' label and GPT-4's."""

    dataset: str
    tissue: str
    genes: tuple[str, ...]
    manual: str
    gpt4: str
    gpt4_agreement: float

    @property
    def reporting(self) -> bool:
        """Whether the cluster is in the half that is reported on; the other half calibrates. Fixed by a hash."""
        text = "|".join((self.dataset, self.tissue, ",".join(self.genes)))
        return hashlib.sha256(text.encode()).digest()[0] % 2 == 0


class LabelTable:
    """Labels as people write them, with Cell Ontology names and broad types, and the rule of agreement.

    ``by`` says how an answer is looked up whose name isn't listed: ``name``, as the published rule has it, not at
    all; ``id``, in the first row that has its Cell Ontology id; ``term``, so or, failing that, in the row of the
    nearest ancestor listed, whose broad type it takes without the name: such an answer is right by half at most.
    """

    def __init__(self, folder: Path, ontology: CellOntology, *, by: LookUp = "term") -> None:
        self.by = by
        self.ontology = ontology
        self.rows: dict[str, tuple[str, str]] = {}
        self.by_id: dict[str, tuple[str, str]] = {}
        self.ids: dict[str, str] = {}
        for row in _read(folder / LABELS):
            self.rows.setdefault(row["originalname"], (row["Clname"], row["type"]))
            self.ids.setdefault(row["originalname"], row["CLID"])
            self.by_id.setdefault(row["CLID"], (row["Clname"], row["type"]))
        with (folder / RELATION).open(newline="", encoding="utf-8") as source:
            self.relation = [(row[0], row[1]) for row in csv.reader(source)]

    def looked_up(self, label: str) -> tuple[frozenset[str], frozenset[str]]:
        """Cell Ontology names and broad types of a label, both empty where it isn't found."""
        found = self.rows.get(label.lower().replace("cells", "cell", 1)) or self._by_ontology(label)
        return _fields(found[0]), _fields(found[1])

    def vocabulary(self) -> Vocabulary:
        """The table's labels that have one known term, by it: which names there are, of whatever cluster."""
        pairs = [(label, term) for label, term in self.ids.items() if term in self.ontology]
        return Vocabulary.of(pairs, self.ontology, name=LABELS)

    def _by_ontology(self, label: str) -> tuple[str, str]:
        identifier = term_of(label, self.ontology)
        if self.by == "name" or identifier is None:
            return "", ""
        if identifier in self.by_id:
            return self.by_id[identifier]
        if self.by == "id":
            return "", ""
        ancestors = self.ontology.ancestors(identifier)
        known = [a for a in ancestors if a in self.by_id]
        nearest = min(known, key=lambda a: (ancestors[a], a), default="")
        return "", self.by_id.get(nearest, ("", ""))[1]

    def agreement(self, answer: str, truth: str) -> float:
        """1 for the same type, 0.5 for the same or a related broad type, else 0."""
        (names_a, broad_a), (names_t, broad_t) = self.looked_up(answer), self.looked_up(truth)
        if names_a and names_a == names_t:
            return 1.0
        if _singular(answer) == _singular(truth) or broad_a == broad_t == {MALIGNANT}:
            return 1.0
        return 0.5 if self._expanded(broad_a) & self._expanded(broad_t) else 0.0

    def _expanded(self, broad: frozenset[str]) -> frozenset[str]:
        return broad | {partner for name in broad if (partner := self._partner(name)) is not None}

    def _partner(self, name: str) -> str | None:
        above = (first for first, second in self.relation if second == name)
        below = (second for first, second in self.relation if first == name)
        return next(above, None) or next(below, None)


def term_of(label: str, ontology: CellOntology) -> str | None:
    """The term of a label that the Cell Ontology writes so; None for any other."""
    term = ontology.resolve(label)
    return term if term is not None and ontology.label(term) == label else None


def read_clusters(folder: Path) -> list[PublishedCluster]:
    """The 413 development clusters."""
    return [
        PublishedCluster(
            dataset=row["dataset"],
            tissue=row["tissue"],
            genes=tuple(gene.strip() for gene in row["marker"].replace(";", ",").split(",") if gene.strip()),
            manual=row["manual_annotation"],
            gpt4=row["gpt4aug3_annotation"],
            gpt4_agreement=float(row["gpt4aug3_agreement"]),
        )
        for row in _read(folder / CLUSTERS)
    ]


def as_markers(clusters: Sequence[PublishedCluster], aliases: dict[str, str]) -> list[ClusterMarkers]:
    """The clusters as the annotator takes them, under opaque names and current symbols."""
    return [
        ClusterMarkers(
            cluster=f"c{i}",
            genes=tuple(RankedGene(gene=aliases.get(gene.upper(), gene.upper())) for gene in cluster.genes),
        )
        for i, cluster in enumerate(clusters)
    ]


def annotate_published(clusters: Sequence[PublishedCluster], database: MarkerDatabase) -> list[Annotation]:
    """Each cluster's annotation from its list of genes and its tissue; the database may not know the tissue."""
    known = {tissue for cell_type in database.types for tissue in cell_type.tissues}
    of_tissue: dict[str | None, list[ClusterMarkers]] = {}
    for cluster, markers in zip(clusters, as_markers(clusters, symbol_aliases()), strict=True):
        of_tissue.setdefault(cluster.tissue if tissue_name(cluster.tissue) in known else None, []).append(markers)
    found = {}
    for tissue, named in of_tissue.items():
        model = build_model(database, None, load_ontology(), tissue=tissue)
        found |= {a.cluster: a for a in annotate_clusters(named, weigh_lists(named, model), model, load_ontology())}
    return [found[f"c{i}"] for i in range(len(clusters))]


def shuffle_genes(clusters: Sequence[PublishedCluster], seed: int) -> list[PublishedCluster]:
    """The same clusters with all their genes dealt out anew."""
    pool = [gene for cluster in clusters for gene in cluster.genes]
    np.random.default_rng(seed).shuffle(pool)
    dealt = iter(pool)
    return [replace(cluster, genes=tuple(next(dealt) for _ in cluster.genes)) for cluster in clusters]


def mean_agreement(table: LabelTable, clusters: Sequence[PublishedCluster], answers: Iterable[str]) -> float:
    """Mean agreement of the answers with the authors' labels."""
    return float(np.mean([table.agreement(a, c.manual) for a, c in zip(answers, clusters, strict=True)]))


def check_rule(table: LabelTable, clusters: Sequence[PublishedCluster]) -> None:
    """Stop unless the rule gives the published score of GPT-4's answer on every cluster."""
    wrong = [c.gpt4 for c in clusters if table.agreement(c.gpt4, c.manual) != c.gpt4_agreement]
    if wrong:
        raise SystemExit(f"the scoring rule differs from the published scores on {len(wrong)} of {len(clusters)} rows")


def area_under_curve(score: Sequence[float], positive: Sequence[bool]) -> float:
    """AUROC, ties counted half; O(n log n)."""
    values, truth = np.asarray(score, dtype=float), np.asarray(positive, dtype=bool)
    order = np.argsort(values, kind="stable")
    _, inverse, counts = np.unique(values[order], return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = np.empty(len(values))
    ranks[order] = (last - (counts - 1) / 2)[inverse]
    n_pos = int(truth.sum())
    return float((ranks[truth].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * (len(values) - n_pos)))


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))


def _fields(text: str) -> frozenset[str]:
    if text.strip() == "NA":
        return frozenset()
    return frozenset(field for part in text.split(",") if (field := part.strip()))


def _singular(label: str) -> str:
    return label.lower().removesuffix("s")
