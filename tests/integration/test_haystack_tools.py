"""The tools over a real atlas, and the real OpenAI client that calls them against a server on this machine."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from gca_core.cli.haystack.run import app
from gca_core.haystack import steps
from gca_core.haystack.agent.tools import TOOL_NAMES, make_tools, read_only
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.demo.kang2018 import DemoFiles
from gca_core.haystack.models import IterationConfig
from tests.helpers.knowledge_loopback import Call, Reply, serve, usual

QUESTION = "How would CD14+ monocytes respond to interferon beta?"
CONFIG = IterationConfig(candidates_per_iteration=6)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


CallTool = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def call(context: HaystackContext, demo: DemoFiles) -> CallTool:
    """Calls a tool by name."""
    tools = {tool.name: tool for tool in make_tools(read_only(context), dataset=demo.dataset)}

    def run(name: str, **arguments: Any) -> dict[str, Any]:
        value = tools[name].invoke(arguments)
        found: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
        assert json.loads(json.dumps(found)) == found
        return found

    return run


def test_the_tools_have_the_names_of_the_specification(context: HaystackContext) -> None:
    tools = make_tools(context)
    assert tuple(tool.name for tool in tools) == TOOL_NAMES
    assert len(TOOL_NAMES) == 12
    assert all(tool.description and tool.args for tool in tools)
    limits = [tool.args["limit"] for tool in tools if "limit" in tool.args]
    assert limits
    assert all(limit["maximum"] <= 50 for limit in limits)


def test_names_are_resolved(call: CallTool) -> None:
    assert call("resolve_cell_type", text="CD14+ monocytes")["cell_type_id"] == "CL:0002057"
    found = call("resolve_perturbation", text="IFN-b")
    assert (found["perturbation"], found["family"]) == ("interferon beta", "type I interferon")
    assert "STAT1 up" in found["targets"] + found["response"]
    assert call("resolve_perturbation", text="TGF-beta")["may_also_mean"]
    assert call("resolve_perturbation", text="STAT1 knockout")["type"] == "genetic"


def test_cells_are_found_by_perturbation_and_by_type(call: CallTool) -> None:
    everywhere = call("search_cells_by_perturbation", perturbation="IFN-beta")
    assert {group["perturbation"] for group in everywhere["groups"]} == {"interferon beta"}
    assert "CL:0002057" not in {group["cell_type_id"] for group in everywhere["groups"]}
    in_b = call("search_cells_by_perturbation", perturbation="IFN-beta", cell_type="B cells")
    assert {group["cell_type_id"] for group in in_b["groups"]} == {"CL:0000236"}
    controls = call("search_cells_by_cell_type", cell_type="CD14+ monocytes", perturbed=False)
    assert controls["total"] == len(controls["groups"]) > 0
    assert call("search_cells_by_cell_type", cell_type="CD14+ monocytes")["total"] == 0


def test_results_are_bounded(call: CallTool) -> None:
    few = call("search_cells_by_perturbation", perturbation="interferon beta", limit=1)
    assert len(few["groups"]) == 1
    assert few["truncated"]
    assert "don't fit" in call("search_cells_by_perturbation", perturbation="interferon beta", limit=51)["error"]
    assert "don't fit" in call("search_cells_by_cell_type", cell_type="B" * 1000)["error"]


def test_cells_are_found_by_meaning_of_names_and_by_ontology(call: CallTool) -> None:
    hits = call("semantic_search_cells", text="interferon beta in B cells")["groups"]
    assert hits[0]["cell_type_id"] == "CL:0000236"
    assert [h["similarity"] for h in hits] == sorted((h["similarity"] for h in hits), reverse=True)
    related = call("find_ontology_related_cells", cell_type="CD14+ monocytes", max_distance=2)["groups"]
    assert {group["cell_type_id"] for group in related} == {"CL:0002396"}
    assert {group["relevance"] for group in related} == {round(1 / 3, 3)}
    further = call("find_ontology_related_cells", cell_type="CD14+ monocytes", max_distance=9)["groups"]
    assert [g["distance"] for g in further] == sorted(g["distance"] for g in further)


def test_knowledge_is_signed(call: CallTool) -> None:
    assert {"JAK1 down", "JAK2 down"} <= set(call("get_drug_targets", perturbation="ruxolitinib")["targets"])
    similar = call("find_mechanistically_similar_perturbations", perturbation="interferon beta", in_atlas=False)
    assert "interferon alpha" in {row["perturbation"] for row in similar["similar"]}
    assert all(row["similarity"] > 0 for row in similar["similar"])
    opposed = call(
        "find_mechanistically_similar_perturbations", perturbation="interferon beta", in_atlas=False, limit=50
    )["opposed"]
    assert "ruxolitinib" in {row["perturbation"] for row in opposed}


def test_pathways_of_genes_and_of_perturbations(call: CallTool) -> None:
    pathways = {row["pathway"] for row in call("get_pathway_memberships", gene="isg15", limit=50)["pathways"]}
    assert "HALLMARK_INTERFERON_ALPHA_RESPONSE" in pathways
    priors = call("get_pathway_priors", perturbation="interferon beta")["pathways"]
    assert {
        "pathway": "HALLMARK_INTERFERON_ALPHA_RESPONSE",
        "direction": "up",
        "prior": 1.0,
        "why": "expected",
    } in priors
    assert all(0 < row["prior"] <= 1 for row in priors)


def test_prompts_are_ranked_as_the_rules_rank_them(call: CallTool, context: HaystackContext, demo: DemoFiles) -> None:
    ranked = call("rank_prompt_candidates", cell_type="CD14+ monocytes", perturbation="interferon beta")["candidates"]
    query = steps.understand(QUESTION, context, dataset=demo.dataset)
    expected = steps.suggest(query, IterationConfig(candidates_per_iteration=10), context).candidates
    assert [set(c["group_ids"]) for c in ranked] == [set(c.cell_group_ids) for c in expected]
    b_cells = [g["group_id"] for g in call("search_cells_by_cell_type", cell_type="B cells")["groups"]]
    controls = [
        g["group_id"] for g in call("search_cells_by_cell_type", cell_type="B cells", perturbed=False)["groups"]
    ]
    mine = call(
        "rank_prompt_candidates", cell_type="CD14+ monocytes", perturbation="interferon beta",
        candidates=[b_cells, controls, ["g-000000000000"]],
    )  # fmt: skip
    assert [set(c["group_ids"]) for c in mine["candidates"]] == [set(b_cells)]
    assert [fault for fault in mine["refused"] if "control itself" in fault]
    assert [fault for fault in mine["refused"] if "no groups" in fault]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resolve_cell_type", {"text": "zorblax"}, "not known to the Cell Ontology"),
        ("resolve_perturbation", {"text": "'; drop table cells; --"}, "is not known"),
        ("get_pathway_memberships", {"gene": "NOTAGENE"}, "no gene symbol"),
        ("search_cells_by_perturbation", {"perturbation": "foobarumab"}, "is not known"),
        ("rank_prompt_candidates", {"cell_type": "hepatocyte", "perturbation": "IL-6"}, "no control cells"),
        ("search_literature", {"query": "interferon"}, "literature search is off"),
    ],
)
def test_what_cant_be_done_is_said_as_a_value(call, name, arguments, message):
    assert message in call(name, **arguments)["error"]


def test_literature_is_passed_on_and_bounded_where_it_is_on(context: HaystackContext) -> None:
    def literature(query: str, limit: int) -> list[dict[str, str]]:
        return [{"title": "x" * 1000, "asked": query}] * 9

    tool = {t.name: t for t in make_tools(context, literature=literature)}["search_literature"]
    found = tool.invoke({"query": "interferon", "limit": 2})
    assert len(found["publications"]) == 2
    assert len(found["publications"][0]["title"]) < 700


@pytest.mark.parametrize("status", [200, 500])
def test_pubmed_is_asked_only_where_it_is_switched_on(context, monkeypatch, tmp_path, status):
    tool = {t.name: t for t in make_tools(context)}["search_literature"]

    def answer(called: Call, number: int) -> Reply:
        return replace(usual(called, number), status=status)

    with serve(answer) as pubmed:
        monkeypatch.setenv("GCA_ONLINE_URLS", json.dumps({"pubmed": pubmed.url}))
        assert "switch PubMed on" in tool.invoke({"query": "interferon monocyte"})["error"]
        for name, value in {"SOURCES": "pubmed", "RETRIES": "0", "CACHE_DAYS": "0"}.items():
            monkeypatch.setenv(f"GCA_ONLINE_{name}", value)
        monkeypatch.setenv("GCA_CACHE_DIR", str(tmp_path))
        assert pubmed.calls == []
        found = tool.invoke({"query": "interferon monocyte"})
    if status == 200:
        assert [row["title"] for row in found["publications"]] == ["A title with markup."]
    else:
        assert "can't be searched" in found["error"]


def test_the_tools_can_only_read(context: HaystackContext, demo: DemoFiles) -> None:
    reader = read_only(context)
    assert reader.run_store is None
    with psycopg.connect(reader.require_atlas().dsn) as connection, pytest.raises(psycopg.Error):
        connection.execute("delete from cell_groups")


def test_the_command_proposes(demo, own_settings, monkeypatch, capsys):
    monkeypatch.setenv("GCA_HOME", str(own_settings.home))
    arguments = ["propose", QUESTION, "--dataset", demo.dataset, "--json"]
    with pytest.raises(SystemExit) as done:
        app(arguments)
    assert done.value.code == 0
    value = json.loads(capsys.readouterr().out)
    first = value["proposal"]["candidates"][0]
    assert value["query"]["cell_type_id"] == "CL:0002057"
    assert [c["strategies"] for c in value["proposal"]["candidates"]] == [["reference"], ["direct", "ontology"]]
    assert first["rationale"]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("How would hepatocytes respond to IL-6?", "nothing_in_the_atlas"),
        ("B cells with foobarumab", "unknown_perturbation"),
    ],
)
def test_what_cant_be_proposed_is_json_with_exit_code_2(demo, own_settings, monkeypatch, capsys, question, reason):
    monkeypatch.setenv("GCA_HOME", str(own_settings.home))
    with pytest.raises(SystemExit) as done:
        app(["propose", question, "--dataset", demo.dataset, "--json"])
    assert done.value.code == 2
    assert json.loads(capsys.readouterr().out)["reason"] == reason
