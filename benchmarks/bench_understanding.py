"""How well questions are read by the rules alone.

Run with ``python benchmarks/bench_understanding.py``; ``--details`` names what went wrong in the tuned part. The
questions of ``tests/data/questions.tsv`` were written for this purpose, the held-back part before any rule was changed
and never looked at since. A reading counts as silently wrong when it is wrong and says nothing of being uncertain.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gca_core.errors import QueryParsingError
from gca_core.haystack.context import HaystackContext, open_knowledge
from gca_core.haystack.question.rules import parse_question
from gca_core.knowledge.bundled.genetic import resolve_perturbation

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
OUTCOMES = ("right", "refused", "wrong, said uncertain", "silently wrong")


@dataclass(frozen=True)
class Reading:
    """A question of the table and how it was read."""

    split: str
    question: str
    outcome: str
    detail: str


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a table."""
    with (DATA / name).open(encoding="utf-8", newline="") as source:
        return list(csv.DictReader(source, delimiter="\t", quoting=csv.QUOTE_NONE))


def read(row: dict[str, str], context: HaystackContext) -> Reading:
    """Read one question and compare."""
    try:
        query = parse_question(row["question"], ontology=context.ontology, catalogue=context.catalogue)
    except QueryParsingError as error:
        return Reading(row["split"], row["question"], "refused", f"{error.reason}: {error}")
    expected = resolve_perturbation(row["perturbation"], context.catalogue)
    answer = (row["cell_type_id"], expected.name if expected else "")
    right = (query.cell_type_id, query.perturbation) == answer
    outcome = "right" if right else "wrong, said uncertain" if query.ambiguities else "silently wrong"
    detail = f"{query.cell_type} | {query.perturbation} | {'; '.join(query.ambiguities)}"
    return Reading(row["split"], row["question"], outcome, detail)


def read_all(context: HaystackContext) -> list[Reading]:
    """Every question of the table."""
    return [read(row, context) for row in rows("questions.tsv")]


def share(readings: list[Reading], outcome: str, split: str) -> float:
    """How many of a part's questions came out so."""
    part = [r for r in readings if r.split == split]
    return sum(r.outcome == outcome for r in part) / len(part)


def wrong_errors(context: HaystackContext) -> list[str]:
    """The error cases that are not refused as they should be."""
    faults = []
    for row in rows("question_errors.tsv"):
        try:
            query = parse_question(row["question"], ontology=context.ontology, catalogue=context.catalogue)
        except QueryParsingError as error:
            missing = row["suggestion"] and row["suggestion"] not in error.suggestions
            if error.reason != row["reason"] or missing:
                faults.append(f"{row['question']!r}: {error.reason} {error.suggestions}, expected {row['reason']}")
        else:
            faults.append(f"{row['question']!r}: read as {query.cell_type} | {query.perturbation}")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--details", action="store_true", help="name what went wrong in the tuned part")
    details = parser.parse_args().details
    context = open_knowledge()
    begun = time.perf_counter()
    readings = read_all(context)
    seconds = time.perf_counter() - begun
    print(f"{'part':<8}{'questions':>10}" + "".join(f"{name:>24}" for name in OUTCOMES))
    for split in ("tuned", "held"):
        counts = Counter(r.outcome for r in readings if r.split == split)
        total = sum(counts.values())
        cells = "".join(f"{counts[name]:>15} ({counts[name] / total:6.1%})" for name in OUTCOMES)
        print(f"{split:<8}{total:>10}{cells}")
    faults = wrong_errors(context)
    n_errors = len(rows("question_errors.tsv"))
    print(f"errors  {n_errors:>10} refused for the right reason, with the right suggestion: {n_errors - len(faults)}")
    print(f"{1000 * seconds / len(readings):.1f} ms per question")
    if details:
        for reading in readings:
            if reading.split == "tuned" and reading.outcome != "right":
                print(f"  {reading.outcome}: {reading.question} -> {reading.detail}")
        print("\n".join(f"  {fault}" for fault in faults))


if __name__ == "__main__":
    main()
