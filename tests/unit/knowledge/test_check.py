from pathlib import Path

import pytest

from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.catalogue import PerturbationCatalogue, _entry
from gca_core.knowledge.bundled.check import TableReport, Verdict, check_catalogue

ENTRIES = [
    {"name": "right", "type": "drug", "family": "x", "synonyms": ["other-name"], "targets": ["-JAK1", "-TYK2"]},
    {"name": "turned", "type": "drug", "family": "x", "targets": ["+NR3C1"]},
    {"name": "elsewhere", "type": "drug", "family": "x", "targets": ["-MTOR"]},
    {"name": "bound", "type": "drug", "family": "x", "targets": ["+CD3E"]},
    {
        "name": "ligand",
        "type": "cytokine",
        "family": "x",
        "ligands": ["IFNG"],
        "targets": ["+IFNGR1", "+STAT1"],
        "response": ["+IRF1", "-SOCS1", "+MYC"],
    },
    {"name": "stranger", "type": "cytokine", "family": "x", "ligands": ["IL2"], "targets": ["+IFNGR1"]},
]
CATALOGUE = PerturbationCatalogue([_entry(item, {}) for item in ENTRIES], version="1")
TABLES = {
    "drugcentral2016_drug_target.tsv": "DRUG_NAME\tGENE\tACTION_TYPE\n"
    "other name\tJAK1|JAK3\tINHIBITOR\nturned\tNR3C1\tANTAGONIST\n"
    "elsewhere\tFKBP1A\tINHIBITOR\nbound\tCD3E\tANTIBODY BINDING\n",
    "liana_omni_resource.csv": "source_genesymbol,target_genesymbol,resource\n"
    "IFNG,IFNGR1_IFNGR2,cellphonedb\nIL2,IL2RA,x\nIL2,IFNGR1,mouseconsensus\n",
    "collectri.csv": "source,target,weight\nSTAT1,IRF1,1\nSTAT1,SOCS1,1\n",
    "pathfindR_string_edges.tsv": "a\tb\nIFNGR1\tIFNG\n",
}


@pytest.fixture
def reports(tmp_path: Path) -> dict[str, TableReport]:
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text)
    return {report.table: report for report in check_catalogue(CATALOGUE, [tmp_path])}


def verdicts(report: TableReport) -> dict[tuple[str, str], str]:
    return {(f.entry, f.fact): f.verdict.value for f in report.findings}


def test_a_drugs_target_is_compared_with_its_direction(reports: dict[str, TableReport]) -> None:
    found = verdicts(reports["drugcentral2016_drug_target.tsv"])
    assert found["right", "-JAK1"] == "agree"
    assert found["right", "-TYK2"] == "not in table"
    assert found["turned", "+NR3C1"] == "disagree"
    assert found["elsewhere", "-MTOR"] == "disagree"
    assert found["bound", "+CD3E"] == "agree"
    assert reports["drugcentral2016_drug_target.tsv"].entries == 4


def test_a_disagreement_says_what_the_table_holds(reports: dict[str, TableReport]) -> None:
    details = {f.entry: f.detail for f in reports["drugcentral2016_drug_target.tsv"].rows(Verdict.DISAGREE)}
    assert details == {"turned": "the table has NR3C1 down", "elsewhere": "none of them; the table has FKBP1A"}


def test_a_ligand_is_compared_with_its_receptors(reports: dict[str, TableReport]) -> None:
    found = verdicts(reports["liana_omni_resource.csv"])
    assert found["ligand", "+IFNGR1"] == "agree"
    assert ("ligand", "+STAT1") not in found
    assert found["stranger", "+IFNGR1"] == "disagree"


def test_a_response_gene_is_compared_with_the_sign_of_its_regulator(reports: dict[str, TableReport]) -> None:
    report = reports["collectri.csv"]
    assert report.counts == {Verdict.AGREE: 1, Verdict.DISAGREE: 1, Verdict.NOT_IN_TABLE: 1}
    assert report.rows(Verdict.DISAGREE)[0].detail == "STAT1 gives +SOCS1"


def test_targets_are_linked_or_not_in_the_network(reports: dict[str, TableReport]) -> None:
    found = verdicts(reports["pathfindR_string_edges.tsv"])
    assert found["ligand", "IFNGR1 with the others"] == "agree"
    assert found["ligand", "STAT1 with the others"] == "not in table"


def test_without_any_table_there_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(DataValidationError, match="none of"):
        check_catalogue(PerturbationCatalogue([], version="1"), [tmp_path])
    (tmp_path / "collectri.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataValidationError, match="not the table"):
        check_catalogue(CATALOGUE, [tmp_path])
