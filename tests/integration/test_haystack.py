"""A whole run on the bundled Kang 2018 data with the answer put aside, on a real PostgreSQL."""

import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from gca_core import io
from gca_core.cli.haystack.run import app
from gca_core.config import Settings
from gca_core.errors import (
    CellRetrievalError,
    ConfigurationError,
    DataValidationError,
    EvaluationError,
    InferenceError,
    StoreError,
)
from gca_core.haystack import steps
from gca_core.haystack.context import HaystackContext, open_context
from gca_core.haystack.demo.kang2018 import DemoFiles, prepare_demo
from gca_core.haystack.models import (
    EvaluationStatus,
    HaystackOutputs,
    IterationConfig,
    StructuredQuery,
    TerminationReason,
    Verdict,
)
from gca_core.haystack.reference import reference_for
from gca_core.haystack.results.digest import read_digest
from gca_core.haystack.run import infer, run_haystack
from gca_core.inference.models import InferenceResult, InferenceStatus
from gca_core.matrix.compare import log_fold_change, pearson
from gca_core.runs.models import RunPhase, RunStatus
from gca_core.runs.state import StateRef

QUESTION = "How would CD14+ monocytes respond to interferon beta?"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("haystack")


@pytest.fixture(scope="module")
def own_settings(settings: Settings, results: Path) -> Settings:
    return settings.model_copy(update={"results_uri": results.as_uri()})


@pytest.fixture(scope="module")
def context(own_settings: Settings, embedded_dsn: str) -> HaystackContext:
    return open_context(own_settings, dsn=embedded_dsn)


@pytest.fixture(scope="module")
def demo(context: HaystackContext, own_settings: Settings) -> DemoFiles:
    return prepare_demo(steps.understand(QUESTION, context), context, own_settings)


RunIt = Callable[..., HaystackOutputs]


@pytest.fixture(scope="module")
def run_it(context: HaystackContext, own_settings: Settings, demo: DemoFiles, results: Path) -> RunIt:
    def run(name: str, **options: object) -> HaystackOutputs:
        return run_haystack(
            QUESTION,
            config=IterationConfig.model_validate(options),
            settings=own_settings,
            run_id=name,
            results_uri=(results / name).as_uri(),
            dataset=demo.dataset,
            context=context,
        )

    return run


@pytest.fixture(scope="module")
def default_run(run_it: RunIt) -> HaystackOutputs:
    return run_it("default")


@pytest.fixture(scope="module")
def long_run(run_it: RunIt) -> HaystackOutputs:
    return run_it("long", score_threshold=9.9, max_iterations=3)


def last_state(outputs: HaystackOutputs) -> StateRef:
    uri = outputs.state_uri
    return StateRef(uri=uri, sha256=io.sha256_file(uri), iteration=outputs.n_iterations)


def test_the_withheld_response_is_predicted(default_run: HaystackOutputs, demo: DemoFiles) -> None:
    truth = demo.compare(default_run.h5ad_uri)
    assert truth.pearson_lfc >= 0.85
    assert truth.de_overlap_50 >= 0.60
    assert truth.n_genes == 5500


