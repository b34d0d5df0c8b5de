import gzip
import json
from pathlib import Path

import pytest
import zstandard

from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.build import build_snapshot
from gca_core.knowledge.bundled.catalogue import AMBIGUOUS, PROFILES, TABLES
from gca_core.knowledge.bundled.files import BUNDLED

DUMP = {
    "CL:0000000": {"label": "cell", "ancestors": {"CL:0000000": 0}, "deprecated": False},
    "CL:0000001": {"label": "b", "synonyms": ["z", "a"], "ancestors": {"CL:0000000": 1}, "deprecated": False},
    "CL:0000002": {"label": "old", "ancestors": {}, "deprecated": True, "replaced_by": "CL:0000001"},
}
TISSUES = {
    "UBERON:0000001": {"label": "organ", "ancestors": {}, "deprecated": False},
    "UBERON:0000002": {"label": "lung", "ancestors": {"UBERON:0000001": 1}, "deprecated": False},
    "UBERON:0000003": {
        "label": "left lung",
        "ancestors": {"UBERON:0000002": 1, "UBERON:0000001": 2},
        "deprecated": False,
    },
}
LIANA = """"","source","target","source_genesymbol","target_genesymbol","resource"
"1","x","y","IFNG","IFNGR1_IFNGR2","cellphonedb"
"2","x","y","IFNG","OTHER","cellchatdb"
"3","x","y","IFNG","IFNGR1_IFNGR2","cellphonedb"
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "h.all.v2023.1.Hs.symbols.gmt").write_text("HALLMARK_X\thttp://x/X\tB\tA\n")
    (folder / "ReactomePathways.gmt").write_text("Second\tR-HSA-2\tB\tA\tB\nFirst  one\tR-HSA-1\tC\n")
    (folder / "orgHs_GO_BP_propagated_5to500.gmt").write_text(
        "p (GO:0000002)\tGO:0000002\tC\tA\nq (GO:0000003)\tGO:0000003\tB\n"
    )
    with gzip.open(folder / "progeny_model_human_full.tsv.gz", "wt") as sink:
        sink.write("gene\tpathway\tweight\tp.value\nA\tMAPK\t1.23456\t0.5\nB\tMAPK\t-2\t0.1\n")
    (folder / "liana_omni_resource.csv").write_text(LIANA)
    for name, dump in (("CL-ontology-v2026-03-26", DUMP), ("UBERON-ontology-v2026-04-01", TISSUES)):
        (folder / f"{name}.json.zst").write_bytes(zstandard.compress(json.dumps(dump).encode()))
    return folder


def text_of(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()


def test_every_part_is_made_from_its_download(sources: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    built = build_snapshot(sources, output)
    assert all(part.bytes for part in built)
    assert text_of(output / "hallmark.tsv.gz") == "HALLMARK_X\t\tA B\n"
    assert text_of(output / "reactome.tsv.gz") == "First one\tR-HSA-1\tC\nSecond\tR-HSA-2\tA B\n"
    assert text_of(output / "go_bp.tsv.gz") == "A B C\np (GO:0000002)\t0 2\nq (GO:0000003)\t1\n"
    assert text_of(output / "progeny.tsv.gz") == "MAPK\tB\t-2\nMAPK\tA\t1.235\n"
    assert text_of(output / "ligand_receptor.tsv.gz") == "IFNG\tIFNGR1_IFNGR2\n"
    cells = json.loads(text_of(output / "cell_ontology.json.gz"))
    assert cells["version"] == "2026-03-26"
    assert cells["terms"]["CL:0000001"] == ["b", ["a", "z"], {"CL:0000000": 1}]
    assert cells["replaced"] == {"CL:0000002": "CL:0000001"}
    assert json.loads(text_of(output / "tissues.json.gz"))["terms"]["UBERON:0000003"][2] == ["0000002"]


def test_the_same_downloads_give_the_same_bytes(sources: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "one", tmp_path / "two"]
    for output in outputs:
        build_snapshot(sources, output)
    first, second = ({p.name: p.read_bytes() for p in output.iterdir()} for output in outputs)
    assert first == second


def test_the_manifest_names_the_hash_of_what_came_in(sources: Path, tmp_path: Path) -> None:
    build_snapshot(sources, tmp_path / "out")
    rows = {row["file"]: row for row in json.loads((tmp_path / "out" / "manifest.json").read_text())}
    assert len(rows["reactome.tsv.gz"]["input_sha256"]) == 64
    assert rows["tissues.json.gz"]["version"] == "2026-04-01"
    assert rows["tissues.json.gz"]["licence"] == "CC BY 3.0"
    assert "Efremova" in rows["ligand_receptor.tsv.gz"]["citation"]


def test_what_is_not_there_is_named_and_left(sources: Path, tmp_path: Path) -> None:
    (sources / "liana_omni_resource.csv").unlink()
    built = {part.file: part.bytes for part in build_snapshot(sources, tmp_path / "out")}
    assert built["ligand_receptor.tsv.gz"] is None
    assert not (tmp_path / "out" / "ligand_receptor.tsv.gz").exists()


def test_the_own_tables_are_listed_where_they_lie(sources: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    for file in (*TABLES, PROFILES, AMBIGUOUS):
        (output / file).write_bytes((BUNDLED / file).read_bytes())
    files = [part.file for part in build_snapshot(sources, output)]
    assert set(TABLES) <= set(files)
    (output / TABLES[0]).write_text("name\n")
    with pytest.raises(DataValidationError, match="not valid"):
        build_snapshot(sources, output)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("ReactomePathways.gmt", b"no tab"),
        ("liana_omni_resource.csv", b"a,b\n1,2\n"),
        ("progeny_model_human_full.tsv.gz", b"x"),
    ],
)
def test_a_download_that_is_something_else_is_refused(sources: Path, tmp_path: Path, file: str, content: bytes) -> None:
    (sources / file).write_bytes(content)
    with pytest.raises(DataValidationError, match="download it again"):
        build_snapshot(sources, tmp_path / "out")


def test_a_folder_without_any_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataValidationError, match="none of the sources"):
        build_snapshot(tmp_path, tmp_path / "out")
    with pytest.raises(DataValidationError, match="no folder"):
        build_snapshot(tmp_path / "absent", tmp_path / "out")
