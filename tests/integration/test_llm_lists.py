"""Plain marker lists and a model, against the loopback server."""

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gca_core.annotation import LlmOptions, annotate_from_markers
from gca_core.annotation.models import FlagReason
from gca_core.cli.main import app
from gca_core.llm.models import ChatOptions
from gca_core.progress import Progress, listening
from tests.helpers.blood import MIXTURE
from tests.helpers.llm_cells import GENES, TABLE, blood_markers
from tests.helpers.llm_loopback import Answer, LoopbackServer, name_by_markers, say

LISTS = {name: GENES[term].split() for name, term in MIXTURE.items()}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    name = name_by_markers(blood_markers(), MIXTURE.values())
    with LoopbackServer(lambda request, _: say(name(request))).running() as found:
        yield found


def test_a_model_labels_lists_and_each_prompt_is_told(server: LoopbackServer) -> None:
    heard: list[Progress] = []
    with listening(heard.append):
        report = annotate_from_markers(
            LISTS,
            marker_db=blood_markers(),
            model=f"openai-compatible:small@{server.url}",
            llm_options=LlmOptions(chunk_size=2, use_cache=False, chat=ChatOptions(max_concurrency=1)),
        )
    assert {a.cluster: a.ontology_id for a in report.annotations} == MIXTURE
    assert {a.annotator for a in report.annotations} == {"llm"}
    assert (report.stats.llm_batches, report.stats.cache_hits) == (3, 0)
    asked = [progress for progress in heard if progress.stage == "ask"]
    assert asked == [Progress("ask", done, 3) for done in range(4)]


def test_an_empty_list_is_not_asked_about_and_a_silent_model_loses_nothing() -> None:
    with LoopbackServer(lambda *_: Answer("no", status=400)).running() as server:
        report = annotate_from_markers(
            LISTS | {"none": ""},
            marker_db=blood_markers(),
            model=f"openai-compatible:small@{server.url}",
            llm_options=LlmOptions(use_cache=False, chat=ChatOptions(max_retries=0)),
        )
        asked = sum(len(request.clusters) for request in server.requests)
    assert asked == len(LISTS)
    assert {a.cluster: a.ontology_id for a in report.annotations[:-1]} == MIXTURE
    assert all(FlagReason.OFFLINE_FALLBACK in a.flag_reasons for a in report.annotations)


def test_answers_of_a_model_are_kept_whatever_vocabulary_names_them(server: LoopbackServer, tmp_path: Path) -> None:
    for vocabulary, names in ((None, {None}), ("broad", {"B cell", "NK cell", "monocyte", "megakaryocyte"})):
        report = annotate_from_markers(
            LISTS,
            marker_db=blood_markers(),
            vocabulary=vocabulary,
            model=f"openai-compatible:small@{server.url}",
            llm_options=LlmOptions(cache_dir=str(tmp_path)),
        )
        assert {a.vocabulary_label for a in report.annotations} == names
    assert len(server.requests) == 1


def test_the_table_command_asks_once_and_then_its_cache(server: LoopbackServer, tmp_path: Path) -> None:
    table, markers = tmp_path / "lists.csv", tmp_path / "markers.csv"
    table.write_text("cluster,markers\n" + "".join(f'{name},"{",".join(genes)}"\n' for name, genes in LISTS.items()))
    markers.write_text(TABLE)
    run = ["annotate", str(table), "--marker-db", str(markers), "--cache-dir", str(tmp_path / "cache")]
    run += ["--model", f"openai-compatible:small@{server.url}"]
    for _ in range(2):
        done = CliRunner().invoke(app, run)
        assert done.exit_code == 0, done.output
        rows = list(csv.DictReader(StringIO(done.stdout)))
        assert {row["cluster"]: row["ontology_id"] for row in rows} == MIXTURE
    assert len(server.requests) == 1
