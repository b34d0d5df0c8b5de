"""A server on this machine that answers as the public services do, with their response shapes."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Reply:
    """An HTTP answer, after a while."""

    body: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


@dataclass(frozen=True)
class Call:
    """What arrived; ``target`` is the path with its query, as a server's log would hold it."""

    method: str
    target: str
    path: str
    fields: dict[str, str]
    at: float


Responder = Callable[[Call, int], Reply]


@dataclass
class Loopback:
    """The server's address and what arrived there."""

    url: str
    calls: list[Call]


@contextmanager
def serve(responder: Responder) -> Iterator[Loopback]:
    """Answer each call with ``responder(call, number)``; numbers begin at 0."""
    calls: list[Call] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET", "")

        def do_POST(self) -> None:
            self._answer("POST", self.rfile.read(int(self.headers.get("content-length", 0))).decode())

        def _answer(self, method: str, body: str) -> None:
            parts = urlsplit(self.path)
            fields = dict(parse_qsl(parts.query)) | dict(parse_qsl(body))
            with lock:
                number = len(calls)
                calls.append(Call(method, self.path, parts.path.lstrip("/"), fields, time.monotonic()))
            reply = responder(calls[number], number)
            time.sleep(reply.delay_s)
            data = reply.body.encode()
            try:
                self.send_response(reply.status)
                for name, value in {"content-length": str(len(data)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                return

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Loopback(f"http://127.0.0.1:{server.server_port}", calls)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


REACTOME_SEARCH = {
    "results": [
        {
            "entries": [
                {
                    "dbId": "66203",
                    "stId": "R-HSA-66203",
                    "id": "R-HSA-66203",
                    "name": '<span class="highlighting" >STAT1</span> [cytosol]',
                    "exactType": "ReferenceGeneProduct",
                    "species": ["Homo sapiens"],
                    "referenceName": '<span class="highlighting" >STAT1</span>',
                    "referenceIdentifier": "P42224",
                    "databaseName": "UniProt",
                    "isDisease": False,
                }
            ],
            "typeName": "Protein",
            "entriesCount": 1,
            "rowCount": 1,
        }
    ],
    "numberOfGroups": 1,
    "numberOfMatches": 1,
}
REACTOME_PATHWAYS = [
    {
        "dbId": 877300,
        "displayName": "Interferon gamma signaling",
        "stId": "R-HSA-877300",
        "stIdVersion": "R-HSA-877300.7",
        "isInDisease": False,
        "isInferred": False,
        "name": ["Interferon gamma signaling"],
        "speciesName": "Homo sapiens",
        "hasDiagram": True,
        "schemaClass": "Pathway",
        "className": "Pathway",
    },
    {
        "dbId": 909733,
        "displayName": "Interferon alpha/beta signaling",
        "stId": "R-HSA-909733",
        "speciesName": "Homo sapiens",
        "schemaClass": "Pathway",
    },
]
UNIPROT = {
    "results": [
        {
            "entryType": "UniProtKB reviewed (Swiss-Prot)",
            "primaryAccession": "P42224",
            "proteinDescription": {
                "recommendedName": {
                    "fullName": {"value": "Signal transducer and activator of transcription 1-alpha/beta"}
                }
            },
            "genes": [{"geneName": {"value": "STAT1"}}],
            "comments": [
                {
                    "texts": [{"evidences": [{"evidenceCode": "ECO:0000269"}], "value": "Signal transducer."}],
                    "commentType": "FUNCTION",
                }
            ],
        }
    ]
}
QUICKGO = {
    "numberOfHits": 3,
    "results": [
        {
            "id": "UniProtKB:P42224!1",
            "geneProductId": "UniProtKB:P42224",
            "qualifier": "involved_in",
            "goId": "GO:0060333",
            "goName": "type II interferon-mediated signaling pathway",
            "goEvidence": "IDA",
            "goAspect": "biological_process",
            "evidenceCode": "ECO:0000314",
            "reference": "PMID:1",
            "taxonId": 9606,
            "symbol": "STAT1",
        },
        {
            "id": "UniProtKB:P42224!2",
            "qualifier": "involved_in",
            "goId": "GO:0060333",
            "goName": "type II interferon-mediated signaling pathway",
            "goEvidence": "IEA",
            "goAspect": "biological_process",
            "reference": "GO_REF:0000002",
        },
        {
            "id": "UniProtKB:P42224!3",
            "qualifier": "NOT|involved_in",
            "goId": "GO:0000001",
            "goName": "mitochondrion inheritance",
            "goEvidence": "IDA",
            "goAspect": "biological_process",
            "reference": "PMID:2",
        },
    ],
    "pageInfo": {"resultsPerPage": 100, "current": 1, "total": 1},
}
ENSEMBL = {
    "id": "ENSG00000115415",
    "display_name": "STAT1",
    "biotype": "protein_coding",
    "description": "signal transducer and activator of transcription 1 [Source:HGNC Symbol;Acc:HGNC:11362]",
    "species": "homo_sapiens",
    "object_type": "Gene",
    "db_type": "core",
    "assembly_name": "GRCh38",
    "seq_region_name": "2",
    "start": 190908460,
    "end": 191020960,
    "strand": -1,
    "version": 20,
}
ESEARCH = {
    "header": {"type": "esearch", "version": "0.3"},
    "esearchresult": {
        "count": "2",
        "retmax": "2",
        "retstart": "0",
        "idlist": ["111", "222"],
        "translationset": [],
        "querytranslation": "x",
    },
}
ESUMMARY = {
    "header": {"type": "esummary", "version": "0.3"},
    "result": {
        "uids": ["111", "222"],
        "111": {
            "uid": "111",
            "pubdate": "2018 Jan",
            "source": "Nat Biotechnol",
            "fulljournalname": "Nature biotechnology",
            "authors": [{"name": "Kang HM", "authtype": "Author", "clusterid": ""}],
            "title": "A title with <i>markup</i>.",
            "articleids": [{"idtype": "pubmed", "idtypen": 1, "value": "111"}, {"idtype": "doi", "value": "10.1/x"}],
        },
        "222": {"uid": "222", "error": "cannot get document summary"},
    },
}
KEGG_FIND = (
    "hsa:6772\tSTAT1, CANDF7, IMD31A; signal transducer and activator of transcription 1\nhsa:1\tSTAT1B; other\n"
)
KEGG_LINK = "hsa:6772\tpath:hsa04630\nhsa:6772\tpath:hsa04062\n"
KEGG_LIST = (
    "hsa04062\tChemokine signaling pathway - Homo sapiens (human)\n"
    "hsa04630\tJAK-STAT signaling pathway - Homo sapiens (human)\n"
)

ANSWERS: dict[str, object] = {
    "search/query": REACTOME_SEARCH,
    "data/mapping/UniProt/P42224/pathways": REACTOME_PATHWAYS,
    "uniprotkb/search": UNIPROT,
    "annotation/search": QUICKGO,
    "lookup/symbol/homo_sapiens/STAT1": ENSEMBL,
    "esearch.fcgi": ESEARCH,
    "esummary.fcgi": ESUMMARY,
    "find/hsa/STAT1": KEGG_FIND,
    "link/pathway/hsa:6772": KEGG_LINK,
    "list/pathway/hsa": KEGG_LIST,
}


def usual(call: Call, _number: int) -> Reply:
    """The services when all is well; what they don't know is 404, and 400 at Ensembl."""
    if call.path not in ANSWERS:
        ensembl = call.path.startswith("lookup/")
        return Reply(json.dumps({"error": "No valid lookup found"}), 400 if ensembl else 404)
    answer = ANSWERS[call.path]
    return Reply(answer if isinstance(answer, str) else json.dumps(answer))
