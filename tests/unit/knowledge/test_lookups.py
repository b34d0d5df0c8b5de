import subprocess
import sys

from gca_core.knowledge.bundled.lookups import drug_targets, ligand_receptors, neighbours, pathways_of
from gca_core.knowledge.bundled.tissues import resolve_tissue


def test_the_targets_of_a_drug_have_a_direction() -> None:
    found = drug_targets("INCB018424")
    assert found.name == "ruxolitinib"
    assert {(t.gene, t.direction) for t in found.targets} == {("JAK1", "down"), ("JAK2", "down")}
    assert found.evidence == "curated"
    assert found.ambiguity is None


def test_an_ambiguous_name_is_answered_with_its_ambiguity() -> None:
    found = drug_targets("TGF-beta")
    assert found.name == "TGF-beta 1"
    assert found.ambiguity is not None
    assert drug_targets("DOX") is None


def test_a_perturbation_of_a_gene_has_that_target() -> None:
    found = drug_targets("JAK1 knockout")
    assert [(t.gene, t.direction) for t in found.targets] == [("JAK1", "down")]


def test_an_unknown_name_has_no_targets() -> None:
    assert drug_targets("unobtainium") is None


def test_the_pathways_of_a_gene_come_by_collection_and_size() -> None:
    found = pathways_of("STAT1")
    assert [m.collection for m in found] == sorted(
        (m.collection for m in found), key=["hallmark", "reactome", "progeny"].index
    )
    hallmark = [m for m in found if m.collection == "hallmark"]
    assert "HALLMARK_INTERFERON_GAMMA_RESPONSE" in {m.name for m in hallmark}
    assert [m.size for m in hallmark] == sorted(m.size for m in hallmark)
    assert all(m.identifier for m in found if m.collection == "reactome")
    assert pathways_of("no such gene") == ()


def test_go_and_footprints_are_there_on_request() -> None:
    go = pathways_of("IFIT1", ("go_bp",), max_size=100)
    assert go
    assert all(m.identifier.startswith("GO:") and m.size <= 100 for m in go)
    weights = {m.name: m.weight for m in pathways_of("IFIT1", ("progeny",))}
    assert (weights["JAK-STAT"] or 0) > 0


def test_what_a_gene_acts_with_is_limited() -> None:
    assert len(neighbours("JAK1", limit=3)) == 3
    assert ligand_receptors("IL6")
    assert ligand_receptors("no such gene") == ()
    assert resolve_tissue("PBMC") == "UBERON:0000178"


def test_importing_the_lookups_loads_no_heavy_module() -> None:
    heavy = ["torch", "scanpy", "anndata", "pandas", "sklearn", "numpy", "httpx", "rapidfuzz"]
    code = f"import sys, gca_core.knowledge.bundled.lookups; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
