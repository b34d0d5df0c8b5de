import hashlib
import json

import pytest

from gca_core.errors import ConfigurationError
from gca_core.knowledge.bundled.files import BUNDLED
from gca_core.knowledge.bundled.gene_sets import find_gene_set, load_gene_sets, load_go_bp, set_ids, sets_of_gene


def test_hallmark_holds_its_fifty_sets() -> None:
    sets = load_gene_sets("hallmark")
    assert len(sets) == 50
    assert "ISG15" in sets["HALLMARK_INTERFERON_ALPHA_RESPONSE"]


def test_reactome_pathways_carry_their_names() -> None:
    sets = load_gene_sets("reactome")
    assert len(sets) > 2000
    assert "IFNAR1" in sets["Interferon alpha/beta signaling"]


def test_a_set_is_found_in_any_collection() -> None:
    assert find_gene_set("Interferon gamma signaling")
    assert find_gene_set("no such set") is None


def test_an_unknown_collection_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="hallmark"):
        load_gene_sets("kegg")


def test_the_manifest_lists_these_files_with_their_checksums() -> None:
    rows = {row["file"]: row for row in json.loads((BUNDLED / "manifest.json").read_text())}
    for file in ("hallmark.tsv.gz", "reactome.tsv.gz", "progeny.tsv.gz", "go_bp.tsv.gz", "catalogue_drugs.tsv"):
        data = (BUNDLED / file).read_bytes()
        assert rows[file]["sha256"] == hashlib.sha256(data).hexdigest()
        assert rows[file]["bytes"] == len(data)
        assert rows[file]["licence"]


def test_go_processes_carry_their_id_and_keep_their_members() -> None:
    sets = load_go_bp()
    assert len(sets) == 9006
    name = "mitochondrial genome maintenance (GO:0000002)"
    assert {"POLG", "TP53", "TYMP"} <= sets[name]
    assert 5 <= min(map(len, sets.values())) <= max(map(len, sets.values())) <= 500
    assert set_ids("go_bp")[name] == "GO:0000002"
    assert find_gene_set(name) == sets[name]


def test_reactome_sets_have_stable_ids() -> None:
    assert set_ids("reactome")["Interferon alpha/beta signaling"].startswith("R-HSA-")


def test_the_sets_of_a_gene_come_smallest_first() -> None:
    sets, mine = load_gene_sets("reactome"), sets_of_gene("reactome")["STAT1"]
    assert "Interferon gamma signaling" in mine
    assert [len(sets[name]) for name in mine] == sorted(len(sets[name]) for name in mine)
