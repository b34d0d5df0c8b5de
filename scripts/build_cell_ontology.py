"""Build gca_core/knowledge/data/cell_ontology.json.gz from a Cell Ontology dump.

The dump is the JSON that the cellxgene-ontology-guide project publishes, compressed with zstandard:
{"CL:...": {"label", "synonyms", "ancestors": {id: distance}, "deprecated", "replaced_by"}}. Kept are labels,
synonyms, ancestors with their distance, and the replacements of obsolete terms.

    python scripts/build_cell_ontology.py CL-ontology-v2026-03-26.json.zst
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from pathlib import Path
from typing import Any

import zstandard
from manifest import update_manifest

TARGET = Path(__file__).resolve().parent.parent / "gca_core/knowledge/data/cell_ontology.json.gz"


def compact(dump: dict[str, dict[str, Any]], version: str) -> dict[str, Any]:
    """The terms in use with label, synonyms and ancestors, and the replacements of obsolete ones."""
    terms = {
        identifier: [
            term["label"],
            sorted(set(term.get("synonyms", []))),
            dict(sorted((a, d) for a, d in term["ancestors"].items() if a != identifier)),
        ]
        for identifier, term in sorted(dump.items())
        if not term["deprecated"]
    }
    replaced = {
        identifier: term["replaced_by"]
        for identifier, term in sorted(dump.items())
        if term["deprecated"] and term.get("replaced_by") in terms
    }
    return {"version": version, "terms": terms, "replaced": replaced}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dump", type=Path)
    path: Path = parser.parse_args().dump
    found = re.search(r"v(\d{4}-\d{2}-\d{2})", path.name)
    if found is None:
        raise SystemExit(f"{path.name} carries no version such as v2026-03-26 in its name")
    with path.open("rb") as source:
        dump = json.loads(zstandard.ZstdDecompressor().stream_reader(source).read())
    data = compact(dump, found[1])
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    TARGET.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    update_manifest(
        TARGET,
        description=f"Cell Ontology {found[1]}: labels, synonyms and ancestors of {len(data['terms']):,} terms",
        source="Cell Ontology (obophenotype/cell-ontology), as distributed by cellxgene-ontology-guide 1.11.1",
        licence="CC BY 4.0",
        citation="Diehl AD et al. The Cell Ontology 2016: enhanced content, modularization, and "
        "ontology interoperability. J Biomed Semantics 2016;7:44. Changed: reduced to the fields named above.",
    )
    print(f"{TARGET.name}: {len(data['terms'])} terms, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
