"""The offline annotator on marker lists of published clusters, beside plain overlap and GPT-4's published answers.

Agreement is by the benchmark's published rule to the letter: a name that its table doesn't list counts as wrong. Each
answer is written in three ways: as the Cell Ontology has it; by the short name that goes with it, as biologists write
it (``Annotation.common_name``); and in the table's vocabulary, as users have their answers written in theirs
(``vocabulary``): by the name that the table has for the term, or for the nearest term above it, and by the short name
where it has neither. The last takes from the table which names there are, never which cluster has which. Labels that
are no Cell Ontology terms, as GPT-4's, which are names of the table already, stay as they are written each time.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from published_clusters import (
    FOLDER,
    LabelTable,
    PublishedCluster,
    annotate_published,
    area_under_curve,
    as_markers,
    check_rule,
    mean_agreement,
    read_clusters,
    shuffle_genes,
    term_of,
)
from scipy.stats import hypergeom

from gca_core.annotation.labels.names import common_name
from gca_core.annotation.labels.vocabulary import Vocabulary, in_vocabulary
from gca_core.annotation.markers.database import MarkerDatabase, symbol_aliases
from gca_core.annotation.markers.load import load_marker_database
from gca_core.annotation.models import UNKNOWN, Annotation, Confidence
from gca_core.annotation.report.palette import shown_label
from gca_core.knowledge.bundled.ontology import load_ontology

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GCA_BENCH_DATA", ROOT.parent / "shared" / "data"))
MIN_AGREEMENT, MIN_RIGHT, MIN_COVERED, MIN_AREA, MIN_SHUFFLED, MAX_UNKNOWN = 0.54, 0.92, 0.45, 0.82, 0.80, 0.10
PANGLAODB = DATA / "knowledge_reference" / "PanglaoDB_markers_27_Mar_2020.tsv"

OURS, GUESS, PLAIN = (
    "this annotator, bundled markers",
    "  with the guess behind Unknown",
    "plain overlap, bundled markers",
)

Array = npt.NDArray[np.float64]


def overlap_markers(database: MarkerDatabase, markers: Mapping[str, tuple[str, ...]]) -> dict[str, str | None]:
    """The type with the largest sum of log((1 + N) / df) over the genes that it lists; None where none is listed."""
    n = len(database.types)
    df = Counter(gene for t in database.types for gene in t.positive)
    found = {}
    for cluster, genes in markers.items():
        scores = [sum(math.log((1 + n) / df[g]) for g in {*genes} & t.positive.keys()) for t in database.types]
        found[cluster] = database.types[int(np.argmax(scores))].ontology_id if max(scores) > 0 else None
    return found


def tested_markers(database: MarkerDatabase, markers: Mapping[str, tuple[str, ...]], method: str) -> dict[str, str]:
    """The type whose markers a list holds most of beyond chance: hypergeometric test (ORA), or t of a slope (ULM)."""
    known = sorted(database.genes)
    member = np.array([[gene in t.positive for gene in known] for t in database.types], dtype=float)
    found = {}
    for cluster, genes in markers.items():
        drawn = np.isin(known, genes).astype(float)
        hits, n, k, size = member @ drawn, len(known), drawn.sum(), member.sum(axis=1)
        if method == "ORA":
            score = -hypergeom.logsf(hits - 1, n, size, max(k, 1))
        else:
            r = (hits / n - size * k / n**2) / np.sqrt(size / n * (1 - size / n) * max(k / n * (1 - k / n), 1e-12))
            score = r * np.sqrt((n - 2) / np.maximum(1 - r**2, 1e-12))
        found[cluster] = database.types[int(np.argmax(score))].ontology_id
    return found


def best_guess(annotation: Annotation) -> str:
    """The label, or the one behind ``Unknown or Novel``."""
    return annotation.proposed_label or annotation.primary_label


def short_name(label: str) -> str:
    """The label as biologists write it; labels that are none of the Cell Ontology stay as they are."""
    return common_name(term_of(label, load_ontology())) or label


def in_words_of(vocabulary: Vocabulary, label: str) -> str:
    """The label by the vocabulary's name for its term, or else by its short name."""
    return vocabulary.name_of(term_of(label, load_ontology())) or short_name(label)


