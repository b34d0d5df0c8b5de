"""Build the bundled snapshot from files that a user downloads; the same input gives the same bytes.

A source that is not in the folder is skipped and named; its part stays as it was. Each part is listed in
``manifest.json`` with where it came from, its licence, the citation to give, and the hashes of input and output.
"""

import csv
import gzip
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gca_core import io
from gca_core.config import require
from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.catalogue import AMBIGUOUS, PROFILES, TABLES, VERSION, read_catalogue
from gca_core.knowledge.bundled.files import MANIFEST

FOOTPRINT_GENES = 200
LIGAND_RESOURCE = "cellphonedb"
OWN_SOURCE = "compiled by this project from biology as published; evidence 'curated', no references"


@dataclass(frozen=True)
class Part:
    """One file of the snapshot.

    Attributes:
        file: its name in the data folder.
        source_glob: the downloaded file it is made from.
        make: gives the file's text from the downloaded file.
        description: with ``{version}`` where the source's name carries one.
    """

    file: str
    source_glob: str
    make: Callable[[Path], str]
    description: str
    source: str
    licence: str
    citation: str


@dataclass(frozen=True)
class Built:
    """What became of a part: the size of its file in bytes, or None where its source is not there."""

    file: str
    source: str
    bytes: int | None


def build_snapshot(folder: Path, output: Path) -> list[Built]:
    """Build every part whose source is in ``folder``, and list the project's own tables in the manifest.

    Args:
        folder: of the downloaded files.
        output: folder of the snapshot; files there are replaced one by one.

    Raises:
        DataValidationError: the folder does not exist, holds no source, or a source is not what it should be.
    """
    if not folder.is_dir():
        raise DataValidationError(f"there is no folder {str(folder)!r}; give the one that holds the downloaded files")
    # the newest, by its name
    found = {part: max(folder.glob(part.source_glob), default=None, key=lambda path: path.name) for part in PARTS}
    if not any(found.values()):
        names = ", ".join(part.source_glob for part in PARTS)
        raise DataValidationError(f"{str(folder)!r} holds none of the sources: {names}")
    built = [_build(part, path, output) for part, path in found.items()]
    return built + list_own_tables(output)


def list_own_tables(output: Path) -> list[Built]:
    """Check the tables of this project in a folder and list them in its manifest.

    Raises:
        DataValidationError: a table is not valid.
    """
    if not (output / PROFILES).exists():
        return []
    read_catalogue(output)
    done = []
    for file, what in OWN_TABLES.items():
        path = output / file
        if not path.is_file():
            continue
        _record(path, what, OWN_SOURCE, "Apache-2.0", "this project", input_sha256="", version=VERSION)
        done.append(Built(file, "compiled by hand", path.stat().st_size))
    return done


def _build(part: Part, path: Path | None, output: Path) -> Built:
    if path is None:
        return Built(part.file, part.source_glob, None)
    try:
        text = part.make(path)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataValidationError(
            f"{path.name} is not what {part.file} is made from ({type(error).__name__}: {error}); download it again"
        ) from None
    output.mkdir(parents=True, exist_ok=True)
    target = output / part.file
    with io.staged(target) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    version = found[0] if (found := re.search(r"\d{4}-\d{2}-\d{2}|v\d{4}\.\d", path.name)) else ""
    _record(
        target,
        part.description.format(version=version).replace("  ", " "),
        part.source,
        part.licence,
        part.citation,
        io.sha256_file(path),
        version,
    )
    return Built(part.file, path.name, target.stat().st_size)


def _record(
    path: Path, description: str, source: str, licence: str, citation: str, input_sha256: str, version: str
) -> None:
    """Write or replace the entry of ``path`` in the manifest beside it; other entries stay."""
    manifest = path.parent / MANIFEST
    entries: list[dict[str, Any]] = io.read_json(manifest) if manifest.exists() else []
    entry = {
        "file": path.name,
        "description": description,
        "source": source,
        "licence": licence,
        "citation": citation,
        "sha256": io.sha256_file(path),
        "bytes": path.stat().st_size,
        "input_sha256": input_sha256,
        "version": version,
    }
    others = [e for e in entries if e["file"] != path.name and (path.parent / e["file"]).exists()]
    io.write_json(manifest, sorted([*others, entry], key=lambda e: str(e["file"])))


