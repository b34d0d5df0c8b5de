import json
from pathlib import Path

import pytest

from gca_core.grounding.literature import search_literature
from gca_core.grounding.models import GeneEvidence
from gca_core.knowledge.online.lookups import OnlineKnowledge
from gca_core.knowledge.online.settings import load_online_settings
from tests.helpers.knowledge_loopback import Call, Reply, serve

GENES = [("ISG15", "up"), ("FOS", "up"), ("NOBODY1", "down")]


def counts(call: Call, number: int) -> Reply:
    query = call.fields["term"]
    told = {"ISG15": (90, 30, 12, 1), "FOS": (10, 0, 1, 6)}.get(next((g for g, _ in GENES if g in query), ""), (0,) * 4)
    kind = 2 if "induced" in query else 3 if "suppressed" in query else 1 if "monocyte" in query else 0
    return Reply(json.dumps({"esearchresult": {"count": str(told[kind]), "idlist": []}}))


def online(tmp_path: Path, url: str, **options: object) -> OnlineKnowledge:
    given = {"online_sources": ("pubmed",), "online_retries": 0, "ncbi_api_key": "k", **options}
    return OnlineKnowledge(load_online_settings(online_urls={"pubmed": url}, cache_dir=tmp_path, **given))


def test_counts_by_gene_are_asked_once_and_kept(tmp_path: Path) -> None:
    names = ['interferon beta "OR 1"[All]', "IFNB1"]
    with serve(counts) as pubmed:
        found = search_literature(GENES, names, "monocyte", online(tmp_path, pubmed.url))
        asked = len(pubmed.calls)
        again = search_literature(GENES, names, "monocyte", online(tmp_path, pubmed.url))
        assert len(pubmed.calls) == asked == 9
    assert (again.evidence, again.reason) == (found.evidence, found.reason)
    assert (found.answers, found.answers_cached, again.answers, again.answers_cached) == (9, 0, 9, 9)
    fields = {"publications": 90, "in_cell_type": 30, "supporting": 12, "contradicting": 1}
    assert found.evidence[0] == GeneEvidence(gene="ISG15", direction="up", **fields)
    assert found.evidence[2] == GeneEvidence(gene="NOBODY1", direction="down")
    values = [evidence.value for evidence in found.evidence]
    assert values[0] == pytest.approx(120 / 125)
    assert values[1] < values[2] == 0
    # nothing in a name becomes an operator or a field
    assert '"interferon beta OR 1 All"[Title/Abstract]' in pubmed.calls[0].fields["term"]


@pytest.mark.parametrize(
    ("options", "names", "reason"),
    [
        ({"online_sources": ()}, ["IFNB1"], "not switched on"),
        ({}, [], "names of the atlas alone are not sent"),
    ],
)
def test_nothing_is_sent_unless_it_may_be(tmp_path: Path, options, names, reason) -> None:
    with serve(counts) as pubmed:
        found = search_literature(GENES, names, "monocyte", online(tmp_path, pubmed.url, **options))
    assert reason in found.reason
    assert (pubmed.calls, found.evidence) == ([], ())


def test_a_service_that_fails_or_knows_nothing_leaves_the_part_unknown(tmp_path: Path) -> None:
    with serve(lambda *_: Reply(status=500)) as pubmed:
        failed = search_literature(GENES, ["IFNB1"], "monocyte", online(tmp_path, pubmed.url))
    assert "did not answer" in failed.reason
    with serve(counts) as pubmed:
        silent = search_literature(GENES[2:], ["IFNB1"], "monocyte", online(tmp_path, pubmed.url))
    assert "names none of 1 genes" in silent.reason
