"""Build the bundled gene sets and footprints from files that a user downloads.

    python scripts/build_knowledge.py --source FOLDER [--output gca_core/knowledge/data]

FOLDER holds ``h.all.v2023.1.Hs.symbols.gmt`` (MSigDB Hallmark), ``ReactomePathways.gmt`` and
``progeny_model_human_full.tsv.gz``. The same input gives the same bytes. The perturbation catalogue is
written by hand; it is checked here against the sets it names and listed in the manifest.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections import defaultdict
from pathlib import Path

from manifest import update_manifest

DATA = Path(__file__).resolve().parent.parent / "gca_core" / "knowledge" / "data"
FOOTPRINT_GENES = 200

GENE_SETS = {
    "hallmark.tsv.gz": {
        "input": "h.all.v2023.1.Hs.symbols.gmt",
        "description": "MSigDB Hallmark gene sets, v2023.1, human symbols: name, identifier, genes",
        "source": "https://www.gsea-msigdb.org/gsea/msigdb/human/collections.jsp#H",
        "licence": "CC BY 4.0",
        "citation": "Liberzon A et al., The Molecular Signatures Database hallmark gene set collection, "
        "Cell Systems 2015. Changed: reformatted as a table, genes sorted.",
    },
    "reactome.tsv.gz": {
        "input": "ReactomePathways.gmt",
        "description": "Reactome pathways as gene sets, human: name, identifier, genes",
        "source": "https://reactome.org/download-data",
        "licence": "CC0 1.0",
        "citation": "Reactome pathway knowledgebase, https://reactome.org",
    },
}
FOOTPRINTS = {
    "input": "progeny_model_human_full.tsv.gz",
    "description": f"PROGENy footprints, human: the {FOOTPRINT_GENES} genes with the smallest p-value of each pathway",
    "source": "https://saezlab.github.io/progeny/",
    "licence": "Apache-2.0",
    "citation": "Schubert M et al., Perturbation-response genes reveal signaling footprints in cancer gene expression, "
    "Nature Communications 2018",
}
CATALOGUE = {
    "description": "perturbation catalogue: names, synonyms, targets, expected genes and pathways",
    "source": "compiled by hand for this project from common knowledge; evidence 'curated', no references",
    "licence": "Apache-2.0",
    "citation": "this project",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the downloaded files")
    parser.add_argument("--output", type=Path, default=DATA, help="folder of the bundled files")
    arguments = parser.parse_args()
    for file, about in GENE_SETS.items():
        write(arguments.output / file, gene_set_table(arguments.source / about["input"]), about)
    footprints = footprint_table(arguments.source / FOOTPRINTS["input"])
    write(arguments.output / "progeny.tsv.gz", footprints, FOOTPRINTS)
    catalogue = arguments.output / "perturbations.json"
    load = json.loads(catalogue.read_text(encoding="utf-8"))
    update_manifest(catalogue, **CATALOGUE)
    print(f"{catalogue.name}: {len(load['entries'])} entries")


def gene_set_table(path: Path) -> str:
    """Lines of name, identifier and space-separated genes, sorted by name."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        name, identifier, *genes = line.split("\t")
        identifier = "" if "://" in identifier else identifier
        lines.append("\t".join((" ".join(name.split()), identifier, " ".join(sorted({g for g in genes if g})))))
    return "\n".join(sorted(lines)) + "\n"


def footprint_table(path: Path) -> str:
    """Lines of pathway, gene and weight: the genes with the smallest p-value, strongest first."""
    genes: dict[str, list[tuple[float, str, float]]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as source:
        for row in csv.DictReader(source, delimiter="\t"):
            genes[row["pathway"]].append((float(row["p.value"]), row["gene"], float(row["weight"])))
    lines = []
    for pathway in sorted(genes):
        kept = sorted(genes[pathway])[:FOOTPRINT_GENES]
        lines += [f"{pathway}\t{gene}\t{weight:.4g}" for _, gene, weight in kept]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str, about: dict[str, str]) -> None:
    """Write gzip without a name or time in it, and the manifest entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    update_manifest(path, **{key: about[key] for key in ("description", "source", "licence", "citation")})
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
