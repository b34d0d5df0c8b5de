"""Compare every fact of the catalogue with reference tables that a user has at hand.

Nothing of the tables enters the catalogue: they show where it may be wrong. A fact agrees, disagrees, or
is not in the table; a table that doesn't know an entry at all says nothing about it.

The tables: ``drugcentral2016_drug_target.tsv`` (DrugCentral), ``liana_omni_resource.csv`` (LIANA, all its
resources), ``collectri.csv`` (CollecTRI) and ``pathfindR_string_edges.tsv`` (STRING).
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel

from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.catalogue import PerturbationCatalogue, PerturbationEntry
from gca_core.knowledge.bundled.names import normalise_name

DRUG_TABLE = "drugcentral2016_drug_target.tsv"
LIGAND_TABLE = "liana_omni_resource.csv"
REGULATOR_TABLE = "collectri.csv"
NETWORK_TABLE = "pathfindR_string_edges.tsv"
OTHER_SPECIES = frozenset({"mouseconsensus"})
# the direction that an action gives
_DIRECTIONS = dict.fromkeys(
    ("INHIBITOR", "ANTAGONIST", "ALLOSTERIC ANTAGONIST", "BLOCKER", "INVERSE AGONIST", "NEGATIVE ALLOSTERIC MODULATOR"),
    "down",
) | dict.fromkeys(
    ("AGONIST", "PARTIAL AGONIST", "ACTIVATOR", "OPENER", "POSITIVE ALLOSTERIC MODULATOR", "POSITIVE MODULATOR"), "up"
)


class Verdict(StrEnum):
    """What a table says about a fact."""

    AGREE = "agree"
    DISAGREE = "disagree"
    NOT_IN_TABLE = "not in table"


class Finding(BaseModel, frozen=True):
    """One fact beside a table.

    Args:
        entry: the perturbation.
        fact: what the catalogue says, such as ``-JAK1``.
        verdict: what the table says.
        detail: what the table holds instead; empty where it agrees.
    """

    entry: str
    fact: str
    verdict: Verdict
    detail: str = ""


class TableReport(BaseModel, frozen=True):
    """What one table says about all facts that it can speak about.

    Args:
        table: file name.
        compares: what is compared, in words.
        entries: how many entries of the catalogue the table knows.
        findings: fact by fact.
    """

    table: str
    compares: str
    entries: int
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> Mapping[Verdict, int]:
        """Facts by verdict."""
        found = Counter(finding.verdict for finding in self.findings)
        return {verdict: found[verdict] for verdict in Verdict}

    def rows(self, verdict: Verdict) -> list[Finding]:
        """The findings with one verdict."""
        return [finding for finding in self.findings if finding.verdict is verdict]


def check_catalogue(catalogue: PerturbationCatalogue, folders: Iterable[Path]) -> list[TableReport]:
    """Compare the catalogue with every table found in ``folders``.

    Raises:
        DataValidationError: no table is there, or one can't be read.
    """
    places = list(folders)
    reports = []
    for table, compares, check in CHECKS:
        path = next((folder / table for folder in places if (folder / table).is_file()), None)
        if path is None:
            continue
        try:
            entries, findings = check(catalogue, path)
        except (OSError, KeyError, ValueError) as error:
            raise DataValidationError(f"{path} is not the table it should be ({error}); download it again") from None
        reports.append(TableReport(table=table, compares=compares, entries=entries, findings=tuple(findings)))
    if not reports:
        tables = ", ".join(table for table, _, _ in CHECKS)
        raise DataValidationError(f"none of {tables} is in {', '.join(map(str, places))}; give the folder of one")
    return reports


def check_drugs(catalogue: PerturbationCatalogue, path: Path) -> tuple[int, list[Finding]]:
    """A drug's targets and their direction; a drug that shares no target with the table disagrees as a whole."""
    table: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in _table(path, "\t"):
        for gene in row["GENE"].split("|"):
            table[normalise_name(row["DRUG_NAME"])][gene].add(_DIRECTIONS.get(row["ACTION_TYPE"].strip().upper(), ""))
    known, findings = 0, []
    for entry in catalogue.entries.values():
        actions = _merged(table[key] for key in _keys(entry) if key in table)
        if not actions or entry.ligands:
            continue
        known += 1
        found = [_drug_finding(entry.name, t.gene, t.direction, actions) for t in entry.targets]
        findings += found
        if entry.targets and all(f.verdict is Verdict.NOT_IN_TABLE for f in found):
            findings.append(_no_overlap(entry, actions))
    return known, findings


def _drug_finding(name: str, gene: str, direction: str, actions: Mapping[str, set[str]]) -> Finding:
    fact = _fact(gene, direction)
    if gene not in actions:
        return Finding(entry=name, fact=fact, verdict=Verdict.NOT_IN_TABLE)
    signs = actions[gene] - {""}
    if not signs or direction in signs:
        return Finding(entry=name, fact=fact, verdict=Verdict.AGREE, detail="" if signs else "without a direction")
    return Finding(entry=name, fact=fact, verdict=Verdict.DISAGREE, detail=f"the table has {gene} {' '.join(signs)}")


