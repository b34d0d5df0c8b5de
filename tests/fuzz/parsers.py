"""Everything that reads text of strangers, as functions of bytes: each gives a value or raises a :class:`GcaError`."""

import atexit
import gzip
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from gca_core.errors import GcaError

FOLDER = Path(tempfile.mkdtemp(prefix="gca-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def on_disk(data: bytes, name: str) -> str:
    """A file with this content."""
    path = FOLDER / f"{os.getpid()}-{name}"
    path.write_bytes(data)
    return str(path)


def marker_table(data: bytes) -> None:
    from gca_core.annotation.markers.formats import read_markers

    read_markers(data, name="a.csv")


def gmt_file(data: bytes) -> None:
    from gca_core.annotation.markers.formats import read_markers
    from gca_core.grounding.enrichment import read_gmt
    from gca_core.grounding.regulons import read_regulons

    path = on_disk(data, "sets.gmt")
    for read in (read_gmt, read_regulons, lambda _: read_markers(data, name="a.gmt")):
        try:
            read(path)
        except GcaError:
            continue


def vocabulary(data: bytes) -> None:
    from gca_core.annotation.labels.vocabulary import read_vocabulary

    read_vocabulary(on_disk(data, "vocabulary.csv"))


def corrections(data: bytes) -> None:
    from gca_core.annotation.labels.corrections import load_corrections
    from gca_core.annotation.review.table import parse_review

    try:
        load_corrections(on_disk(data, "corrections.json"))
    except GcaError:
        parse_review(data.decode("utf-8", errors="replace"))


def job_file(data: bytes) -> None:
    from gca_core.inference.job import read_job

    read_job(on_disk(data, "job.json"))


def answer(data: bytes) -> None:
    from gca_core.annotation.llm.models import BatchAnswer
    from gca_core.haystack.agent.critique import Critique
    from gca_core.haystack.agent.proposals import ModelAnswer, ProposedPrompts
    from gca_core.haystack.agent.reading import ReadQuestion
    from gca_core.llm.structured import parse_answer

    text = data.decode("utf-8", errors="replace")
    for schema in (BatchAnswer, ReadQuestion, ProposedPrompts, ModelAnswer, Critique):
        try:
            parse_answer(text, schema)
        except GcaError:
            continue


def questions(data: bytes) -> None:
    from gca_core.haystack.questions import read_questions

    read_questions(on_disk(data, "questions.csv"))


def gene_list(data: bytes) -> None:
    from gca_core.annotation.markers.delimited import decode_table
    from gca_core.annotation.markers.gene_lists import parse_gene_lists
    from gca_core.inference.stack.genes import read_gene_list

    try:
        read_gene_list(on_disk(data, "genes.txt"))
    except GcaError:
        parse_gene_lists(decode_table(data, name="genes.txt"))


def snapshot(data: bytes) -> None:
    """The first byte chooses the part, and whether it is packed as it should be."""
    from gca_core.knowledge.bundled import footprints, gene_sets, interactions, ontology, snapshot, tissues

    parts: list[tuple[str, Callable[[], object]]] = [
        ("manifest.json", snapshot.snapshot_parts),
        ("cell_ontology.json.gz", ontology.load_ontology.__wrapped__),
        ("cell_ontology_aliases.tsv", ontology.load_ontology.__wrapped__),
        ("hallmark.tsv.gz", lambda: gene_sets.load_gene_sets.__wrapped__("hallmark")),
        ("go_bp.tsv.gz", gene_sets.load_go_bp.__wrapped__),
        ("progeny.tsv.gz", footprints.load_footprints.__wrapped__),
        ("tissues.json.gz", tissues.load_tissues.__wrapped__),
        ("tissue_aliases.tsv", tissues.load_tissues.__wrapped__),
        ("ligand_receptor.tsv.gz", interactions.load_ligand_receptors.__wrapped__),
    ]
    chosen, content = data[0] if data else 0, data[1:]
    name, load = parts[chosen % len(parts)]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        packed = name.endswith(".gz") and chosen < 128
        (Path(folder) / name).write_bytes(gzip.compress(content, 1) if packed else content)
        os.environ["GCA_KNOWLEDGE_DIR"] = folder
        try:
            load()
        finally:
            del os.environ["GCA_KNOWLEDGE_DIR"]


REQUEST = (
    b'{"candidate_id": "c", "prompt_uri": "p.h5ad", "query_uri": "q.h5ad", "control_uri": "k.h5ad", '
    b'"output_uri": "o.h5ad", "backend": "shift", "seeds": [0]}'
)
PARSERS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "marker_table": (
        marker_table,
        (
            b"cell_type,ontology_id,gene_symbol,role\nB cell,CL:0000236,MS4A1,positive\n",
            b"species\tofficial gene symbol\tcell type\torgan\nMm Hs\tMS4A1\tB cells\tBlood\n",
            b"species,cell_name,marker,Symbol,cellontology_id\nHuman,B cell,CD20,MS4A1,CL_0000236\n",
            b"tissueType,cellName,geneSymbolmore1,geneSymbolmore2\nImmune,B cells,MS4A1,CD3D\n",
            b'Low-hierarchy cell types,Curated markers\nB cells,"MS4A1, CD19"\n',
        ),
    ),
    "gmt_file": (gmt_file, (b"B cell\tx\tMS4A1\tCD79A\n", b"source,target,weight\nSTAT1,ISG15,1.5\n")),
    "vocabulary": (vocabulary, (b"label,ontology_id\nBs,CL:0000236\n", b"label\nB cell\n", b"label\tontology_id\n")),
    "corrections": (
        corrections,
        (
            b'{"corrections": [{"cluster": "0", "genes": ["A"], "label": "B cell", "ontology_id": "CL:0000236", '
            b'"who": "me", "when": "2026-01-01T00:00:00Z", "note": "", "replaced": "T cell"}]}',
            b"run,cluster,label,key,correct_label,note\na,0,B cell,k,T cell,x\n",
        ),
    ),
    "job_file": (job_file, (b'{"job_id": "j", "requests": [' + REQUEST + b"]}",)),
    "answer": (
        answer,
        (
            b'<think>{"clusters": []}</think>```json\n{"clusters": [{"id": "k1", "label": "B cell", '
            b'"confidence": "high", "markers": ["MS4A1"], "alternatives": [{"label": "T cell"}]}],}\n```',
            b'{"cell_type": "B cell", "perturbation": "TNF", "kind": "cytokine"}',
            b'{"prompts": [{"groups": ["g1"], "reason": "x"}]}',
        ),
    ),
    "questions": (
        questions,
        (
            b"id,question,cell_type,perturbation,kind,dataset\nq,How would B cells respond to TNF?,,,,\n",
            b'["How would B cells respond to TNF?", {"cell_type": "B cell", "perturbation": "TNF"}]',
        ),
    ),
    "gene_list": (gene_list, (b'cluster,markers\n0,"MS4A1,CD79A"\n', b'["CD3E", "LYZ"]', b"CD3E\nLYZ\n")),
    "snapshot": (
        snapshot,
        (
            b'\x00[{"file": "a", "description": "", "source": "", "licence": "", "citation": "", "sha256": "", '
            b'"bytes": 1}]',
            b'\x01{"version": "1", "terms": {"CL:0000000": ["cell", [], []]}, "replaced": {}}',
            b"\x02alias\tontology_id\nB\tCL:0000236\n",
            b"\x03A\tid\tX Y\n",
            b"\x04X Y Z\nset (GO:0000001)\t0 1 1\n",
            b"\x05JAK-STAT\tSTAT1\t1.5\n",
            b'\x06{"version": "1", "terms": {"UBERON:0000178": ["blood", [], []]}, "replaced": {}}',
            b"\x07alias\tontology_id\nPBMC\tUBERON:0000178\n",
            b"\x08TNF\tTNFRSF1A\n",
        ),
    ),
}
TOKENS = (
    b'"', b"'", b",", b"\t", b";", b"\n", b"\r", b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"[", b"{", b"}", b"]",
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 2000, b'{"a":' * 1500, b"x" * 140_000, b"\\ud800",
    b"PK\x03\x04", b"```", b"[" * 900 + b"]" * 900, b"null", b"true", b"=1+1", b"\x1f\x8b", b"<think>",
)  # fmt: skip
