import io
import json
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.request import urlopen

import pytest

from gca_core import observability
from gca_core.errors import ConfigurationError
from gca_core.observability import (
    RequestIdFilter,
    bind_request,
    bind_run,
    count_failure,
    count_run,
    current_request_id,
    json_handler,
    push_metrics,
    request_text_formatter,
    require_metrics,
    serve_metrics,
    write_metrics,
)


@pytest.fixture
def log(request):
    logger = logging.getLogger(f"gca_core.{request.node.name}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)


@pytest.fixture
def without_prometheus(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    # counters that other tests made stay theirs
    monkeypatch.setattr(observability, "_made_metrics", observability._made_metrics.__wrapped__)


@pytest.fixture
def counted():
    """A function that tells by how much a sample has grown since the test began."""
    client = pytest.importorskip("prometheus_client")

    def value(name: str, **labels: str) -> float:
        return client.REGISTRY.get_sample_value(name, labels) or 0.0

    names = [
        ("gca_clusters_annotated_total", {}),
        ("gca_clusters_flagged_total", {}),
        ("gca_llm_tokens_total", {"direction": "input"}),
        ("gca_llm_tokens_total", {"direction": "output"}),
        ("gca_runs_total", {"outcome": "ok"}),
        ("gca_runs_total", {"outcome": "failed"}),
        ("gca_run_seconds_count", {}),
        ("gca_run_seconds_sum", {}),
    ]
    before = {(name, *labels.values()): value(name, **labels) for name, labels in names}
    return lambda name, **labels: value(name, **labels) - before[(name, *labels.values())]


def test_the_request_id_is_the_given_one_then_the_bound_one_then_the_environments(monkeypatch):
    monkeypatch.setenv("GCA_REQUEST_ID", "from-environment")
    with bind_request() as outer:
        assert outer == "from-environment"
        with bind_request("given") as given, bind_request() as inner:
            assert (given, inner, current_request_id()) == ("given", "given", "given")
        assert current_request_id() == "from-environment"
    assert current_request_id() is None


def test_a_haystack_run_and_its_iteration_are_in_json_logs(log):
    pytest.importorskip("structlog")
    stream = io.StringIO()
    log.addHandler(json_handler(stream))
    with bind_run("hay_1"):
        with bind_run("hay_1", 2):
            log.info("in")
        log.info("out")
    log.info("over")
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line.get("haystack_run"), line.get("iteration")) for line in found] == [
        ("hay_1", 2), ("hay_1", None), (None, None),
    ]  # fmt: skip


def test_without_a_name_each_request_gets_its_own(monkeypatch):
    monkeypatch.delenv("GCA_REQUEST_ID", raising=False)
    made = []
    for _ in range(2):
        with bind_request() as request_id:
            made.append(request_id)
    assert made[0] != made[1]


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\nINFO forged", "x" * 201, "<b>"])
def test_a_request_id_that_could_forge_a_log_line_is_refused(name):
    with pytest.raises(ConfigurationError, match="request id"), bind_request(name or " "):
        pass


def test_a_filter_puts_the_id_on_records_of_threads_that_take_the_context_along(log):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(logging.Formatter("%(request_id)s %(message)s"))
    log.addHandler(handler)
    log.info("outside")
    with bind_request("r1"), ThreadPoolExecutor(1) as pool:
        pool.submit(copy_context().run, log.info, "in a thread").result()
    assert stream.getvalue().splitlines() == ["- outside", "r1 in a thread"]


def test_the_text_log_shows_only_ids_that_somebody_chose(log, monkeypatch):
    monkeypatch.delenv("GCA_REQUEST_ID", raising=False)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(request_text_formatter())
    log.addHandler(handler)
    with bind_request():
        log.info("made up")
    with bind_request("nightly-7"):
        log.info("chosen")
    assert stream.getvalue().splitlines() == ["made up", "[nightly-7] chosen"]


def test_the_json_log_has_one_object_per_record_with_the_request(log):
    pytest.importorskip("structlog")
    stream = io.StringIO()
    log.addHandler(json_handler(stream))
    with bind_request("r2"):
        log.warning("cluster %r\nis odd", "<b>3</b>")
        try:
            raise ValueError("no")
        except ValueError:
            log.exception("failed")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["cluster '<b>3</b>'\nis odd", "failed"]
    assert {line["request_id"] for line in lines} == {"r2"}
    assert (lines[0]["level"], lines[0]["logger"]) == ("warning", log.name)
    assert "ValueError: no" in lines[1]["exception"]