def test_the_atlas_says_what_it_expects_and_how_sure_that_is(default_run, context, demo, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("GCA_CACHE_DIR", str(tmp_path))
    atlas, found, _ = reference_for(steps.understand(QUESTION, context, dataset=demo.dataset), context)
    with io.local_copy(demo.truth_uri) as truth, io.local_copy(demo.control_uri) as control:
        measured = log_fold_change(*(ad.read_h5ad(path)[:, atlas.genes].X for path in (truth, control)))
    reached = pearson(found.change, measured)
    assert reached > pearson(atlas.reference.data.responses.mean(axis=0), measured) + 0.03
    assert found.forecast is not None and found.forecast.n_pairs == 7
    assert abs(found.forecast.pearson.value - reached) < 0.1
    assert default_run.forecast == found.forecast
    log = json.loads(io.read_text(default_run.json_uri))["canonical"]["reference"]
    assert log["pearson_with_prediction"] > 0.8 and log["contributions"][0]["cell_type"].startswith(
        "CD14-low, CD16-positive"
    )
    page = io.read_text(default_run.html_uri)
    assert str(found.forecast) in page
    # what is expected of the chosen prediction was learned on the other types, and the truth lies within it
    assert default_run.verdict is Verdict.GROUNDED and default_run.expected is not None
    assert default_run.expected.low <= reached <= default_run.expected.high + 0.02
    assert log["selection"]["n_pairs"] == 7 and log["selection"]["chosen"] >= log["selection"]["by_score"]
    assert "7 pairs of your atlas, each left out" in page
    # what was fitted is kept by the atlas's content
    monkeypatch.setattr("gca_core.responses.reference.fit", lambda *_: pytest.fail("fitted twice"))
    again = reference_for(steps.understand(QUESTION, context, dataset=demo.dataset), context)[1]
    assert (again.change == found.change).all()


@pytest.mark.slow
def test_what_the_atlas_holds_is_the_answer_and_predicted_only_when_asked(context, demo, own_settings) -> None:
    def ask(**options: object) -> HaystackOutputs:
        config = IterationConfig.model_validate({"max_iterations": 1, **options})
        question = "How would B cells respond to interferon beta?"
        return run_haystack(question, config=config, settings=own_settings, dataset=demo.dataset, context=context)

    held = ask()
    assert held.termination_reason is TerminationReason.MEASURED
    assert held.h5ad_uri is None and held.n_evaluations == 0
    assert held.measured is not None and held.measured.n_groups == 1 and held.measured.agreement is None
    assert {"ISG15", "IFI6"} <= {gene.gene for gene in held.measured.top_genes[:20]}
    for uri in (held.html_uri, held.markdown_uri):
        text = io.read_text(uri)
        assert f"Already {held.measured}" in text and "Measured: your atlas holds this response." in text
    both = ask(predict_anyway=True)
    assert both.measured == held.measured and both.n_evaluations > 1 and both.h5ad_uri is not None
    # no mixture of other types is taken over the type's own cells
    tried = [e for entry in io.read_json(both.state_uri)["state"]["iterations"] for e in entry["evaluations"]]
    chosen = next(e for e in tried if e["candidate"]["candidate_id"] == both.best_candidate_id)
    assert chosen["candidate"]["cell_types"] == ["B cell"] and chosen["agreement"] > 0.95


def test_the_command_leaves_measured_pairs_out(demo, own_settings, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("GCA_HOME", str(own_settings.home))
    with pytest.raises(SystemExit) as done:
        app(["backtest", "--dataset", demo.dataset])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "7 pairs of perturbation and cell type" in shown
    assert "mean shift of other types" in shown and "nearest type" in shown and "no change" in shown
    with pytest.raises(SystemExit):
        app(["backtest", "--dataset", demo.dataset, "--json", "--report", str(tmp_path / "page.html")])
    (regime,) = json.loads(capsys.readouterr().out)
    reached = {row["answer"]: row["pearson"] for row in regime["rows"]}
    assert reached["reference"] > reached["mean shift of other types"] > 0.7
    with pytest.raises(ConfigurationError, match="is a file"):
        app(["backtest", "--report", str(tmp_path / "page.html" / "below.html")])
    page = (tmp_path / "page.html").read_text()
    assert f"{reached['reference']:.3f}" in page and "data:image/png;base64," in page


def test_the_atlas_never_held_the_answer(context: HaystackContext, demo: DemoFiles) -> None:
    held = context.require_atlas().groups(dataset=demo.dataset, is_control=False)
    assert "CL:0002057" not in {group.cell_type_id for group in held}


def test_the_default_run_stops_at_its_threshold(default_run: HaystackOutputs, context: HaystackContext) -> None:
    assert default_run.termination_reason is TerminationReason.THRESHOLD
    assert default_run.best_score >= 7.0
    row = context.require_runs().get("default")
    assert (row.status, row.phase) == (RunStatus.COMPLETED, RunPhase.OUTPUT_GENERATION)
    assert row.best_score == pytest.approx(default_run.best_score)
    assert row.termination_reason == "threshold"
    assert row.state_uri == default_run.state_uri


@pytest.mark.slow
def test_a_threshold_out_of_reach_takes_more_iterations(long_run, default_run, context, demo):
    assert long_run.n_iterations == 3
    assert long_run.termination_reason is TerminationReason.MAX_ITERATIONS
    assert long_run.n_evaluations > default_run.n_evaluations
    run = steps.load_run(last_state(long_run))
    ids = [e.candidate.candidate_id for e in run.evaluations()]
    assert len(ids) == len(set(ids))
    assert [row.iteration for row in context.require_runs().iterations("long")] == [0, 1, 2]
    assert demo.compare(long_run.h5ad_uri).pearson_lfc >= 0.85


@pytest.mark.slow
def test_the_best_iteration_is_returned(long_run: HaystackOutputs) -> None:
    run = steps.load_run(last_state(long_run))
    scores = [round(e.score or 0.0, 1) for e in run.evaluations()]
    assert round(long_run.best_score or 0.0, 1) == max(scores)
    best = run.iterations[long_run.best_iteration or 0]
    assert long_run.best_candidate_id in {e.candidate.candidate_id for e in best.evaluations}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures(run_it: RunIt, default_run: HaystackOutputs) -> None:
    again = run_it("again")
    logs = [io.read_json(each.json_uri) for each in (default_run, again)]
    assert logs[0]["canonical"] == logs[1]["canonical"] and logs[0]["particular"] != logs[1]["particular"]
    assert again.best_score == default_run.best_score
    assert again.best_candidate_id == default_run.best_candidate_id
    first, second = (ad.read_h5ad(io.as_path(o.h5ad_uri or "")) for o in (default_run, again))
    assert (first.X != second.X).nnz == 0


def test_the_results_say_what_ran(default_run: HaystackOutputs, context: HaystackContext) -> None:
    result = ad.read_h5ad(io.as_path(default_run.h5ad_uri or ""))
    assert set(result.obs["haystack"]) == {"control", "prediction"}
    assert (result.X.data == np.rint(result.X.data)).all()
    assert {"cell_id", "cell_type_query", "perturbation_query", "prompt_strategy", "iteration"} <= set(result.obs)
    scores = result.obs.groupby("haystack", observed=True)["grounding_score"].unique()
    assert scores["prediction"].tolist() == [default_run.best_score] and np.isnan(scores["control"]).all()
    assert result.uns["run_id"] == "default" and result.uns["versions"]["backend"] == "shift"
    assert StructuredQuery.model_validate_json(result.uns["query"]).question == QUESTION
    assert IterationConfig.model_validate_json(result.uns["config"]).seed == 0
    (chosen,) = result.uns["iterations"].query("chosen")["candidate_id"]
    assert chosen == default_run.best_candidate_id
    assert result.var.loc["ISG15", "is_de"]
    assert result.var.loc["ISG15", "predicted_lfc"] == pytest.approx(
        result.var.loc["ISG15", "predicted_change"] / np.log(2)
    )
    assert set(result.var_names[result.var["target_gene"]]) <= {
        "IFNAR1",
        "IFNAR2",
        "JAK1",
        "TYK2",
        "STAT1",
        "STAT2",
        "IRF9",
    }
    assert "HALLMARK_INTERFERON_ALPHA_RESPONSE" in set(result.uns["enrichment_results"]["name"])
    log = json.loads(io.read_text(default_run.json_uri))["canonical"]
    provenance = log["run"]["provenance"]
    assert provenance["knowledge_version"] == context.knowledge.version
    assert provenance["embedding_model"] == context.embedding_model
    assert provenance["seed"] == 0
    assert log["baseline"]["available"]
    html, text = io.read_text(default_run.html_uri), io.read_text(default_run.markdown_uri)
    for told in ("Grounded: the prediction shows", "Generated cells are not replicates", "mean shift of all"):
        assert told in html and told in text
    assert 'data-tip="ISG15: log2 fold change +' in html and 'class="node target"' in html
    assert "Transcription factors" not in html and "://" not in html and "src=" not in html
    digest = read_digest(default_run.json_uri)
    assert (digest.verdict, digest.grounding_score) == (default_run.verdict, default_run.best_score)
    assert digest.expected == default_run.expected and digest.headline in html
    assert digest.n_de_up > 0 and digest.pathways[0].name in html
    assert digest.top_up[0].gene in digest.de_genes_up and digest.top_up[0].change > 0
    with pytest.raises(DataValidationError, match="no log of a run"):
        read_digest(default_run.state_uri)


def test_markup_in_a_question_is_escaped(run_it, context, demo, results):
    hostile = "<script>alert(1)</script> CD14+ monocytes with interferon beta"
    query = steps.understand(hostile, context, dataset=demo.dataset)
    config = IterationConfig(max_iterations=1)
    uri = (results / "hostile").as_uri()
    state = steps.start_run(query, run_id="hostile", results_uri=uri, config=config, context=context)
    outputs = steps.finalize(state, context)
    assert "<script>alert" not in io.read_text(outputs.html_uri)
    assert outputs.h5ad_uri is None


@pytest.mark.slow
def test_a_run_that_begins_anew_forgets_what_it_did_and_one_in_its_folder_replaces_it(run_it, context, demo, results):
    outputs = run_it("twice", max_iterations=1)
    uri = (results / "twice").as_uri()
    query = steps.understand(QUESTION, context, dataset=demo.dataset)
    state = steps.start_run(query, run_id="twice", results_uri=uri, config=IterationConfig(seed=1), context=context)
    assert context.require_runs().iterations("twice") == []
    assert not io.as_path(outputs.state_uri).exists()
    steps.finalize(state, context)
    assert not io.as_path(outputs.h5ad_uri).exists()
    (results / "twice" / "my_log.json").touch()
    with pytest.raises(DataValidationError, match="holds earlier results"):
        run_haystack(QUESTION, context=context, run_id="other/1", results_uri=uri, overwrite=False)
    state = steps.start_run(query, run_id="other/1", results_uri=uri, config=IterationConfig(), context=context)
    steps.finalize(state, context)
    left = {path.name for path in (results / "twice").iterdir()}
    assert left == {
        "my_log.json",
        "work",
        *(f"{io.safe_name('other/1')}_{end}" for end in ("report.html", "report.md", "log.json")),
    }


@pytest.mark.slow
def test_of_two_identical_runs_at_once_one_wins(run_it: RunIt, context: HaystackContext, results: Path) -> None:
    def run(_: int) -> HaystackOutputs | StoreError:
        try:
            return run_it("same", max_iterations=1)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, range(2)))
    [refused] = [each for each in found if isinstance(each, StoreError)]
    [won] = [each for each in found if isinstance(each, HaystackOutputs)]
    assert f"the run same is already running (pid {os.getpid()} on " in str(refused)
    assert steps.load_run(last_state(won)).run_id == "same"
    top = {path.name for path in (results / "same").iterdir()}
    assert top == {"same_predictions.h5ad", "same_report.html", "same_report.md", "same_log.json", "work"}
    assert not [path for path in (results / "same").rglob("*") if path.stat().st_mode & stat.S_IWOTH]


