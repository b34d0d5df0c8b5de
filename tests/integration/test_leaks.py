"""What grows over many runs in one process: memory and open files. ``make soak`` makes it 200 runs of each."""

import asyncio
import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gca_core.config import Settings
from gca_core.haystack import run as plain_loop
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.demo.kang2018 import DemoFiles
from gca_core.haystack.models import IterationConfig
from gca_core.inference.job import run_job
from gca_core.inference.models import InferenceJob, InferenceResult
from tests.helpers.batch_jobs import CLOUD, batch, make_job, quick
from tests.helpers.gcs_loopback import bucket
from tests.helpers.knowledge_loopback import serve, usual
from tests.helpers.llm_loopback import Answer, LoopbackServer
from tests.integration.conftest import MONOCYTES

__all__ = ["batch", "bucket", "make_job", "quick"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
RUNS = int(os.environ.get("SOAK_RUNS", "10"))
# the first ones fill caches, which are bounded
WARM_UP = 5
KIB_PER_RUN = 64
# what an allocator keeps for itself, however many runs there are
KIB_ONCE = 8 * 1024


def growth(once: Callable[[int], object], runs: int = RUNS) -> tuple[float, int]:
    """KiB of memory beyond :data:`KIB_ONCE` a run, and open files in all, that so many runs leave behind."""
    process = psutil.Process()
    for number in range(WARM_UP):
        once(number)
    gc.collect()
    memory, files = process.memory_info().rss, process.num_fds()
    for number in range(WARM_UP, WARM_UP + runs):
        once(number)
    gc.collect()
    left, opened = (process.memory_info().rss - memory) / 1024, process.num_fds() - files
    sys.stdout.write(f"{runs} runs: {left:.0f} KiB, {opened} open files\n")
    return max(left - KIB_ONCE, 0.0) / runs, opened


def check(found: tuple[float, int]) -> None:
    memory, files = found
    assert memory < KIB_PER_RUN and files <= 2, f"{memory:.0f} KiB a run, {files} open files"


def test_annotations_leave_nothing_behind() -> None:
    from gca_core.annotation import annotate_anndata
    from gca_core.datasets import kang2018_mini

    cells = kang2018_mini()
    cells = cells[cells.obs["cell_type"].notna()].copy()
    check(growth(lambda _: annotate_anndata(cells.copy(), "cell_type")))


def test_loops_leave_nothing_behind(
    context: HaystackContext, own_settings: Settings, demo: DemoFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(job: InferenceJob, _timeout: float) -> list[InferenceResult]:
        """The job in this process, where what it leaves is seen too."""
        return list(run_job(job.job_uri).results)

    monkeypatch.setattr(plain_loop, "infer", here)
    config = IterationConfig(max_iterations=1, candidates_per_iteration=1, prompt_cells=100, query_cells=50)

    def loop(number: int) -> None:
        outputs = plain_loop.run_haystack(
            MONOCYTES,
            config=config.model_copy(update={"seed": number}),
            settings=own_settings,
            context=context,
            dataset=demo.dataset,
            run_id=f"leak-{number}",
        )
        assert outputs.status == "completed"

    check(growth(loop))


def test_clients_leave_nothing_behind(airflow_home: Path, batch, quick, make_job, tmp_path, monkeypatch) -> None:
    from airflow_provider_gca.hooks.llm import LlmHook
    from airflow_provider_gca.operators.inference import StackBatchOperator
    from gca_core.knowledge.online.lookups import OnlineKnowledge
    from gca_core.knowledge.online.settings import Source, load_online_settings
    from gca_core.llm.chat import ChatClient

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with LoopbackServer(lambda *_: Answer("hello")).running() as model, serve(usual) as services:
        extra = {"provider": "openai-compatible", "model": "m", "base_url": model.url}
        monkeypatch.setenv("AIRFLOW_CONN_MODEL", json.dumps({"conn_type": "gca_llm", "password": "k", "extra": extra}))
        online = load_online_settings(
            online_sources="uniprot,ensembl", online_urls=dict.fromkeys(Source, services.url), cache_dir=tmp_path
        )

        def ask(number: int) -> None:
            config = LlmHook("model").get_conn()
            assert config is not None
            assert ChatClient(config).complete([("human", "hi")]).text == "hello"
            # everything is asked anew, without its cache
            knowledge = OnlineKnowledge(online.model_copy(update={"cache_dir": tmp_path / str(number)}))
            assert asyncio.run(knowledge.gene("STAT1")).value
            task = StackBatchOperator(task_id="t", poll_interval_seconds=0.05, **CLOUD, **make_job(f"c{number % 3}"))
            assert task.execute({})[0]["status"] == "succeeded"

        # the servers are in this process, and the one of Batch keeps a record of each job
        memory, files = growth(ask)
        assert memory < 4 * KIB_PER_RUN and files <= 4, f"{memory:.0f} KiB a run, {files} open files"