def test_without_structlog_the_json_log_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "structlog", None)
    with pytest.raises(ConfigurationError, match=r"airflow-provider-gca\[observability\]"):
        json_handler()
    with bind_request("works-all-the-same") as request_id:
        assert current_request_id() == request_id


def test_a_run_is_counted(counted):
    count_run(seconds=2.5, clusters=11, flagged=3, llm_calls=2, input_tokens=100, output_tokens=40, cache_hits=5)
    assert counted("gca_clusters_annotated_total") == 11
    assert counted("gca_clusters_flagged_total") == 3
    assert counted("gca_llm_tokens_total", direction="input") == 100
    assert counted("gca_llm_tokens_total", direction="output") == 40
    assert counted("gca_runs_total", outcome="ok") == 1
    assert (counted("gca_run_seconds_count"), counted("gca_run_seconds_sum")) == (1, 2.5)


def test_a_failure_is_counted_and_raised(counted):
    with pytest.raises(ValueError, match="no"), count_failure():
        raise ValueError("no")
    assert counted("gca_runs_total", outcome="failed") == 1


def test_counters_made_by_many_threads_at_once_are_made_once():
    pytest.importorskip("prometheus_client")
    script = (
        "import threading, time, prometheus_client as p\n"
        "from gca_core import observability as o\n"
        "make = p.Counter.__init__\n"
        "p.Counter.__init__ = lambda *a, **k: (time.sleep(0.01), make(*a, **k))[1]\n"
        "threads = [threading.Thread(target=o.count_run, kwargs={'seconds': 1, 'clusters': 1}) for _ in range(4)]\n"
        "[t.start() for t in threads], [t.join() for t in threads]\n"
        "print(p.REGISTRY.get_sample_value('gca_clusters_annotated_total'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("4.0\n", "")


def test_counters_are_served_on_this_machine_only():
    pytest.importorskip("prometheus_client")
    server, thread = serve_metrics(0)
    try:
        count_run(seconds=1.0, clusters=1)
        assert server.server_address[0] == "127.0.0.1"
        with urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            assert "gca_clusters_annotated_total" in answer.read().decode()
        with pytest.raises(ConfigurationError, match="can't be served"):
            serve_metrics(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Gateway(BaseHTTPRequestHandler):
    def do_PUT(self):
        self.server.got.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


def test_counters_are_pushed_to_a_gateway():
    pytest.importorskip("prometheus_client")
    server = HTTPServer(("127.0.0.1", 0), _Gateway)
    server.got = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        count_run(seconds=1.0, clusters=1)
        push_metrics(f"127.0.0.1:{server.server_port}", job="cohort")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    ((path, body),) = server.got
    assert path == "/metrics/job/cohort"
    assert "gca_run_seconds_bucket" in body
    with pytest.raises(ConfigurationError, match="can't be pushed"):
        push_metrics(f"127.0.0.1:{server.server_port}", timeout_s=2)


def test_counters_are_written_for_a_collector_of_files(tmp_path):
    pytest.importorskip("prometheus_client")
    count_run(seconds=1.0, clusters=1)
    write_metrics(tmp_path / "gca.prom")
    assert "# TYPE gca_clusters_annotated_total counter" in (tmp_path / "gca.prom").read_text()


def test_without_prometheus_counting_does_nothing_and_sending_names_the_extra(without_prometheus, tmp_path):
    with pytest.raises(ConfigurationError, match="prometheus_client"):
        require_metrics()
    count_run(seconds=1.0, clusters=1)
    for send in (lambda: serve_metrics(0), lambda: push_metrics("127.0.0.1:1"), lambda: write_metrics(tmp_path / "x")):
        with pytest.raises(ConfigurationError, match=r"airflow-provider-gca\[observability\]"):
            send()
    assert list(tmp_path.iterdir()) == []


def test_importing_the_module_loads_neither_structlog_nor_prometheus():
    script = "import sys, gca_core.observability\nprint({'structlog', 'prometheus_client'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