def gene_set_table(path: Path) -> str:
    """Lines of name, identifier and space-separated genes, sorted by name, from a GMT file."""
    lines = []
    for name, identifier, genes in _gmt(path):
        kept = "" if "://" in identifier else identifier
        lines.append(f"{name}\t{kept}\t{' '.join(sorted(genes))}")
    return "\n".join(sorted(lines)) + "\n"


def gene_place_table(path: Path) -> str:
    """All genes in one line, then per set its name and the places of its members, as gaps; sorted by name."""
    rows = sorted(_gmt(path))
    genes = sorted(set().union(*(members for _, _, members in rows)))
    place = {gene: i for i, gene in enumerate(genes)}
    lines = [" ".join(genes)]
    for name, _, members in rows:
        places = sorted(place[gene] for gene in members)
        gaps = [places[0], *(b - a for a, b in itertools.pairwise(places))]
        lines.append(f"{name}\t{' '.join(map(str, gaps))}")
    return "\n".join(lines) + "\n"


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


def ligand_table(path: Path) -> str:
    """Lines of ligand and receptor symbols; subunits of a complex are joined by "_". CellPhoneDB's rows alone."""
    with path.open(encoding="utf-8", newline="") as source:
        pairs = {
            (row["source_genesymbol"], row["target_genesymbol"])
            for row in csv.DictReader(source)
            if row["resource"] == LIGAND_RESOURCE
        }
    if not pairs:
        raise ValueError(f"no row of the resource {LIGAND_RESOURCE!r}")
    return "\n".join("\t".join(pair) for pair in sorted(pairs)) + "\n"


def cell_ontology_json(path: Path) -> str:
    """Labels, synonyms and ancestors of the terms in use, and the replacements of obsolete ones, as JSON."""
    return _ontology_json(path, lambda own, above: {a: distance for a, distance in sorted(above.items()) if a != own})


def tissue_json(path: Path) -> str:
    """Labels, synonyms and nearest parents of the UBERON terms in use, and replacements, as JSON.

    Parents are the ancestors at distance one; the others follow from them.
    """
    return _ontology_json(
        path, lambda _own, above: sorted(a.removeprefix("UBERON:") for a, distance in above.items() if distance == 1)
    )


