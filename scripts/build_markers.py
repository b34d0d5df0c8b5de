"""Build gca_core/annotation/data/markers.csv from cell_types.tsv beside it, and write the manifest's entries.

    python scripts/build_markers.py

The source was compiled by this project from cell biology as published; it copies no other marker database, and no
benchmark has a part in it. The same table comes out of ``gca markers build``.
"""

from __future__ import annotations

from pathlib import Path

from manifest import update_manifest

from gca_core.annotation.labels.vocabulary import read_vocabulary
from gca_core.annotation.markers.build import build_marker_table, parse_source
from gca_core.annotation.markers.formats import parse_markers

DATA = Path(__file__).resolve().parent.parent / "gca_core/annotation/data"
TERMS = {"source": "compiled by this project from general knowledge of cell biology", "licence": "Apache-2.0"}


def main() -> None:
    types = parse_source((DATA / "cell_types.tsv").read_text(encoding="utf-8"))
    text = build_marker_table()
    (DATA / "markers.csv").write_text(text, encoding="utf-8")
    human, mouse = (len(parse_markers(text, species=species)) for species in ("human", "mouse"))
    n_mouse = sum(t.mouse is not None for t in types)
    n_broad = read_vocabulary("broad").info.n_names
    described = {
        "broad.tsv": f"Vocabulary of {n_broad} broad cell types: label and Cell Ontology terms",
        "markers.csv": f"Marker genes of {len(types)} human ({human:,} rows) and {n_mouse} mouse cell types "
        f"({mouse:,} rows), positive and negative, by Cell Ontology term; built from cell_types.tsv",
        "cell_types.tsv": f"Source of the marker database: {len(types)} cell types with their tissues and genes",
        "common_names.tsv": "Short names of cell types, where the field writes another one than the Cell Ontology",
        "mouse_symbols.tsv": "Mouse symbols of marker genes whose letters differ from the human symbol",
        "reviewed_symbols.txt": "Symbols of marker genes that no bundled gene set holds, allowed by name",
        "symbol_aliases.csv": "Previous gene symbols, and symbols as R spells them, with the current symbol",
    }
    for name, description in described.items():
        update_manifest(DATA / name, description=description, citation="", **TERMS)
    print(f"markers.csv: {len(types)} human types, {human} rows; {n_mouse} mouse types, {mouse} rows")


if __name__ == "__main__":
    main()
