from __future__ import annotations

import hashlib
import json

import pytest

from gca_core.errors import ConfigurationError
from gca_core.knowledge.gene_sets import DATA, find_gene_set, load_gene_sets


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
    rows = {row["file"]: row for row in json.loads((DATA / "manifest.json").read_text())}
    for file in ("hallmark.tsv.gz", "reactome.tsv.gz", "progeny.tsv.gz", "perturbations.json"):
        data = (DATA / file).read_bytes()
        assert rows[file]["sha256"] == hashlib.sha256(data).hexdigest()
        assert rows[file]["bytes"] == len(data)
        assert rows[file]["licence"]
