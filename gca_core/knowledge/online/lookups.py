"""The same questions as the snapshot answers, put to the services that are switched on.

A service that is off or fails is named in the answer, and the snapshot's answer is given instead: a run never
stops because a service does.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gca_core import io
from gca_core.errors import ExternalAPIError
from gca_core.knowledge.bundled.gene_sets import load_gene_sets
from gca_core.knowledge.bundled.lookups import SNAPSHOT, Lookup, PathwayMembership, pathways_of
from gca_core.knowledge.online.client import ServiceClient
from gca_core.knowledge.online.services import (
    Annotation,
    Gene,
    Literature,
    Pathway,
    Protein,
    ensembl_gene,
    go_processes,
    kegg_pathways,
    pubmed_search,
    reactome_pathways,
    uniprot_protein,
)
from gca_core.knowledge.online.settings import KEGG_TERMS, OnlineSettings, Source, load_online_settings

log = logging.getLogger(__name__)

T = TypeVar("T")
NOT_SWITCHED_ON = "not switched on"


class OnlineKnowledge:
    """Asks the services that are switched on; keep one for as long as limits and pauses should be remembered.

    Args:
        settings: which services, and how; read from the environment by default.
        options: handed to every :class:`~gca_core.knowledge.online.client.ServiceClient`.
    """

    def __init__(self, settings: OnlineSettings | None = None, **options: Any) -> None:
        self.settings = settings or load_online_settings()
        self._options = options
        self._clients: dict[Source, ServiceClient] = {}

    async def pathways_of(self, gene: str) -> Lookup[tuple[PathwayMembership, ...]]:
        """Reactome pathways of a gene; sizes are those of the snapshot, 0 where it doesn't have the pathway."""

        async def ask(client: ServiceClient) -> tuple[PathwayMembership, ...] | None:
            found = await reactome_pathways(client, gene)
            return None if found is None else tuple(map(_membership, found))

        return await self._ask(Source.REACTOME, ask, lambda: pathways_of(gene, ("reactome",)))

    async def processes_of(self, gene: str) -> Lookup[tuple[Annotation, ...]]:
        """GO processes that a gene's protein is annotated with; UniProt is needed to find the protein."""
        protein = await self.protein(gene)
        if protein.value is None:
            value = _bundled_processes(gene)
            return Lookup(value, SNAPSHOT, (*protein.missing, "go: needs the accession that uniprot gives"))
        accession = protein.value.accession
        return await self._ask(
            Source.GO, lambda client: go_processes(client, accession), lambda: _bundled_processes(gene)
        )

    async def protein(self, gene: str) -> Lookup[Protein | None]:
        """The reviewed protein of a gene; the snapshot knows none."""
        return await self._ask(Source.UNIPROT, lambda client: uniprot_protein(client, gene), lambda: None)

    async def gene(self, symbol: str) -> Lookup[Gene | None]:
        """The gene of a symbol with its place; the snapshot knows none."""
        return await self._ask(Source.ENSEMBL, lambda client: ensembl_gene(client, symbol), lambda: None)

    async def literature(self, query: str, limit: int = 20) -> Lookup[Literature | None]:
        """Publications that fit a query; None without PubMed, which is unknown and not zero."""
        return await self._ask(Source.PUBMED, lambda client: pubmed_search(client, query, limit), lambda: None)

    async def kegg_pathways_of(self, gene: str) -> Lookup[tuple[Pathway, ...]]:
        """KEGG pathways of a gene; the snapshot has none."""
        return await self._ask(Source.KEGG, lambda client: kegg_pathways(client, gene), tuple)

    def answers(self, source: Source) -> tuple[int, int]:
        """Answers of a service so far, and how many of them came from the cache."""
        client = self._clients.get(source)
        return (client.n_answers, client.n_from_cache) if client else (0, 0)

    async def _ask(
        self, source: Source, ask: Callable[[ServiceClient], Awaitable[T | None]], otherwise: Callable[[], T]
    ) -> Lookup[T]:
        """The service's answer; else the snapshot's, with the reason. A service that knows nothing has answered."""
        if source not in self.settings.online_sources:
            return Lookup(otherwise(), SNAPSHOT, (f"{source}: {NOT_SWITCHED_ON}",))
        if source not in self._clients:
            if source is Source.KEGG:
                log.warning("KEGG is switched on. %s", KEGG_TERMS)
            self._clients[source] = ServiceClient(source, self.settings, **self._options)
        try:
            found = await ask(self._clients[source])
        except ExternalAPIError as error:
            log.warning("the snapshot answers instead: %s", error)
            return Lookup(otherwise(), SNAPSHOT, (f"{source}: {error}",))
        if found is None:
            return Lookup(otherwise(), SNAPSHOT, (f"{source}: knows nothing of it",))
        return Lookup(found, source.value)


def shared_online() -> OnlineKnowledge:
    """The process's own :class:`OnlineKnowledge` for the present settings, so that limits and pauses are remembered."""
    settings = load_online_settings()
    key = settings.ncbi_api_key.get_secret_value() if settings.ncbi_api_key else ""
    return _shared(io.sha256_bytes(f"{settings.model_dump_json()}\0{key}".encode()))


@functools.cache
def _shared(_settings_hash: str) -> OnlineKnowledge:
    return OnlineKnowledge()


def ask(call: Coroutine[Any, Any, T]) -> T:
    """Run one of the calls above from plain code, whether or not an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(call)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, call).result()


def _membership(pathway: Pathway) -> PathwayMembership:
    bundled = load_gene_sets("reactome").get(pathway.name, frozenset())
    return PathwayMembership(name=pathway.name, collection="reactome", identifier=pathway.identifier, size=len(bundled))


def _bundled_processes(gene: str) -> tuple[Annotation, ...]:
    found = pathways_of(gene, ("go_bp",))
    names = {m.identifier: m.name.removesuffix(f" ({m.identifier})") for m in found}
    return tuple(
        Annotation(go_id=identifier, name=name, aspect="biological_process")
        for identifier, name in sorted(names.items())
    )
