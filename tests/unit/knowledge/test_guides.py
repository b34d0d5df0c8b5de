"""Numbers and lists in the guides are those of the snapshot."""

import re
from collections import Counter
from pathlib import Path

from gca_core.knowledge.bundled.catalogue import load_catalogue
from gca_core.knowledge.bundled.snapshot import snapshot_parts
from gca_core.knowledge.online.settings import SERVICES, OnlineSettings

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


def rows(guide: str) -> dict[str, list[str]]:
    """First cell of every table row, without code marks, to the other cells."""
    lines = (GUIDES / guide).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def test_the_catalogue_guide_counts_what_is_there() -> None:
    types = Counter(entry.type.value for entry in load_catalogue().entries.values())
    table = rows("catalogue.md")
    assert {kind: table[kind] for kind in types} == {kind: [str(count)] for kind, count in types.items()}
    assert table["all"] == [str(len(load_catalogue()))]


def test_the_knowledge_guide_lists_every_part_with_its_licence_and_size() -> None:
    table = rows("knowledge.md")
    assert {part.file: part.licence for part in snapshot_parts()} == {
        part.file: table[part.file][-1] for part in snapshot_parts() if part.file in table
    }
    stated = re.search(r"Together they are ([\d.]+) MB", (GUIDES / "knowledge.md").read_text(encoding="utf-8"))
    assert float(stated[1]) == round(sum(part.bytes for part in snapshot_parts()) / 1e6, 1)


def test_the_knowledge_guide_lists_every_service_and_setting() -> None:
    table = rows("knowledge.md")
    assert set(map(str, SERVICES)) <= set(table)
    assert [source for source, service in SERVICES.items() if not service.stored] == ["kegg"]
    text = (GUIDES / "knowledge.md").read_text(encoding="utf-8")
    missing = [name for name in OnlineSettings.model_fields if f"GCA_{name.upper()}" not in text]
    assert missing == []
