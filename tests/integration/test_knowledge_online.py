"""Online clients against servers on this machine that answer as the services do."""

import asyncio
import json
import logging
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import pytest

from gca_core.cache import FileCache
from gca_core.errors import ConfigurationError, ExternalAPIError
from gca_core.knowledge.bundled.lookups import pathways_of
from gca_core.knowledge.online.client import ServiceClient
from gca_core.knowledge.online.limits import CircuitBreaker, RateLimit
from gca_core.knowledge.online.lookups import OnlineKnowledge, ask, shared_online
from gca_core.knowledge.online.settings import OnlineSettings, Source, load_online_settings
from tests.helpers.knowledge_loopback import Call, Loopback, Reply, Responder, serve, usual

EVERY = ",".join(Source)
KEY = "a-very-secret-key"


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def services() -> Iterator[Loopback]:
    with serve(usual) as loopback:
        yield loopback


def settings(url: str, folder: Path, **changes: Any) -> OnlineSettings:
    given: dict[str, Any] = {
        "online_sources": EVERY,
        "online_urls": dict.fromkeys(Source, url),
        "cache_dir": folder,
        "enable_kegg": True,
        "online_retries": 2,
    }
    return load_online_settings(**(given | changes))


def client(url: str, folder: Path, clock: Clock, **changes: Any) -> ServiceClient:
    return ServiceClient(
        Source.UNIPROT,
        settings(url, folder, **changes),
        breaker=CircuitBreaker(failures=2, cooldown_s=60.0, clock=clock),
        limit=RateLimit(1000, 1.0, clock),
        sleep=clock.sleep,
    )


def get(one: ServiceClient, path: str = "x") -> Any:
    return asyncio.run(one.get_json(path, {"q": "1"}, lambda found: found))


def replies(*given: Reply) -> Responder:
    """One answer after the other, the last one for good."""
    return lambda _call, number: given[min(number, len(given) - 1)]


def test_every_service_answers_its_question(services: Loopback, tmp_path: Path) -> None:
    online = OnlineKnowledge(settings(services.url, tmp_path))
    pathways = ask(online.pathways_of("STAT1"))
    assert (pathways.source, pathways.missing) == ("reactome", ())
    assert [p.identifier for p in pathways.value] == ["R-HSA-877300", "R-HSA-909733"]
    assert pathways.value[0].size > 50
    protein = ask(online.protein("STAT1")).value
    assert (protein.accession, protein.symbol, protein.function) == ("P42224", "STAT1", "Signal transducer.")
    processes = ask(online.processes_of("STAT1"))
    assert processes.source == "go"
    assert [(a.go_id, a.evidence, a.reference) for a in processes.value] == [("GO:0060333", "IDA", "PMID:1")]
    gene = ask(online.gene("STAT1")).value
    assert (gene.identifier, gene.chromosome, gene.strand) == ("ENSG00000115415", "2", -1)
    assert gene.description == "signal transducer and activator of transcription 1"
    kegg = ask(online.kegg_pathways_of("STAT1"))
    assert [(p.identifier, p.name) for p in kegg.value] == [
        ("hsa04062", "Chemokine signaling pathway"),
        ("hsa04630", "JAK-STAT signaling pathway"),
    ]


def test_literature_gives_the_number_and_what_can_be_listed(services: Loopback, tmp_path: Path) -> None:
    found = ask(OnlineKnowledge(settings(services.url, tmp_path)).literature("interferon AND monocyte")).value
    assert found.count == 2
    assert [(a.pmid, a.title, a.year, a.doi) for a in found.articles] == [
        ("111", "A title with markup.", 2018, "10.1/x")
    ]


