"""The services, each with the few calls that are used, and their answers as models."""

import re
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from gca_core.errors import ExternalAPIError
from gca_core.knowledge.online.client import RefusedError, ServiceClient

HUMAN = "9606"
UNIPROT_FIELDS = "accession,gene_names,protein_name,cc_function"
MAX_ARTICLES = 20
MAX_ANNOTATIONS = 100
_SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.@_-]{0,40}")
_ACCESSION = re.compile(r"[A-Z0-9]{6,10}(-\d+)?")
_TAG = re.compile(r"<[^>]*>")
_YEAR = re.compile(r"[12]\d{3}")
_DIGITS = re.compile(r"[0-9]+")


class Pathway(BaseModel, frozen=True):
    """A pathway of Reactome or KEGG."""

    identifier: str
    name: str


class Protein(BaseModel, frozen=True):
    """A reviewed human protein of UniProt."""

    accession: str
    symbol: str
    name: str = ""
    function: str = ""


class Annotation(BaseModel, frozen=True):
    """A GO annotation of a protein, with the evidence behind it."""

    go_id: str
    name: str = ""
    aspect: str = ""
    evidence: str = ""
    reference: str = ""


class Gene(BaseModel, frozen=True):
    """A gene of Ensembl; places are 1-based, on the named assembly."""

    identifier: str
    symbol: str
    biotype: str = ""
    description: str = ""
    assembly: str = ""
    chromosome: str = ""
    start: int = 0
    end: int = 0
    strand: int = 0


class Article(BaseModel, frozen=True):
    """A publication as PubMed lists it; abstracts are not fetched."""

    pmid: str
    title: str
    journal: str = ""
    year: int | None = None
    doi: str = ""
    first_author: str = ""


class Literature(BaseModel, frozen=True):
    """What PubMed found: how many publications in all, and the most relevant of them."""

    count: int = 0
    articles: tuple[Article, ...] = ()


async def reactome_pathways(client: ServiceClient, gene: str) -> tuple[Pathway, ...] | None:
    """Human pathways that hold a gene's protein, by id; None where Reactome doesn't know the gene.

    Raises:
        ExternalAPIError: no usable answer.
    """
    _require(_SYMBOL, gene, "gene symbol")
    query = {"query": gene, "species": "Homo sapiens", "types": "Protein", "cluster": "true"}
    accession = await client.get_json("search/query", query, lambda found: _reactome_accession(found, gene))
    if accession is None:
        return None
    path = f"data/mapping/UniProt/{quote(accession, safe='')}/pathways"
    return await client.get_json(path, {"species": HUMAN}, _reactome_pathways)


def _reactome_accession(found: Any, gene: str) -> str | None:
    """The UniProt accession of the first protein whose name is the gene's; the search marks hits with tags."""
    for entry in (entry for group in _rows(_object(found).get("results")) for entry in _rows(group.get("entries"))):
        names = {_TAG.sub("", _text(entry, key)).split(" ")[0].upper() for key in ("referenceName", "name")}
        accession = _TAG.sub("", _text(entry, "referenceIdentifier"))
        if gene.upper() in names and _ACCESSION.fullmatch(accession):
            return accession
    return None


def _reactome_pathways(rows: Any) -> tuple[Pathway, ...]:
    found = {Pathway(identifier=_text(row, "stId"), name=_text(row, "displayName")) for row in _rows(rows)}
    return tuple(sorted((p for p in found if p.identifier), key=lambda p: p.identifier))


async def uniprot_protein(client: ServiceClient, gene: str) -> Protein | None:
    """The reviewed human protein of a gene; None where there is none.

    Raises:
        ExternalAPIError: no usable answer.
    """
    _require(_SYMBOL, gene, "gene symbol")
    query = f"(gene_exact:{gene}) AND (organism_id:{HUMAN}) AND (reviewed:true)"
    params = {"query": query, "fields": UNIPROT_FIELDS, "format": "json", "size": "1"}
    return await client.get_json("uniprotkb/search", params, lambda found: _protein(found, gene))


def _protein(found: Any, gene: str) -> Protein | None:
    rows = _rows(_object(found).get("results"))
    if not rows:
        return None
    row = rows[0]
    functions = [c for c in _rows(row.get("comments")) if c.get("commentType") == "FUNCTION"]
    symbols = [_text(_inner(g, "geneName"), "value") for g in _rows(row.get("genes"))]
    return Protein(
        accession=_text(row, "primaryAccession"),
        symbol=symbols[0] if symbols else gene,
        name=_text(_inner(row, "proteinDescription", "recommendedName", "fullName"), "value"),
        function=" ".join(_text(text, "value") for comment in functions for text in _rows(comment.get("texts"))),
    )


async def pubmed_search(client: ServiceClient, query: str, limit: int = MAX_ARTICLES) -> Literature:
    """How many publications fit a query, and the most relevant of them, by NCBI's E-utilities.

    The key travels in the body of a POST, so that no log of addresses holds it.

    Raises:
        ExternalAPIError: no usable answer, or a query that PubMed can't read.
    """
    settings = client.settings
    key = settings.ncbi_api_key.get_secret_value() if settings.ncbi_api_key else ""
    told = {"tool": settings.ncbi_tool, "email": settings.ncbi_email, "api_key": key}
    identity = {name: value for name, value in told.items() if value}
    form = {"db": "pubmed", "term": query, "retmode": "json", "retmax": str(limit), "sort": "relevance"}
    found = await client.post_json("esearch.fcgi", form, identity, _pubmed_ids)
    if found is None:
        raise ExternalAPIError("pubmed has no search at this address; check GCA_ONLINE_URLS")
    count, ids = found
    if not ids:
        return Literature(count=count)
    form = {"db": "pubmed", "id": ",".join(ids), "retmode": "json"}
    articles = await client.post_json("esummary.fcgi", form, identity, lambda found: _articles(found, ids))
    return Literature(count=count, articles=articles or ())