def test_a_cancelled_run_stops_at_its_next_gate(context: HaystackContext, demo: DemoFiles, results: Path) -> None:
    query = steps.understand(QUESTION, context, dataset=demo.dataset)
    uri = (results / "cancelled").as_uri()
    state = steps.start_run(query, run_id="cancelled", results_uri=uri, config=IterationConfig(), context=context)
    row = context.require_runs().get("cancelled")
    context.require_runs().upsert_run(row.model_copy(update={"status": RunStatus.CANCELLED}))
    decision = steps.gate(state, 0, context)
    assert (decision.go, decision.reason) == (False, TerminationReason.CANCELLED)
    assert steps.finalize(state, context).status == "cancelled"


@pytest.mark.slow
def test_a_run_cancelled_while_it_infers_stays_cancelled(context, demo, results):
    query = steps.understand(QUESTION, context, dataset=demo.dataset)
    uri = (results / "midway").as_uri()
    config = IterationConfig(score_threshold=9.9)
    state = steps.start_run(query, run_id="midway", results_uri=uri, config=config, context=context)
    (job,) = steps.propose(state, 0, context)
    row = context.require_runs().get("midway")
    context.require_runs().upsert_run(row.model_copy(update={"status": RunStatus.CANCELLED}))
    after = steps.record(state, 0, [steps.evaluate(state, 0, r, context) for r in infer(job)], context)
    assert steps.gate(after, 1, context).reason is TerminationReason.CANCELLED