def _ontology_json(path: Path, above: Callable[[str, dict[str, int]], object]) -> str:
    """Version, terms and replacements of a release; ``above`` gives what is kept of a term's ancestors."""
    release = re.search(r"v(\d{4}-\d{2}-\d{2})", path.name)
    if release is None:
        raise ValueError(f"{path.name} carries no release such as v2026-03-26 in its name")
    zstandard = require("zstandard", "dev")
    with path.open("rb") as source:
        dump: dict[str, dict[str, Any]] = json.loads(zstandard.ZstdDecompressor().stream_reader(source).read())
    terms, replaced = {}, {}
    for identifier, term in sorted(dump.items()):
        if not term["deprecated"]:
            names = sorted(set(term.get("synonyms", [])))
            terms[identifier] = [term["label"], names, above(identifier, term["ancestors"])]
        elif successor := term.get("replaced_by"):
            replaced[identifier] = successor
    replaced = {identifier: successor for identifier, successor in replaced.items() if successor in terms}
    content = {"version": release[1], "terms": terms, "replaced": replaced}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _gmt(path: Path) -> Iterable[tuple[str, str, frozenset[str]]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        name, identifier, *genes = line.split("\t")
        yield " ".join(name.split()), identifier, frozenset(gene for gene in genes if gene)


OWN_TABLES = {
    TABLES[0]: "perturbation catalogue: cytokines, chemokines, growth factors and peptide hormones",
    TABLES[1]: "perturbation catalogue: drugs, antibodies and small hormones",
    TABLES[2]: "perturbation catalogue: stimuli, microbes and stresses",
    PROFILES: "perturbation catalogue: expectations that several entries share",
    AMBIGUOUS: "perturbation catalogue: names that mean several entries, and which one by convention",
    "cell_ontology_aliases.tsv": "names that the field uses for cell types, with the Cell Ontology term each one means",
    "tissue_aliases.tsv": "names that the field uses for tissues, with the UBERON term each one means",
}

PARTS = (
    Part(
        "cell_ontology.json.gz",
        "CL-ontology-v*.json.zst",
        cell_ontology_json,
        "Cell Ontology {version}: labels, synonyms and ancestors",
        "Cell Ontology (obophenotype/cell-ontology), as distributed by cellxgene-ontology-guide 1.11.1",
        "CC BY 4.0",
        "Diehl AD et al. The Cell Ontology 2016: enhanced content, modularization, and ontology interoperability. "
        "J Biomed Semantics 2016;7:44. Changed: reduced to the fields named above.",
    ),
    Part(
        "tissues.json.gz",
        "UBERON-ontology-v*.json.zst",
        tissue_json,
        "UBERON {version}: labels, synonyms and parents of anatomical terms",
        "Uberon (obophenotype/uberon), as distributed by cellxgene-ontology-guide 1.11.1",
        "CC BY 3.0",
        "Uberon, an integrative multi-species anatomy ontology, Genome Biology 2012;13:R5. "
        "Changed: reduced to the fields named above.",
    ),
    Part(
        "hallmark.tsv.gz",
        "h.all.v*.Hs.symbols.gmt",
        gene_set_table,
        "MSigDB Hallmark gene sets, {version}, human symbols: name, identifier, genes",
        "https://www.gsea-msigdb.org/gsea/msigdb/human/collections.jsp#H",
        "CC BY 4.0",
        "Liberzon A et al., The Molecular Signatures Database hallmark gene set collection, Cell Systems 2015. "
        "Changed: reformatted as a table, genes sorted.",
    ),
    Part(
        "reactome.tsv.gz",
        "ReactomePathways.gmt",
        gene_set_table,
        "Reactome pathways as gene sets, human: name, identifier, genes",
        "https://reactome.org/download-data",
        "CC0 1.0",
        "Reactome pathway knowledgebase, https://reactome.org",
    ),
    Part(
        "go_bp.tsv.gz",
        "orgHs_GO_BP_propagated_5to500.gmt",
        gene_place_table,
        "GO biological processes, human, propagated to parents, 5 to 500 genes, GO release 2022-07-01",
        "http://geneontology.org",
        "CC BY 4.0",
        "Gene Ontology, http://geneontology.org. Changed: genes listed once, members as places in that list.",
    ),
    Part(
        "progeny.tsv.gz",
        "progeny_model_human_full.tsv.gz",
        footprint_table,
        f"PROGENy footprints, human: the {FOOTPRINT_GENES} genes with the smallest p-value of each pathway",
        "https://saezlab.github.io/progeny/",
        "Apache-2.0",
        "Schubert M et al., Perturbation-response genes reveal signaling footprints in cancer gene expression, "
        "Nature Communications 2018",
    ),
    Part(
        "ligand_receptor.tsv.gz",
        "liana_omni_resource.csv",
        ligand_table,
        "ligand to receptor pairs of CellPhoneDB, human symbols; subunits of complexes joined by '_'",
        "CellPhoneDB, https://www.cellphonedb.org, rows as distributed with LIANA (BSD-3)",
        "MIT (CellPhoneDB); BSD-3-Clause (LIANA)",
        "Efremova et al. 2020, https://www.nature.com/articles/s41596-020-0292-x (CellPhoneDB), through LIANA. "
        "Changed: symbols alone, duplicates merged.",
    ),
)
