import gzip
from pathlib import Path

import pytest

from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.interactions import (
    InteractionGraph,
    LigandReceptor,
    load_interactions,
    load_ligand_receptors,
    pairs_of_gene,
    read_string,
)

SETS = {"pair": frozenset("AB"), "trio": frozenset("ABC"), "alone": frozenset("A"), "large": frozenset("ABCDEFG")}


def test_weights_add_up_over_what_two_genes_share() -> None:
    graph = InteractionGraph(SETS, [LigandReceptor(ligand=("A",), receptor=("X", "C"))], max_set=5)
    found = {n.gene: (n.weight, n.evidence) for n in graph.neighbours("A")}
    assert found == {
        "B": (1.5, ("pair", "trio")),
        "C": (1.5, ("ligand-receptor", "trio")),
        "X": (1.0, ("ligand-receptor",)),
    }
    assert [n.gene for n in graph.neighbours("A", limit=2)] == ["B", "C"]


def test_links_are_the_same_seen_from_both_ends() -> None:
    graph = InteractionGraph(SETS, [LigandReceptor(ligand=("A",), receptor=("X",))])
    forth, back = graph.shared("A", "X"), graph.shared("X", "A")
    assert forth.weight == back.weight
    assert graph.shared("X", "G") is None
    assert graph.neighbours("unknown") == ()


def test_janus_kinases_are_neighbours_in_the_bundled_graph() -> None:
    found = [n.gene for n in load_interactions().neighbours("JAK1", 10)]
    assert {"JAK2", "TYK2", "STAT1"} <= set(found)


def test_receptors_of_a_ligand_are_bundled_with_their_subunits() -> None:
    assert any(p.receptor == ("IFNGR1", "IFNGR2") for p in pairs_of_gene()["IFNG"]) or any(
        "IFNGR1" in p.receptor for p in pairs_of_gene()["IFNG"]
    )
    assert any(p.ligand == ("IFNG",) for p in pairs_of_gene()["IFNGR1"])
    assert len(load_ligand_receptors()) > 1000


@pytest.mark.parametrize("compressed", [False, True])
def test_string_links_are_read_by_symbol(tmp_path: Path, compressed: bool) -> None:
    text = "protein1 protein2 combined_score\nA B 900\nA C 399\n"
    path = tmp_path / ("string.txt.gz" if compressed else "string.txt")
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    links = read_string(path)
    assert links["B"] == {"A": 0.9}
    assert "C" not in links["A"]
    graph = InteractionGraph({}, (), links)
    assert [(n.gene, n.weight, n.evidence) for n in graph.neighbours("A")] == [("B", 0.9, ("STRING",))]


@pytest.mark.parametrize(
    "text", ["a\tb\nA\tB\n", "preferredName_A\tpreferredName_B\tscore\nA\tB\t0.7\n", '"gene1","gene2"\n"A","B"\n']
)
def test_the_ways_string_is_handed_out_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "links.tsv"
    path.write_text(text)
    assert set(read_string(path)["A"]) == {"B"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x\ty\nA\tB\n", "columns x, y"),
        ("protein1 protein2 combined_score\n9606.ENSP1 9606.ENSP2 900\n", "protein ids"),
        ("a\tb\n", "no link"),
    ],
)
def test_a_table_that_is_not_strings_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "links.tsv"
    path.write_text(text)
    with pytest.raises(DataValidationError, match=message):
        read_string(path)