def check_ligands(catalogue: PerturbationCatalogue, path: Path) -> tuple[int, list[Finding]]:
    """A protein's receptors: is there a pair of one of its genes with the target, or a subunit of it?"""
    pairs: dict[str, set[str]] = defaultdict(set)
    for row in _table(path, ","):
        if row["resource"] not in OTHER_SPECIES:
            for ligand in row["source_genesymbol"].split("_"):
                pairs[ligand].update(row["target_genesymbol"].split("_"))
    receptors = set().union(*pairs.values())
    known, findings = 0, []
    for entry in catalogue.entries.values():
        listed = set().union(*(pairs[ligand] for ligand in entry.ligands if ligand in pairs))
        own = [t for t in entry.targets if t.gene in receptors]
        if not listed or not own:
            continue
        known += 1
        for target in own:
            verdict = Verdict.AGREE if target.gene in listed else Verdict.NOT_IN_TABLE
            findings.append(Finding(entry=entry.name, fact=_fact(target.gene, target.direction), verdict=verdict))
        if not listed & {t.gene for t in own}:
            findings.append(_no_overlap(entry, dict.fromkeys(listed, frozenset[str]())))
    return known, findings


def check_regulators(catalogue: PerturbationCatalogue, path: Path) -> tuple[int, list[Finding]]:
    """A response gene beside the regulators among the targets: a regulator's sign times its edge's sign."""
    edges: dict[tuple[str, str], int] = {}
    for row in _table(path, ","):
        edges[row["source"], row["target"]] = int(float(row["weight"]))
    regulators = {source for source, _ in edges}
    known, findings = 0, []
    for entry in catalogue.entries.values():
        own = [t for t in entry.targets if t.gene in regulators]
        known += bool(own and entry.response)
        for gene in entry.response if own else ():
            expected = [
                (t.gene, edges[t.gene, gene.gene] * (1 if t.direction == "up" else -1))
                for t in own
                if (t.gene, gene.gene) in edges
            ]
            findings.append(_regulator_finding(entry.name, gene.gene, gene.direction, expected))
    return known, findings


def _regulator_finding(name: str, gene: str, direction: str, expected: list[tuple[str, int]]) -> Finding:
    fact = f"{_fact(gene, direction)} by {', '.join(r for r, _ in expected) or 'its targets'}"
    sign = 1 if direction == "up" else -1
    if not expected:
        return Finding(entry=name, fact=fact, verdict=Verdict.NOT_IN_TABLE)
    if any(s == sign for _, s in expected):
        return Finding(entry=name, fact=fact, verdict=Verdict.AGREE)
    detail = ", ".join(f"{regulator} gives {'+' if s > 0 else '-'}{gene}" for regulator, s in expected)
    return Finding(entry=name, fact=fact, verdict=Verdict.DISAGREE, detail=detail)


def check_network(catalogue: PerturbationCatalogue, path: Path) -> tuple[int, list[Finding]]:
    """A target is linked to another target, or to a gene of the protein; an absent edge says nothing against it."""
    neighbours: dict[str, set[str]] = defaultdict(set)
    for row in _table(path, "\t"):
        neighbours[row["a"]].add(row["b"])
        neighbours[row["b"]].add(row["a"])
    known, findings = 0, []
    for entry in catalogue.entries.values():
        genes = {t.gene for t in entry.targets} | set(entry.ligands)
        if len(genes) < 2:
            continue
        known += 1
        for target in entry.targets:
            linked = neighbours[target.gene] & (genes - {target.gene})
            verdict = Verdict.AGREE if linked else Verdict.NOT_IN_TABLE
            findings.append(Finding(entry=entry.name, fact=f"{target.gene} with the others", verdict=verdict))
    return known, findings


def _no_overlap(entry: PerturbationEntry, actions: Mapping[str, Iterable[str]]) -> Finding:
    fact = " ".join(_fact(t.gene, t.direction) for t in entry.targets)
    listed = ", ".join(sorted(actions)[:8])
    return Finding(
        entry=entry.name, fact=fact, verdict=Verdict.DISAGREE, detail=f"none of them; the table has {listed}"
    )


def _keys(entry: PerturbationEntry) -> set[str]:
    return {normalise_name(name) for name in (entry.name, *entry.synonyms)}


def _merged(parts: Iterable[Mapping[str, set[str]]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for part in parts:
        for gene, signs in part.items():
            found[gene] |= signs
    return dict(found)


def _fact(gene: str, direction: str) -> str:
    return f"{'+' if direction == 'up' else '-'}{gene}"


def _table(path: Path, delimiter: str) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as source:
        yield from csv.DictReader(source, delimiter=delimiter)


Check = Callable[[PerturbationCatalogue, Path], tuple[int, list[Finding]]]
CHECKS: tuple[tuple[str, str, Check], ...] = (
    (DRUG_TABLE, "drug, target and direction", check_drugs),
    (LIGAND_TABLE, "protein and receptor", check_ligands),
    (REGULATOR_TABLE, "response gene and regulator, with sign", check_regulators),
    (NETWORK_TABLE, "targets linked with each other", check_network),
)