@pytest.mark.slow
def test_every_step_can_be_repeated(context: HaystackContext, demo: DemoFiles, results: Path) -> None:
    query = steps.understand(QUESTION, context, dataset=demo.dataset)
    uri = (results / "repeated").as_uri()
    config = IterationConfig(score_threshold=9.9)
    state = steps.start_run(query, run_id="repeated", results_uri=uri, config=config, context=context)
    jobs = steps.propose(state, 0, context)
    assert jobs == steps.propose(state, 0, context)
    results_of = infer(jobs[0])
    evaluations = [steps.evaluate(state, 0, result, context) for result in results_of]
    assert evaluations == [steps.evaluate(state, 0, result, context) for result in results_of]
    after = steps.record(state, 0, evaluations, context)
    assert after == steps.record(state, 0, evaluations, context)
    assert steps.gate(after, 1, context).go
    with pytest.raises(EvaluationError, match="stands after 0 iterations"):
        steps.gate(state, 1, context)
    with pytest.raises(EvaluationError, match="don't fit"):
        steps.record(state, 0, [], context)


def test_failed_inference_is_told_apart(context: HaystackContext, demo: DemoFiles, results: Path) -> None:
    query = steps.understand(QUESTION, context, dataset=demo.dataset)
    uri = (results / "failed").as_uri()
    state = steps.start_run(query, run_id="failed", results_uri=uri, config=IterationConfig(), context=context)
    asked = [request.candidate_id for job in steps.propose(state, 0, context) for request in job.requests]
    failed = {"status": InferenceStatus.FAILED, "backend": "shift", "error": "no memory"}
    results = [InferenceResult(candidate_id=candidate, **failed) for candidate in asked]
    evaluations = [steps.evaluate(state, 0, result, context) for result in results]
    assert {evaluation.status for evaluation in evaluations} == {EvaluationStatus.FAILED}
    with pytest.raises(InferenceError, match="no memory"):
        steps.record(state, 0, evaluations, context)
    row = context.require_runs().get("failed")
    assert row.status is RunStatus.FAILED