def bench_published() -> None:
    """The development clusters of the GPTCelltype benchmark, offline; one half is reported on."""
    folder = DATA / FOLDER
    if not folder.is_dir():
        print(f"skipped: there is no {folder}; set GCA_BENCH_DATA to the folder that holds {FOLDER}/")
        return
    clusters = read_clusters(folder)
    table = LabelTable(folder, load_ontology(), by="name")
    check_rule(table, clusters)
    vocabulary = table.vocabulary()
    half = [cluster for cluster in clusters if cluster.reporting]
    print(
        f"published clusters: {len(clusters)}; the thresholds were chosen on them, {len(half)} are the reporting half"
    )
    print_pairs(load_marker_database())
    ours = annotate_published(clusters, load_marker_database())
    arms = _arms(clusters, ours)
    vocabulary = table.vocabulary()
    for look_up in ("id", "name"):
        rule = LabelTable(folder, load_ontology(), by=look_up)
        print(f"formal labels, by {look_up}: mean; right, related, wrong, unknown; this annotator's guess is ahead by")
        best = _agreements(rule, clusters, arms[GUESS])
        for name, answers in arms.items():
            print(_row(name, _agreements(rule, clusters, answers), answers, best))
        for name, words in (("short names", short_name), ("the table's vocabulary", partial(in_words_of, vocabulary))):
            for arm in (OURS, GUESS, PLAIN) if look_up == "name" else ():
                written = [words(answer) for answer in arms[arm]]
                print(f"  {arm + ', in ' + name:<62}{_agreements(rule, clusters, written).mean():.3f}")
    print_calibration(table, half, [a for a, c in zip(ours, clusters, strict=True) if c.reporting])
    print_bounds(table, clusters, ours)


def print_pairs(database: MarkerDatabase) -> None:
    """The pairs of types, neither above the other, of which neither has a defining gene that the other doesn't list."""
    ontology, types = load_ontology(), database.types
    own = [frozenset(g for g, s in t.positive.items() if s >= max(t.positive.values())) for t in types]
    pairs = [
        f"{a.label} / {b.label}"
        for i, a in enumerate(types)
        for j, b in enumerate(types[:i])
        if own[i] <= b.positive.keys() and own[j] <= a.positive.keys()
        if not ontology.is_a(a.ontology_id, b.ontology_id) and not ontology.is_a(b.ontology_id, a.ontology_id)
    ]
    print(f"{len(pairs)} pairs of types that no defining gene tells apart: {'; '.join(pairs)}")


def _agreements(table: LabelTable, clusters: Sequence[PublishedCluster], answers: Sequence[str]) -> Array:
    return np.array([table.agreement(a, c.manual) for a, c in zip(answers, clusters, strict=True)])


def _row(name: str, agreement: Array, answers: Sequence[str], ours: Array) -> str:
    unknown = np.array([answer == UNKNOWN for answer in answers])
    shares = [(agreement == 1).mean(), (agreement == 0.5).mean(), ((agreement == 0) & ~unknown).mean(), unknown.mean()]
    ahead = "" if name == GUESS else paired(ours - agreement)
    return f"  {name:<42}{agreement.mean():.3f}  " + "".join(f"{share:7.3f}" for share in shares) + f"   {ahead}"