def test_ncbis_key_is_sent_and_nowhere_else(services, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    chosen = settings(services.url, tmp_path, ncbi_api_key=KEY, ncbi_email="someone@example.org")
    ask(OnlineKnowledge(chosen).literature("interferon"))
    assert {call.fields["api_key"] for call in services.calls} == {KEY}
    assert {call.fields["email"] for call in services.calls} == {"someone@example.org"}
    assert all(call.method == "POST" and KEY not in call.target for call in services.calls)
    assert KEY not in caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(KEY not in path.read_text() and "example.org" not in path.read_text() for path in files)
    assert KEY not in repr(chosen)


def test_a_key_raises_pubmeds_limit(tmp_path: Path) -> None:
    assert settings("http://127.0.0.1:1", tmp_path).requests(Source.PUBMED) == 3
    assert settings("http://127.0.0.1:1", tmp_path, ncbi_api_key=KEY).requests(Source.PUBMED) == 10


def test_nothing_is_called_unless_it_is_named(services: Loopback, tmp_path: Path) -> None:
    online = OnlineKnowledge(settings(services.url, tmp_path, online_sources=""))
    found = ask(online.pathways_of("STAT1"))
    assert found.value == pathways_of("STAT1", ("reactome",))
    assert (found.source, found.missing) == ("snapshot", ("reactome: not switched on",))
    processes = ask(online.processes_of("STAT1"))
    assert processes.value
    assert processes.missing[0] == "uniprot: not switched on"
    assert ask(online.literature("x")).value is None
    assert services.calls == []


def test_what_a_service_does_not_know_is_answered_by_the_snapshot(services: Loopback, tmp_path: Path) -> None:
    online = OnlineKnowledge(settings(services.url, tmp_path))
    gene = ask(online.gene("NOSUCHGENE"))
    assert (gene.value, gene.missing) == (None, ("ensembl: knows nothing of it",))
    found = ask(online.pathways_of("IFNG"))
    assert found.value == pathways_of("IFNG", ("reactome",))
    assert found.missing == ("reactome: knows nothing of it",)


@pytest.mark.parametrize("gene", ["", "a b", "STAT1) OR (x", "../../etc", "STAT1?x=1", "x" * 60])
def test_what_is_no_symbol_is_not_sent(services: Loopback, tmp_path: Path, gene: str) -> None:
    found = ask(OnlineKnowledge(settings(services.url, tmp_path)).protein(gene))
    assert found.value is None
    assert "nothing was sent" in found.missing[0]
    assert services.calls == []


@pytest.mark.parametrize("asked", ["7", formatdate(time() + 86_400, usegmt=True)], ids=["seconds", "date"])
def test_a_pause_that_is_asked_for_is_kept(tmp_path: Path, asked: str) -> None:
    clock = Clock()
    with serve(replies(Reply("", 429, {"Retry-After": asked}), Reply("{}"))) as loopback:
        assert get(client(loopback.url, tmp_path, clock, online_max_wait_s=90_000)) == {}
    assert len(loopback.calls) == 2
    assert clock.slept == [pytest.approx(7.0)] if asked == "7" else clock.slept[0] > 70_000


@pytest.mark.parametrize(
    ("reply", "changes", "complaint", "calls"),
    [
        (Reply("", 500), {}, "answered 500, 3 times", 3),
        (Reply("", 403), {}, "status 403", 1),
        (Reply("", 302, {"Location": "/elsewhere"}), {}, "302", 1),
        (Reply("", 429, {"Retry-After": "3600"}), {}, "3600", 1),
        (Reply("{}", delay_s=0.6), {"online_timeout_s": 0.1, "online_retries": 0}, "timed out", 1),
    ],
)
def test_a_call_that_cannot_succeed_is_given_up(tmp_path, reply, changes, complaint, calls):
    clock = Clock()
    with serve(replies(reply)) as loopback, pytest.raises(ExternalAPIError, match=complaint):
        get(client(loopback.url, tmp_path, clock, **changes))
    assert len(loopback.calls) == calls
    assert len(clock.slept) == calls - 1


def test_failures_are_repeated_with_growing_pauses(tmp_path: Path) -> None:
    clock = Clock()
    with serve(replies(Reply("", 500), Reply("", 502), Reply('{"a": 1}'))) as loopback:
        assert get(client(loopback.url, tmp_path, clock, online_wait_s=4.0)) == {"a": 1}
    assert len(loopback.calls) == 3
    assert 2 <= clock.slept[0] <= 4
    assert 4 <= clock.slept[1] <= 8


def test_nobody_there_is_said_so(tmp_path: Path) -> None:
    with serve(usual) as loopback:
        url = loopback.url
    with pytest.raises(ExternalAPIError, match="can't be reached"):
        get(client(url, tmp_path, Clock(), online_retries=0))


@pytest.mark.parametrize("body", ["<html>busy</html>", "", '{"a":', "\ufeff"])
def test_an_answer_that_is_not_json_is_asked_again_and_not_kept(tmp_path: Path, body: str) -> None:
    clock = Clock()
    with serve(replies(Reply(body), Reply('{"a": 1}'))) as loopback:
        one = client(loopback.url, tmp_path, clock)
        assert get(one) == {"a": 1}
        assert get(one) == {"a": 1}
    assert len(loopback.calls) == 2


def test_an_answer_of_another_form_falls_back_to_the_snapshot(tmp_path: Path) -> None:
    clock = Clock()
    with serve(replies(Reply('{"error": "API rate limit exceeded", "count": "4"}'))) as loopback:
        online = OnlineKnowledge(settings(loopback.url, tmp_path), sleep=clock.sleep, limit=RateLimit(1000, 1.0, clock))
        literature = ask(online.literature("x"))
        pathways = ask(online.gene("STAT1"))
    assert literature.value is None
    assert "another form" in literature.missing[0]
    assert "another form" in pathways.missing[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_service_that_keeps_failing_is_left_alone_and_tried_again(tmp_path: Path) -> None:
    clock = Clock()
    well = [False]

    def responder(_call: Call, _number: int) -> Reply:
        return Reply("{}") if well[0] else Reply("", 500)

    with serve(responder) as loopback:
        one = client(loopback.url, tmp_path, clock, online_retries=0)
        for _ in range(2):
            with pytest.raises(ExternalAPIError, match="answered 500"):
                get(one)
        with pytest.raises(ExternalAPIError, match="left alone"):
            get(one)
        assert len(loopback.calls) == 2
        clock.now += 61
        with pytest.raises(ExternalAPIError, match="answered 500"):
            get(one)
        with pytest.raises(ExternalAPIError, match="left alone"):
            get(one)
        clock.now += 61
        well[0] = True
        assert get(one) == {}
        assert get(one, "y") == {}


def test_an_answer_is_kept_until_it_expires(tmp_path: Path) -> None:
    clock = Clock()
    cache, day = FileCache(tmp_path, clock), 86_400
    with serve(lambda _call, number: Reply(json.dumps(number))) as loopback:
        one = ServiceClient(Source.UNIPROT, settings(loopback.url, tmp_path, online_cache_days=1), cache=cache)
        assert [get(one), get(one)] == [0, 0]
        clock.now += day - 1
        assert get(one) == 0
        clock.now += 2
        assert get(one) == 1
        assert get(one, "other") == 2


def test_a_damaged_cache_is_asked_anew(tmp_path: Path) -> None:
    with serve(lambda _call, number: Reply(json.dumps(number))) as loopback:
        one = ServiceClient(Source.UNIPROT, settings(loopback.url, tmp_path))
        assert get(one) == 0
        cache = FileCache(tmp_path / "online" / "uniprot")
        (path,) = cache.files()
        path.write_text("{")
        assert get(one) == 1
        cache.put(path.name, b"{")
        assert get(one) == 2


def test_kegg_is_never_stored(services: Loopback, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    online = OnlineKnowledge(settings(services.url, tmp_path))
    assert ask(online.kegg_pathways_of("STAT1")).value
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "academic" in caplog.text


def test_kegg_is_refused_without_its_own_switch() -> None:
    with pytest.raises(ConfigurationError, match="academic"):
        load_online_settings(online_sources="kegg")


def test_a_source_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"reactome, uniprot, pubmed"):
        load_online_settings(online_sources="reactom")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://user:secret@host", "reactome.org", "http://host/?q=1"])
def test_an_address_must_be_a_plain_one(url: str) -> None:
    with pytest.raises(ConfigurationError, match="plain http address"):
        load_online_settings(online_urls={"reactome": url})


def test_sources_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCA_ONLINE_SOURCES", " Reactome, pubmed,")
    monkeypatch.setenv("GCA_ONLINE_URLS", '{"reactome": "http://127.0.0.1:9/"}')
    chosen = load_online_settings()
    assert chosen.online_sources == (Source.REACTOME, Source.PUBMED)
    assert chosen.base_url(Source.REACTOME) == "http://127.0.0.1:9"
    assert chosen.base_url(Source.PUBMED).startswith("https://eutils.ncbi.nlm.nih.gov")


def test_questions_can_be_put_from_inside_an_event_loop(services: Loopback, tmp_path: Path) -> None:
    online = OnlineKnowledge(settings(services.url, tmp_path))

    async def inside() -> str:
        return ask(online.gene("STAT1")).source

    assert asyncio.run(inside()) == "ensembl"


def test_limits_are_shared_within_a_process_for_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCA_ONLINE_SOURCES", "pubmed")
    first = shared_online()
    assert shared_online() is first
    monkeypatch.setenv("GCA_NCBI_API_KEY", KEY)
    second = shared_online()
    assert second is not first
    assert second.settings.requests(Source.PUBMED) == 10


def test_calls_are_spread_over_the_window() -> None:
    clock = Clock()
    limit = RateLimit(2, 10.0, clock)
    assert [limit.reserve() for _ in range(5)] == [0.0, 0.0, 10.0, 10.0, 20.0]
    clock.now += 25
    assert [limit.reserve() for _ in range(2)] == [0.0, 5.0]
    clock.now += 100
    assert limit.reserve() == 0.0


def test_a_limit_is_kept_between_calls(tmp_path: Path) -> None:
    clock = Clock()
    with serve(lambda _call, number: Reply(json.dumps(number))) as loopback:
        one = ServiceClient(
            Source.UNIPROT, settings(loopback.url, tmp_path), limit=RateLimit(1, 2.0, clock), sleep=clock.sleep
        )
        for path in "abc":
            get(one, path)
    assert clock.slept == [2.0, 2.0]