def test_what_the_atlas_lacks_is_said_before_any_inference(context, demo, own_settings, results):
    with pytest.raises(CellRetrievalError, match=r"no control cells of 'hepatocyte'.*dendritic cell"):
        run_haystack(
            "How would hepatocytes respond to interferon beta?",
            settings=own_settings,
            context=context,
            run_id="lacking",
            dataset=demo.dataset,
            results_uri=(results / "lacking").as_uri(),
        )
    assert not (results / "lacking" / "work" / "jobs").exists()
    with pytest.raises(CellRetrievalError, match="its perturbations: interferon beta"):
        run_haystack(
            "How would B cells respond to dexamethasone?",
            settings=own_settings,
            context=context,
            run_id="lacking",
            dataset=demo.dataset,
            results_uri=(results / "lacking").as_uri(),
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "stack"}, ConfigurationError, "needs a checkpoint and its gene list"),
        ({"grounding": {"gmt_uris": ["/nowhere.gmt"]}}, DataValidationError, "GMT file"),
        ({"grounding": {"regulons_uri": "/nowhere.tsv"}}, DataValidationError, "regulon table"),
    ],
)
def test_what_cant_be_used_here_stops_a_run_before_any_work(run_it, results, options, error, message) -> None:
    with pytest.raises(error, match=message):
        run_it("stopped", **options)
    assert not (results / "stopped").exists()


def test_a_database_that_is_down_is_said_at_once(tmp_path: Path, own_settings: Settings) -> None:
    with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
        open_context(own_settings, dsn="postgresql://gca_app:wrong@127.0.0.1:9/gca")
