"""The operator's own part: fields, connections, metadata, lineage and being killed; the science is the core's."""

import json
import logging
import os
import signal
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, AssetAlias
from google.oauth2.credentials import Credentials

from airflow_provider_gca.operators.annotation import AnnotateAnnDataOperator
from airflow_provider_gca.utils.failures import AirflowException, AirflowFailException
from airflow_provider_gca.utils.results import dataset_name
from gca_core.annotation.config import AnnotationConfig
from gca_core.annotation.llm.models import LlmOptions
from gca_core.errors import ConfigurationError, DataValidationError, LLMError
from gca_core.llm.models import LlmConfig

pytestmark = pytest.mark.usefixtures("airflow_home")

PLACES = {"task_id": "t", "input_uri": "in.h5ad", "output_uri": "out"}
SECRET = "sk-very-secret-97"
RESULT: dict[str, Any] = {
    "uris": {"h5ad": "gs://b/annotated.h5ad", "html": "gs://b/my report.html", "figure": "gs://b/umap.png"},
    "n_clusters": 9,
    "n_flagged": 2,
    "n_cells": 700,
    "n_genes": 765,
    "labels": {"B cell": 700},
    "agreement": {"column": "truth", "exact": 0.5, "related": 0.75, "by_label": []},
    "annotator": "offline",
    "model": None,
    "marker_database_sha256": "ab" * 32,
    "ontology_version": "v1",
    "seed": 0,
    "versions": {"numpy": "2"},
    "stats": {"request_id": "r-1"},
}
FIGURES = {
    **{name: RESULT[name] for name in ("n_clusters", "n_flagged", "n_cells", "n_genes", "annotator", "model")},
    "marker_database_sha256": "ab" * 32,
    "agreement": {"exact": 0.5, "related": 0.75},
    "request_id": "r-1",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What the core was asked for."""
    import gca_core.annotation.run
    import gca_core.annotation.validate

    found: list[SimpleNamespace] = []

    def annotate_file(config: Any, *, model: Any = None, llm_options: Any = None) -> dict[str, Any]:
        found.append(SimpleNamespace(what="annotate", config=config, model=model, options=llm_options))
        return RESULT

    def validate_file(config: Any) -> dict[str, Any]:
        found.append(SimpleNamespace(what="validate", config=config))
        return RESULT

    monkeypatch.setattr(gca_core.annotation.run, "annotate_file", annotate_file)
    monkeypatch.setattr(gca_core.annotation.validate, "validate_file", validate_file)
    return found


@pytest.fixture
def llm_connection(monkeypatch: pytest.MonkeyPatch) -> str:
    fields = {"conn_type": "gca_llm", "password": SECRET, "extra": {"provider": "openai", "model": "small"}}
    monkeypatch.setenv("AIRFLOW_CONN_MODEL", json.dumps(fields))
    return "model"


def rendered(params: dict[str, Any], **fields: Any) -> AnnotateAnnDataOperator:
    """An operator in a DAG, with its fields rendered."""
    with DAG("d", schedule=None, params=params):
        task = AnnotateAnnDataOperator(**{**PLACES, **fields})
    task.render_template_fields({"params": params})
    return task


def test_every_option_of_an_annotation_can_be_templated(asked: list[SimpleNamespace]) -> None:
    params = {
        "input_uri": "gs://b/in.h5ad",
        "output_uri": "gs://b/out",
        "cluster_key": "leiden",
        "preset": "mouse_brain",
        "species": "mouse",
        "tissue": "brain",
        "labels_key": "cell_type",
        "ontology_column": "cl",
        "marker_db": "markers.csv",
        "vocabulary": "names.csv",
        "prefix": "x_",
        "top_n_markers": 12,
        "layer": "counts",
        "corrections": "corrections.json",
        "request_id": "run:1+2",
        "min_overlap": 3,
        "force_unknown": False,
        "gene_symbols": "symbol",
        "ranking": "wilcoxon",
        "recompute_markers": False,
        "umap": False,
        "resolution": 0.5,
        "seed": 7,
        "backed": True,
        "json_report": "a.json",
        "summary_csv": "a.csv",
        "html_report": "a.html",
        "overwrite": False,
        "reference": "atlas.h5ad",
        "reference_labels": "cell_type",
        "opinion_column": "other",
        "consensus": True,
    }
    assert set(params) == set(AnnotationConfig.model_fields)
    task = rendered(params, **{name: f"{{{{ params.{name} }}}}" for name in params})
    task.execute({})
    assert asked[0].config == AnnotationConfig(**params)


@pytest.mark.parametrize("nothing", ["", "None", None])
def test_a_template_that_renders_to_nothing_leaves_the_default(asked: list[SimpleNamespace], nothing: Any) -> None:
    names = AnnotationConfig.model_fields.keys() - {"input_uri", "output_uri"}
    llm = {"chunk_size": "{{ params.x }}", "budget": {"max_tokens": "{{ params.x }}"}}
    flags = {"validate_only": "{{ params.x }}", "offline": "{{ params.x }}"}
    fields = dict.fromkeys(names, "{{ params.x }}")
    task = rendered({"x": nothing}, **fields, **flags, llm_options=llm, gcp_conn_id="{{ params.x }}")
    task.execute({})
    assert asked[0].config == AnnotationConfig(input_uri="in.h5ad", output_uri="out")
    assert asked[0].options == LlmOptions()


def test_how_a_model_is_asked_can_be_templated(asked: list[SimpleNamespace], llm_connection: str) -> None:
    llm = {"chunk_size": "{{ params.n }}", "budget": {"max_cost": "{{ params.cost }}"}, "use_cache": "{{ params.c }}"}
    llm |= {"prices": {"openai:small": {"input_per_million": "{{ params.cost }}", "output_per_million": 2}}}
    params = {"n": 5, "cost": 0.5, "c": False, "id": llm_connection}
    rendered(params, llm_options=llm, gca_llm_conn_id="{{ params.id }}").execute({})
    options = asked[0].options
    assert (options.chunk_size, options.budget.max_cost, options.use_cache) == (5, 0.5, False)
    assert options.prices["openai:small"].input_per_million == 0.5


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"input_uri": " "}, "input_uri has to be a text"),
        ({"top_n_markers": 4}, "top_n_markers: Input should be greater than or equal to 5"),
        ({"ranking": "best"}, "ranking: Input should be"),
        ({"llm_options": "seed=1"}, "llm_options has to be a mapping, found str"),
        ({"preset": "human_pbmc", "species": "mouse"}, "the preset human_pbmc means species 'human'"),
        ({"recompute_markers": False}, "name their column as cluster_key"),
        ({"llm_options": {"chunk": 3}}, "llm_options: chunk: Extra inputs"),
        ({"llm_options": {"api_key": SECRET}}, "llm_options: api_key: Extra inputs are not permitted$"),
        ({"validate_only": True}, "validate_only needs labels_key"),
        ({"validate_only": True, "labels_key": "a", "corrections": "c"}, "leave corrections out"),
        ({"validate_only": True, "labels_key": "a", "vocabulary": "broad"}, "leave vocabulary out"),
        ({"offline": "perhaps"}, "offline has to be true or false, found 'perhaps'"),
    ],
)
def test_what_is_wrong_in_the_dag_is_refused_when_it_is_parsed(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        AnnotateAnnDataOperator(**{**PLACES, **fields})


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"top_n_markers": "{{ params.x }}"}, "top_n_markers: Input should be a valid integer"),
        ({"seed": "{{ params.x }}"}, "seed: Input should be"),
        ({"llm_options": "{{ params.x }}"}, "options has to be a mapping"),
        ({"llm_options": {"chunk_size": "{{ params.x }}"}}, "llm_options: chunk_size: Input should be"),
        ({"offline": "{{ params.x }}"}, "offline has to be true or false"),
        ({"preset": "{{ params.x }}", "species": "mouse"}, "the preset 'many' is not known"),
        ({"validate_only": "{{ true }}"}, "validate_only needs labels_key"),
        ({"gca_llm_conn_id": "{{ params.x }}"}, "connection 'many' does not exist; create it"),
    ],
)
def test_what_a_run_gets_wrong_fails_at_once(asked, fields, complaint):
    with pytest.raises(AirflowFailException, match=complaint):
        rendered({"x": "many"}, **fields).execute({})
    assert asked == []


def test_bad_input_is_not_tried_again_and_a_service_that_is_down_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    import gca_core.annotation.run

    def failing(error: Exception) -> Any:
        def annotate_file(*args: Any, **kwargs: Any) -> Any:
            raise error

        return annotate_file

    monkeypatch.setattr(gca_core.annotation.run, "annotate_file", failing(DataValidationError("no such file")))
    with pytest.raises(AirflowFailException, match="no such file"):
        AnnotateAnnDataOperator(**PLACES).execute({})
    monkeypatch.setattr(gca_core.annotation.run, "annotate_file", failing(LLMError("down")))
    with pytest.raises(AirflowException, match="down") as raised:
        AnnotateAnnDataOperator(**PLACES).execute({})
    assert not isinstance(raised.value, AirflowFailException)


def test_it_validates_where_it_is_told_to(asked: list[SimpleNamespace]) -> None:
    answer = rendered({"yes": True}, validate_only="{{ params.yes }}", labels_key="cell_type").execute({})
    assert asked[0].what == "validate"
    assert asked[0].config.labels_key == "cell_type"
    assert answer["n_flagged"] == 2


@pytest.mark.parametrize("fields", [{"gca_llm_conn_id": None}, {"gca_llm_conn_id": "None"}, {"offline": "True"}])
def test_no_model_is_asked_without_a_connection_or_offline(asked, monkeypatch, fields):
    monkeypatch.setenv("GCA_LLM", "openai:small")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    AnnotateAnnDataOperator(**PLACES, **fields).execute({})
    assert asked[0].model is None


def test_the_settings_name_a_model_and_markers_where_no_connection_does(asked, monkeypatch):
    AnnotateAnnDataOperator(**PLACES).execute({})
    assert asked[0].model is None
    for name, value in {"LLM": "openai:small", "MARKER_DB_PATH": "mine.csv", "SEED": "5"}.items():
        monkeypatch.setenv(f"GCA_{name}", value)
    AnnotateAnnDataOperator(**PLACES).execute({})
    assert asked[1].model == LlmConfig(provider="openai", model="small")
    assert (asked[1].config.marker_db, asked[1].config.seed) == ("mine.csv", 5)
    AnnotateAnnDataOperator(**PLACES, marker_db="other.csv", seed=6).execute({})
    assert (asked[2].config.marker_db, asked[2].config.seed) == ("other.csv", 6)


def test_the_key_of_a_connection_shows_nowhere(asked, llm_connection, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    task = rendered({"id": llm_connection}, gca_llm_conn_id="{{ params.id }}")
    answer = task.execute({})
    assert asked[0].model.api_key.get_secret_value() == SECRET
    fields = {name: getattr(task, name) for name in task.template_fields}
    printed = capsys.readouterr()
    for shown in (json.dumps(answer), repr(fields), repr(vars(task)), caplog.text, printed.out, printed.err):
        assert SECRET not in shown
    assert "asks openai:small" in caplog.text + printed.out + printed.err


def test_a_run_is_named_after_dag_task_and_run(asked: list[SimpleNamespace]) -> None:
    instance = SimpleNamespace(dag_id="d", task_id="g.t", run_id="manual__2026-01-01T00:00:00+00:00", map_index=3)
    instance.xcom_push = lambda **_: None
    AnnotateAnnDataOperator(**PLACES).execute({"ti": instance})
    assert asked[0].config.request_id == "d.g.t.manual__2026-01-01T00:00:00+00:00.3"
    long = SimpleNamespace(dag_id="_d/" * 200, task_id="t", run_id="läuft noch", map_index=-1)
    found = AnnotateAnnDataOperator(**PLACES).request_name({"ti": long})
    AnnotationConfig(input_uri="a", output_uri="b", request_id=found)
    assert found and found.endswith(".t.l-uft-noch")


class Events(dict[Any, Any]):
    """Stands for the outlet events of a task's context."""

    def __missing__(self, key: Any) -> Any:
        self[key] = SimpleNamespace(extra={}, added=[])
        self[key].add = lambda asset, extra: self[key].added.append((asset.uri, extra))
        return self[key]


def test_figures_go_to_the_alias_and_to_the_outlets_of_the_author(asked: list[SimpleNamespace]) -> None:
    mine, events = Asset("gs://b/annotated"), Events()
    task = AnnotateAnnDataOperator(**PLACES, asset_alias="annotated", outlets=[mine])
    assert set(task.outlets) == {mine, AssetAlias("annotated")}
    task.execute({"outlet_events": events})
    assert events[AssetAlias("annotated")].added == [("gs://b/annotated.h5ad", {"artefact": "h5ad", **FIGURES})]
    assert events[mine].extra == FIGURES


def test_an_asset_of_any_file_name_is_plain_ascii(asked, monkeypatch):
    events = Events()
    monkeypatch.setitem(RESULT["uris"], "h5ad", "gs://b/größe 1/a%20b.h5ad")
    AnnotateAnnDataOperator(**PLACES, asset_alias="annotated").execute({"outlet_events": events})
    assert events[AssetAlias("annotated")].added[0][0] == "gs://b/gr%C3%B6%C3%9Fe%201/a%20b.h5ad"


def test_the_buttons_open_the_report_and_the_figure(asked: list[SimpleNamespace]) -> None:
    task = AnnotateAnnDataOperator(**PLACES)
    report, figure = task.operator_extra_links
    assert (report.name, figure.name) == ("Report", "Figure")
    assert report.get_link(task, ti_key=None) == ""
    task.execute({})
    assert report.get_link(task, ti_key=None) == "https://storage.cloud.google.com/b/my%20report.html"
    assert figure.get_link(task, ti_key=None) == "https://storage.cloud.google.com/b/umap.png"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("gs://bucket/a/b c.h5ad", ("gs://bucket", "a/b c.h5ad")),
        ("gs://bucket/a?b#c.h5ad", ("gs://bucket", "a?b#c.h5ad")),
        ("file:///data/a%20b.h5ad", ("file", "/data/a b.h5ad")),
        ("/data/a.h5ad", ("file", "/data/a.h5ad")),
    ],
)
def test_datasets_are_named_as_open_lineage_wants(uri: str, expected: tuple[str, str]) -> None:
    assert dataset_name(uri) == expected


