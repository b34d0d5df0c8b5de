"""The tools over a real atlas, and the real OpenAI client that calls them against a server on this machine."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gca_core.cli.haystack.run import app
from gca_core.config import Settings
from gca_core.errors import QueryParsingError
from gca_core.haystack import steps
from gca_core.haystack.agent.tools import TOOL_NAMES, make_tools, read_only
from gca_core.haystack.context import HaystackContext, open_context
from gca_core.haystack.demo.kang2018 import DemoFiles, prepare_demo
from gca_core.haystack.models import IterationConfig, Strategy
from gca_core.llm.models import parse_model
from tests.helpers.knowledge_loopback import Call, Reply, serve, usual
from tests.helpers.llm_loopback import Answer, LoopbackServer, Request, Responder

QUESTION = "How would CD14+ monocytes respond to interferon beta?"
CONFIG = IterationConfig(candidates_per_iteration=6)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def own_settings(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings.model_copy(update={"results_uri": tmp_path_factory.mktemp("tools").as_uri()})


@pytest.fixture(scope="module")
def context(own_settings: Settings, embedded_dsn: str) -> HaystackContext:
    return open_context(own_settings, dsn=embedded_dsn)


@pytest.fixture(scope="module")
def demo(context: HaystackContext, own_settings: Settings) -> DemoFiles:
    return prepare_demo(steps.understand(QUESTION, context), context, own_settings)


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


# a model that calls tools


@pytest.fixture
def model(context, monkeypatch):
    """A context whose model is a server that answers as told."""
    monkeypatch.setenv("GCA_LLM_API_KEY", "sk-secret")
    with ExitStack() as stack:

        def start(respond: Responder) -> tuple[HaystackContext, LoopbackServer]:
            server = stack.enter_context(LoopbackServer(respond).running())
            named = parse_model(f"openai-compatible:some-model@{server.url}")
            return replace(context, language_model=named), server

        yield start


def tool_result(request: Request) -> dict[str, Any]:
    """What the last tool said."""
    found: dict[str, Any] = json.loads([m for m in request.body["messages"] if m["role"] == "tool"][-1]["content"])
    return found


def test_a_model_proposes_through_the_tools(model, demo: DemoFiles) -> None:
    def respond(request: Request, number: int) -> Answer:
        if number == 1:
            return Answer(tool_calls=(("search_cells_by_cell_type", {"cell_type": "dendritic cell"}),))
        ids = [group["group_id"] for group in tool_result(request)["groups"]]
        prompts = [
            {"group_ids": ids, "rationale": "dendritic cells are near"},
            {"group_ids": ["g-ffffffffffff"], "rationale": "invented"},
        ]
        return Answer(json.dumps({"prompts": prompts}))

    context, server = model(respond)
    query = steps.understand(QUESTION, context, dataset=demo.dataset)
    proposal = steps.suggest(query, CONFIG, context)
    chosen = [c for c in proposal.candidates if Strategy.MODEL in c.strategies]
    assert len(chosen) == 1
    assert chosen[0].cell_types == ("dendritic cell",)
    assert chosen[0].relevance < 1
    assert "openai-compatible:some-model: dendritic cells are near" in chosen[0].rationale
    assert any("refused" in note and "g-ffffffffffff" in note for note in proposal.notes)
    assert {t["function"]["name"] for t in server.requests[0].body["tools"]} == set(TOOL_NAMES)
    assert server.requests[0].body["temperature"] == 0.7
    assert len(server.requests) == 2


def test_a_model_that_never_answers_is_left_after_its_calls(model, demo: DemoFiles) -> None:
    def respond(request: Request, number: int) -> Answer:
        return Answer(tool_calls=(("resolve_cell_type", {"text": "B cells"}), ("no_such_tool", {})))

    context, server = model(respond)
    query = steps.understand(QUESTION, context, dataset=demo.dataset)
    proposal = steps.suggest(query, CONFIG.model_copy(update={"max_model_calls": 3}), context)
    rules = steps.suggest(query, CONFIG.model_copy(update={"max_model_calls": 0}), context)
    assert len(server.requests) == 3
    assert [c.candidate_id for c in proposal.candidates] == [c.candidate_id for c in rules.candidates]
    assert any("the rules chose alone" in note for note in proposal.notes)
    assert "there is no tool 'no_such_tool'" in server.requests[1].raw
    assert "No further tools" in server.requests[2].raw


def test_a_provider_that_fails_leaves_the_rules_result(model, demo: DemoFiles) -> None:
    context, _ = model(lambda *_: Answer("no", status=401))
    query = steps.understand(QUESTION, context, dataset=demo.dataset)
    proposal = steps.suggest(query, CONFIG, context)
    assert proposal.candidates
    assert any("HTTP 401" in note for note in proposal.notes)
    assert "sk-secret" not in " ".join(proposal.notes)


def test_a_model_reads_what_the_rules_cant(model) -> None:
    question = "How do Browicz-Kupfer cells take dexamethasone?"

    def respond(request: Request, number: int) -> Answer:
        if number == 1:
            return Answer(tool_calls=(("resolve_cell_type", {"text": "Kupffer cell"}),))
        found = tool_result(request)
        return Answer(json.dumps({"cell_type_id": found["cell_type_id"], "perturbation": "dexamethasone"}))

    context, server = model(respond)
    query = steps.understand(question, context)
    assert (query.cell_type, query.perturbation) == ("Kupffer cell", "dexamethasone")
    assert query.reader == "openai-compatible:some-model"
    assert "the rules could not read" in query.ambiguities[0]
    assert f"<question>{question}</question>" in server.requests[0].raw


@pytest.mark.parametrize(
    "answer",
    [
        {"cell_type_id": "CL:9999999", "perturbation": "dexamethasone"},
        {"cell_type_id": "CL:0000091", "perturbation": "foobarumab"},
        {"cell_type_id": "", "perturbation": "", "doubt": "unclear"},
        {"unexpected": []},
    ],
)
def test_a_reading_that_does_not_hold_leaves_the_refusal(model, answer: dict[str, str]) -> None:
    context, _ = model(lambda *_: Answer(json.dumps(answer)))
    with pytest.raises(QueryParsingError) as caught:
        steps.understand("How do zorblax cells take dexamethasone?", context)
    assert caught.value.reason == "unknown_cell_type"


@pytest.mark.parametrize(
    "question", ["", "mouse monocytes with LPS", "monocytes treated with an IL-6 inhibitor", QUESTION]
)
def test_the_model_is_not_asked_where_rules_decide(model, question: str) -> None:
    context, server = model(lambda *_: Answer("{}"))
    try:
        steps.understand(question, context)
    except QueryParsingError as error:
        assert error.reason in {"empty", "species", "blocking"}
    assert server.requests == []


def test_a_step_that_is_repeated_proposes_the_same(model, demo: DemoFiles, tmp_path: Path) -> None:
    def respond(request: Request, number: int) -> Answer:
        if number % 2:
            return Answer(tool_calls=(("find_ontology_related_cells", {"cell_type": "CL:0002057", "max_distance": 9}),))
        ids = [group["group_id"] for group in tool_result(request)["groups"]]
        return Answer(json.dumps({"prompts": [{"group_ids": ids[: 1 + number // 2], "rationale": "near"}]}))

    context, server = model(respond)
    query = steps.understand(QUESTION, context, dataset=demo.dataset)
    state = steps.start_run(query, run_id="with-model", results_uri=tmp_path.as_uri(), config=CONFIG, context=context)
    jobs = steps.propose(state, 0, context)
    assert jobs == steps.propose(state, 0, context)
    assert len(server.requests) == 2
    proposal = steps.read_proposal(steps.load_run(state), 0)
    assert any(Strategy.MODEL in c.strategies for c in proposal.candidates)


def test_a_run_says_which_model_had_a_say(model, demo: DemoFiles, tmp_path: Path) -> None:
    context, _ = model(lambda *_: Answer("{}"))
    assert context.provenance(CONFIG).language_model == "openai-compatible:some-model"
    assert context.provenance(CONFIG.model_copy(update={"max_model_calls": 0})).language_model is None


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