def _pubmed_ids(found: Any) -> tuple[int, list[str]]:
    result = _object(_object(found).get("esearchresult"))
    if "ERROR" in result:
        raise RefusedError("pubmed could not read the query")
    if not _text(result, "count").isdigit():
        raise ValueError("no count")
    ids = result.get("idlist")
    listed = ids if isinstance(ids, list) else []
    return int(_text(result, "count")), [str(i) for i in listed if _DIGITS.fullmatch(str(i))]


def _articles(found: Any, ids: list[str]) -> tuple[Article, ...]:
    result = _object(_object(found).get("result"))
    rows = {i: result[i] for i in ids if isinstance(result.get(i), dict)}
    return tuple(_article(i, row) for i, row in rows.items() if "error" not in row)


def _article(pmid: str, row: dict[str, Any]) -> Article:
    ids = {_text(i, "idtype"): _text(i, "value") for i in _rows(row.get("articleids"))}
    authors = [_text(author, "name") for author in _rows(row.get("authors"))]
    year = _YEAR.search(_text(row, "pubdate"))
    return Article(
        pmid=pmid,
        title=_TAG.sub("", _text(row, "title")),
        journal=_text(row, "fulljournalname") or _text(row, "source"),
        year=int(year.group()) if year else None,
        doi=ids.get("doi", ""),
        first_author=authors[0] if authors else "",
    )


async def go_processes(client: ServiceClient, accession: str) -> tuple[Annotation, ...]:
    """The biological processes that a human protein is annotated with, by id; of several the first counts.

    Raises:
        ExternalAPIError: no usable answer.
    """
    _require(_ACCESSION, accession, "UniProt accession")
    params = {
        "geneProductId": accession,
        "taxonId": HUMAN,
        "aspect": "biological_process",
        "includeFields": "goName",
        "limit": str(MAX_ANNOTATIONS),
    }
    return await client.get_json("annotation/search", params, _annotations) or ()


def _annotations(found: Any) -> tuple[Annotation, ...]:
    rows = _rows(_object(found).get("results"))
    # an annotation with NOT says that the protein does not do it
    kept = [row for row in rows if "NOT" not in _text(row, "qualifier").split("|")]
    terms = {_text(row, "goId"): row for row in reversed(kept) if _text(row, "goId").startswith("GO:")}
    return tuple(
        Annotation(
            go_id=go_id,
            name=_text(row, "goName"),
            aspect=_text(row, "goAspect"),
            evidence=_text(row, "goEvidence"),
            reference=_text(row, "reference"),
        )
        for go_id, row in sorted(terms.items())
    )


async def ensembl_gene(client: ServiceClient, symbol: str) -> Gene | None:
    """The human gene of a symbol; None where there is none, which Ensembl says by status 400.

    Raises:
        ExternalAPIError: no usable answer.
    """
    _require(_SYMBOL, symbol, "gene symbol")
    path = f"lookup/symbol/homo_sapiens/{quote(symbol, safe='')}"
    params = {"content-type": "application/json"}
    return await client.get_json(path, params, lambda found: _gene(found, symbol), missing=(400,))


def _gene(found: Any, symbol: str) -> Gene:
    row = _object(found)
    if not _text(row, "id"):
        raise ValueError("no id")
    return Gene(
        identifier=_text(row, "id"),
        symbol=_text(row, "display_name") or symbol,
        biotype=_text(row, "biotype"),
        description=_text(row, "description").split(" [Source:")[0],
        assembly=_text(row, "assembly_name"),
        chromosome=_text(row, "seq_region_name"),
        start=_number(row, "start"),
        end=_number(row, "end"),
        strand=_number(row, "strand"),
    )


async def kegg_pathways(client: ServiceClient, gene: str) -> tuple[Pathway, ...] | None:
    """Human pathways that hold a gene, by id; None where KEGG doesn't know the gene.

    Raises:
        ExternalAPIError: no usable answer.
    """
    _require(_SYMBOL, gene, "gene symbol")
    entry = await client.get_text(f"find/hsa/{quote(gene, safe='')}", lambda text: _kegg_entry(text, gene))
    if entry is None:
        return None
    links = await client.get_text(f"link/pathway/{quote(entry, safe=':')}", _pairs) or []
    names = dict(await client.get_text("list/pathway/hsa", _pairs) or [])
    ids = sorted({target.removeprefix("path:") for _, target in links})
    return tuple(Pathway(identifier=i, name=names.get(i, "").removesuffix(" - Homo sapiens (human)")) for i in ids)


def _kegg_entry(text: str, gene: str) -> str | None:
    """The entry whose symbols, before the ";" of the last column, hold the gene."""
    for line in text.splitlines():
        columns = line.split("\t")
        symbols = [symbol.strip() for symbol in columns[-1].split(";")[0].split(",")]
        if len(columns) > 1 and gene in symbols:
            return columns[0]
    return None


def _pairs(text: str) -> list[tuple[str, str]]:
    """The first two columns of a table without header."""
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    if any(len(row) < 2 for row in rows):
        raise ValueError("no table of two columns")
    return [(row[0], row[1]) for row in rows]


def _require(pattern: re.Pattern[str], text: str, what: str) -> None:
    if pattern.fullmatch(text) is None:
        raise RefusedError(f"{text[:60]!r} is no {what}; nothing was sent")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _rows(value: Any) -> list[dict[str, Any]]:
    """A list of JSON objects; None is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ValueError("no list of objects")
    return value


def _inner(value: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ""


def _number(row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    return value if isinstance(value, int) else 0