@pytest.fixture
def open_lineage(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenLineage's classes; stand-ins with their attributes where the provider is not installed."""
    if find_spec("airflow.providers.openlineage") is None:
        _stand_in_for_open_lineage(monkeypatch)


def _stand_in_for_open_lineage(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.common.compat.openlineage import facet

    class Facet(SimpleNamespace):
        def with_additional_properties(self, **values):
            return Facet(**vars(self), **values)

    class Dataset(SimpleNamespace):
        def __init__(self, namespace: str, name: str, **more: Any) -> None:
            super().__init__(namespace=namespace, name=name, **more)

    class OperatorLineage(SimpleNamespace):
        pass

    for name in ("DatasetFacet", "RunFacet", "OutputStatisticsOutputDatasetFacet"):
        monkeypatch.setattr(facet, name, Facet)
    for name in ("InputDataset", "OutputDataset"):
        monkeypatch.setattr(facet, name, Dataset)
    provider, extractors = (ModuleType(f"airflow.providers.openlineage{end}") for end in ("", ".extractors"))
    extractors.OperatorLineage = OperatorLineage  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, provider.__name__, provider)
    monkeypatch.setitem(sys.modules, extractors.__name__, extractors)


def test_lineage_holds_what_was_read_and_written_and_the_figures(asked, open_lineage):
    task = AnnotateAnnDataOperator(**{**PLACES, "input_uri": "gs://raw/in.h5ad"}, marker_db="file:///m.csv")
    before = task.get_openlineage_facets_on_complete(None)
    assert ([d.name for d in before.inputs], before.outputs) == (["in.h5ad", "/m.csv"], [])
    task.execute({})
    found = task.get_openlineage_facets_on_complete(None)
    assert [(d.namespace, d.name) for d in found.inputs] == [("gs://raw", "in.h5ad"), ("file", "/m.csv")]
    outputs = {d.name: d for d in found.outputs}
    assert set(outputs) == {"annotated.h5ad", "my report.html", "umap.png"}
    facet = outputs["annotated.h5ad"].facets["gca"]
    assert {name: getattr(facet, name) for name in FIGURES} == FIGURES
    assert outputs["annotated.h5ad"].outputFacets["outputStatistics"].rowCount == 700
    assert outputs["umap.png"].outputFacets == {}
    assert found.run_facets["gca"].versions == {"numpy": "2"}


@pytest.mark.parametrize(("vocabulary", "read"), [("broad", ["in.h5ad"]), ("gs://b/v.csv", ["in.h5ad", "v.csv"])])
def test_lineage_names_the_file_of_a_vocabulary_and_no_bundled_one(open_lineage, vocabulary, read):
    task = AnnotateAnnDataOperator(**PLACES, vocabulary=vocabulary)
    assert [d.name for d in task.get_openlineage_facets_on_start().inputs] == read


def test_a_killed_task_stops_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import gca_core.annotation.run

    went_on: list[str] = []

    def annotate_file(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        went_on.append("the next model")

    monkeypatch.setattr(gca_core.annotation.run, "annotate_file", annotate_file)
    task = AnnotateAnnDataOperator(**PLACES)
    before = signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    try:
        with pytest.raises(SystemExit, match="killed"):
            task.execute({})
    finally:
        signal.signal(signal.SIGTERM, before)
    assert went_on == []
    # a time-out has left the work already when Airflow calls this
    task.on_kill()


def test_a_google_connection_opens_the_buckets_and_is_forgotten_afterwards(monkeypatch, bucket):
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook

    import gca_core.annotation.run

    monkeypatch.setenv("AIRFLOW_CONN_LAB", '{"conn_type": "google_cloud_platform"}')
    # a key would be exchanged for a token at Google
    of_lab = lambda hook: Credentials(token=f"of-{hook.gcp_conn_id}")  # noqa: E731
    monkeypatch.setattr(GoogleBaseHook, "get_credentials", of_lab)

    def annotate_file(*args: Any, **kwargs: Any) -> Any:
        from gca_core.io import as_path

        as_path("gs://lab/in.h5ad").exists()
        return RESULT

    monkeypatch.setattr(gca_core.annotation.run, "annotate_file", annotate_file)
    rendered({"id": "lab"}, gcp_conn_id="{{ params.id }}").execute({})
    with_connection = set(bucket.authorisations)
    bucket.authorisations.clear()
    AnnotateAnnDataOperator(**PLACES).execute({})
    assert with_connection == {"Bearer of-lab"}
    assert set(bucket.authorisations) == {None}


def test_without_the_google_provider_a_connection_of_it_says_what_to_install(
    asked: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "airflow.providers.google.common.hooks.base_google", None)
    with pytest.raises(AirflowFailException, match=r"airflow-provider-gca\[google\]"):
        AnnotateAnnDataOperator(**PLACES, gcp_conn_id="lab").execute({})


MAPPED: dict[str, Any] = {"task_id": "t", "tissue": "blood"}


@pytest.mark.parametrize(
    ("mapped_over", "shared"),
    [
        ([{"input_uri": "a", "output_uri": "x"}, {"input_uri": "b", "output_uri": "y"}], False),
        ([{"input_uri": "a", "output_uri": "x"}, {"input_uri": "b", "output_uri": "x"}], True),
        ({"output_uri": ["x", "y"], "input_uri": ["a"]}, False),
        # expand takes every combination
        ({"output_uri": ["x", "y"], "input_uri": ["a", "b"]}, True),
        ({"output_uri": ["x", "x"], "input_uri": ["a"]}, True),
    ],
)
def test_mapped_tasks_have_an_output_each(asked: list[SimpleNamespace], mapped_over: Any, shared: bool) -> None:
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        made = AnnotateAnnDataOperator.partial(**MAPPED)
        mapped = made.expand(**mapped_over) if isinstance(mapped_over, dict) else made.expand_kwargs(mapped_over)
    assert [link.name for link in mapped.operator_extra_links] == ["Report", "Figure"]
    task = mapped.unmap({"input_uri": "a", "output_uri": "x"})
    if shared:
        with pytest.raises(AirflowFailException, match="share output_uri"):
            task.execute({})
    else:
        task.execute({})
    assert len(asked) == (not shared)


def test_one_output_for_all_mapped_tasks_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ConfigurationError, match="output_uri is the same for all mapped tasks"):
        AnnotateAnnDataOperator.partial(**MAPPED, output_uri="out")