def paired(differences: Array, n: int = 4000) -> str:
    """The mean and its 95 % interval over redrawn clusters."""
    drawn = np.random.default_rng(0).integers(0, len(differences), (n, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def _arms(clusters: Sequence[PublishedCluster], ours: Sequence[Annotation]) -> dict[str, list[str]]:
    """The answers of each method, one per cluster."""
    label = load_ontology().label
    names = {str(i): tuple(r.gene for r in m.genes) for i, m in enumerate(as_markers(clusters, symbol_aliases()))}
    arms = {OURS: [a.primary_label for a in ours], GUESS: [best_guess(a) for a in ours]}
    tables = {"bundled markers": load_marker_database()}
    if PANGLAODB.is_file():
        tables["PanglaoDB"] = load_marker_database(PANGLAODB)
        arms["this annotator, PanglaoDB"] = [a.primary_label for a in annotate_published(clusters, tables["PanglaoDB"])]
    for name, markers in tables.items():
        plain = overlap_markers(markers, names).values()
        arms[f"plain overlap, {name}"] = [UNKNOWN if term is None else label(term) for term in plain]
        for method in ("ORA", "ULM"):
            arms[f"{method}, {name}"] = [label(term) for term in tested_markers(markers, names, method).values()]
    return arms | {"GPT-4, published": [cluster.gpt4 for cluster in clusters]}


def confidence_and_truth(
    table: LabelTable, half: Sequence[PublishedCluster], found: Sequence[Annotation]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The confidence of each answer as it is given to users, and whether the best guess is at least partly right.

    The guesses are written in the table's vocabulary.
    """
    score = np.array([a.confidence_score or 0.0 for a in found])
    vocabulary = table.vocabulary()
    return score, partly_right(table, half, [in_words_of(vocabulary, best_guess(a)) for a in found])


def partly_right(table: LabelTable, half: Sequence[PublishedCluster], answers: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Whether each answer agrees at least by half."""
    return np.array([table.agreement(x, c.manual) >= 0.5 for x, c in zip(answers, half, strict=True)])


def print_calibration(table: LabelTable, half: Sequence[PublishedCluster], found: Sequence[Annotation]) -> None:
    """Confidence against agreement on the reporting half.

    Agreement of the best guess, which an abstention has, too; and of the answer, where an abstention counts as
    wrong: in the table's vocabulary, and by its short name alone, where a name that the table lacks counts as wrong.
    """
    score, guessed = confidence_and_truth(table, half, found)
    words = [shown_label(a) for a in in_vocabulary(found, table.vocabulary())]
    names = [short_name(a.primary_label) for a in found]
    by_name = partly_right(table, half, names)
    listed = np.array([bool(table.looked_up(name)[1]) for name in names])
    everything = np.ones(len(half), dtype=bool)
    sure = np.array([a.confidence is Confidence.HIGH for a in found])
    print(f"confidence on the reporting half; High covers {sure.mean():.3f}    at least partial: all    High    AUROC")
    for name, right, among in (
        ("best guess, in the table's vocabulary", guessed, everything),
        ("answer, in the table's vocabulary", partly_right(table, half, words), everything),
        ("answer, by short name", by_name, everything),
        (f"  where the table lists that name, {listed.mean():.3f} of the answers", by_name, listed),
    ):
        low, high = bootstrap_area(score[among], right[among])
        area = area_under_curve(score[among].tolist(), right[among].tolist())
        shares = f"{right[among].mean():.3f}  {right[among & sure].mean():.3f}"
        print(f"  {name:<72}{shares}  {area:.3f} [{low:.3f}, {high:.3f}]")
    print(f"  the table lists {listed[sure].mean():.3f} of the short names at High, so no more can be right by them")
    shared = shared_errors(table, half, found)
    area = area_under_curve(score[~shared].tolist(), guessed[~shared].tolist())
    print(f"  {shared.sum()} of {(~guessed).sum()} wrong guesses are GPT-4's, too; AUROC without them {area:.3f}")


def print_bounds(table: LabelTable, clusters: Sequence[PublishedCluster], ours: Sequence[Annotation]) -> None:
    """What was aimed at and whether it holds: agreement over all clusters, all else over the reporting half."""
    half = [cluster for cluster in clusters if cluster.reporting]
    found = [a for a, c in zip(ours, clusters, strict=True) if c.reporting]
    score = [a.confidence_score or 0.0 for a in found]
    sure = np.array([a.confidence is Confidence.HIGH for a in found])
    vocabulary = table.vocabulary()
    rows: dict[str, tuple[float, list[float]]] = {
        "mean agreement": (MIN_AGREEMENT, []),
        "at least partly right at High": (MIN_RIGHT, []),
        "AUROC of the confidence": (MIN_AREA, []),
    }
    for words in (lambda label: in_words_of(vocabulary, label), short_name):
        right = partly_right(table, half, [words(a.primary_label) for a in found])
        figures = (
            mean_agreement(table, clusters, [words(a.primary_label) for a in ours]),
            float(right[sure].mean()),
            area_under_curve(score, right.tolist()),
        )
        for (_, values), figure in zip(rows.values(), figures, strict=True):
            values.append(figure)
    print(f"bounds{'':<36}in the table's vocabulary  by short names")
    for name, (bound, values) in rows.items():
        told = "".join(f"{value:14.3f} {'holds' if value >= bound else 'MISSED':<12}" for value in values)
        print(f"  {name:<32}>= {bound:.2f}{told.rstrip()}")
    unknown, dealt = (
        np.mean([a.ontology_id is None for a in annotations])
        for annotations in (found, annotate_published(shuffle_genes(half, 0), load_marker_database()))
    )
    for name, value, bound, holds in (
        ("High covers", sure.mean(), f">= {MIN_COVERED:.2f}", sure.mean() >= MIN_COVERED),
        ("unknown", unknown, f"<= {MAX_UNKNOWN:.2f}", unknown <= MAX_UNKNOWN),
        ("unknown, shuffled genes", dealt, f">= {MIN_SHUFFLED:.2f}", dealt >= MIN_SHUFFLED),
    ):
        print(f"  {name:<32}{bound}{value:14.3f} {'holds' if holds else 'MISSED'}")


def shared_errors(
    table: LabelTable, half: Sequence[PublishedCluster], found: Sequence[Annotation]
) -> npt.NDArray[np.bool_]:
    """Whether neither the best guess nor GPT-4's answer agrees with the authors, but the two agree with each other.

    There the label is in doubt, or its row in the table, rather than the confidence.
    """
    vocabulary = table.vocabulary()
    guesses = [in_words_of(vocabulary, best_guess(a)) for a in found]
    return np.array(
        [
            max(table.agreement(g, c.manual), c.gpt4_agreement) == 0 and table.agreement(g, c.gpt4) >= 0.5
            for g, c in zip(guesses, half, strict=True)
        ]
    )


def bootstrap_area(score: Array, right: npt.NDArray[np.bool_], n: int = 500) -> tuple[float, float]:
    """95 % interval of the AUROC over redrawn clusters."""
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(n):
        drawn = rng.integers(0, len(score), len(score))
        if right[drawn].any() and not right[drawn].all():
            areas.append(area_under_curve(score[drawn].tolist(), right[drawn].tolist()))
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)
