"""Notices that go out, counted by a mail server and a SendGrid on this machine."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_gca.notifications.haystack import NOTICE, HaystackNotifier
from airflow_provider_gca.notifications.mail import addresses
from gca_core.errors import ConfigurationError, ExternalAPIError
from gca_core.haystack.notice import Notice, render_notice
from gca_core.runs.models import RunRow, RunStatus
from gca_core.runs.store import RunStore
from tests.helpers.mail_loopback import Mailbox, sendgrid_server, smtp_server

pytestmark = pytest.mark.usefixtures("airflow_home")

HOSTILE = "How would <img src=x onerror=alert(1)>\r\nBcc: all@lab.example\r\n\r\nB cells respond to IL-4? " + "x" * 300


@pytest.fixture(params=["smtp", "sendgrid"])
def box(request: Any, embedded_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """Where notices arrive, behind the connection ``post``."""
    monkeypatch.setenv("GCA_ATLAS_DSN", embedded_dsn)
    with {"smtp": smtp_server, "sendgrid": sendgrid_server}[request.param]() as found:
        monkeypatch.setenv("AIRFLOW_CONN_POST", getattr(found, request.param))
        found.by = {f"{request.param}_conn_id": "post"}
        yield found


def notice(run_id: str, **changes: Any) -> Notice:
    values = {"status": RunStatus.COMPLETED, "question": HOSTILE, "score": 7.8, "reason": "threshold", **changes}
    return Notice(run_id=run_id, **values)


def tell(box: Mailbox, what: Notice, **options: Any) -> None:
    options = {"to": "a@lab.example, b@lab.example", "base_url": "https://flow.example/", **box.by, **options}
    HaystackNotifier(**options)({NOTICE: what.model_dump(mode="json")})


def test_one_notice_for_each_way_that_a_run_ends(box: Mailbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    box.refuse = 1
    run_id = f"once-{box.port}"
    with pytest.raises(ExternalAPIError):
        tell(box, notice(run_id))
    for _ in range(3):
        tell(box, notice(run_id))
    assert len(box.mails) + len(box.posts) == 1
    tell(box, notice(run_id, status=RunStatus.FAILED, error="the atlas has lost its cells"))
    tell(box, notice(run_id, status=RunStatus.CANCELLED), statuses=["failed"])
    assert len(box.mails) + len(box.posts) == 2
    assert "very-secret" not in caplog.text and "a@lab.example" not in caplog.text


def test_what_is_sent_is_harmless_and_complete(box: Mailbox) -> None:
    tell(box, notice(f"hostile/{box.port}"))
    if box.mails:
        (mail,) = box.mails
        subject, text, html = mail["subject"], *(mail.get_body([kind]).get_content() for kind in ("plain", "html"))
        assert mail["to"] == "a@lab.example, b@lab.example" and mail["from"] == "gca@lab.example"
        assert mail["bcc"] is None
    else:
        (post,) = box.posts
        subject, (text, html) = post["subject"], (part["value"] for part in post["content"])
        assert [one["to"][0]["email"] for one in post["personalizations"]] == ["a@lab.example", "b@lab.example"]
        assert box.keys == ["Bearer SG.very-secret"]
    assert subject.startswith("HAYSTACK, finished, score 7.8: How would <img") and "\n" not in subject
    assert len(subject) <= 150
    link = f"https://flow.example/gca/runs/hostile%2F{box.port}"
    assert "<img" not in html and "&lt;img" in html and f'href="{link}"' in html
    assert link in text and "Grounding score: 7.8 of 10" in text and "it is good enough" in text


def test_a_run_is_read_from_its_record(box: Mailbox, embedded_dsn: str) -> None:
    row = RunRow(run_id=f"row-{box.port}", question="q?", results_uri="file:///nowhere", status=RunStatus.FAILED)
    RunStore(embedded_dsn).upsert_run(row)
    HaystackNotifier(to=["a@lab.example"], run_id=row.run_id, **box.by)({})
    assert len(box.mails) + len(box.posts) == 1
    with pytest.raises(ConfigurationError, match="no run 'nobody'"):
        HaystackNotifier(to="a@lab.example", run_id="nobody", **box.by)({})


@pytest.mark.parametrize("to", ["", [], "a@b\nBcc: c@d", "Name <a@b>", "a@b;c@d", ["a@b"] * 0, "a b@c", "@b", "a@"])
def test_what_is_no_address_is_refused(to: Any) -> None:
    with pytest.raises(ConfigurationError, match="address"):
        addresses(to)


def test_a_key_never_leaves_unencrypted(monkeypatch: pytest.MonkeyPatch, embedded_dsn: str) -> None:
    monkeypatch.setenv("GCA_ATLAS_DSN", embedded_dsn)
    monkeypatch.setenv("AIRFLOW_CONN_POST", '{"conn_type": "http", "host": "http://mail.example", "password": "k"}')
    with pytest.raises(ConfigurationError, match="unencrypted"):
        HaystackNotifier(to="a@b", from_email="c@d", sendgrid_conn_id="post")(
            {NOTICE: notice("clear").model_dump(mode="json")}
        )


def test_only_an_end_is_told() -> None:
    with pytest.raises(ConfigurationError, match="only its end"):
        render_notice(notice("r", status=RunStatus.RUNNING))
