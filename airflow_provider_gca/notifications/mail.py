"""Mail through the connections of Airflow."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Mapping, Sequence
from email import policy
from email.message import EmailMessage
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import BaseHook

from airflow_provider_gca.utils.failures import AirflowException
from gca_core.errors import ConfigurationError, ExternalAPIError

if TYPE_CHECKING:
    from gca_core.haystack.notice import Message

SENDGRID = "https://api.sendgrid.com"
TIMEOUT_SECONDS = 20
MAX_RECEIVERS = 50
# nothing that ends a header or begins another address
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def addresses(given: str | Sequence[str]) -> list[str]:
    """Addresses of a list, or of a text with commas between.

    Raises:
        ConfigurationError: there is none, there are too many, or one isn't an address.
    """
    parts = given.split(",") if isinstance(given, str) else given
    found = list(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
    if not 1 <= len(found) <= MAX_RECEIVERS:
        raise ConfigurationError(f"a notice goes to 1 to {MAX_RECEIVERS} addresses, found {len(found)}")
    for place, one in enumerate(found, start=1):
        if not _ADDRESS.fullmatch(one):
            # addresses are personal: logs don't hold them
            raise ConfigurationError(f"the address {place} of {len(found)} is no plain one, like name@example.org")
    return found


def send_by_smtp(conn_id: str, message: Message, to: Sequence[str], sender: str | None, digest: str) -> None:
    """Send through an ``smtp`` connection, with its TLS, login and timeout.

    Raises:
        ConfigurationError: no sender is named.
        ExternalAPIError: the server can't be reached or refuses.
    """
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    hook = SmtpHook(smtp_conn_id=conn_id)
    try:
        with hook:
            mail = _mail(message, to, _sender(sender or hook.from_email, conn_id), digest)
            # the hook's own way of sending knows HTML alone; its client is public in its older versions
            client: Any = getattr(hook, "_smtp_client", None) or getattr(hook, "smtp_client")  # noqa: B009
            client.send_message(mail)
    except (OSError, smtplib.SMTPException, AirflowException) as error:
        raise ExternalAPIError(f"the notice can't be sent by {conn_id!r}: {_without(error, to)}") from None


def send_by_sendgrid(conn_id: str, message: Message, to: Sequence[str], sender: str | None) -> None:
    """Send through SendGrid's API; its links are left as they are, and nobody is followed.

    Raises:
        ConfigurationError: the connection lacks the key or a sender, or would send the key in the clear.
        ExternalAPIError: SendGrid can't be reached or refuses.
    """
    import httpx

    connection = BaseHook.get_connection(conn_id)
    if not connection.password:
        raise ConfigurationError(f"the connection {conn_id!r} has no password; SendGrid's API key goes there")
    body: dict[str, Any] = {
        "personalizations": [{"to": [{"email": one}]} for one in to],
        "from": {"email": _sender(sender or connection.extra_dejson.get("from_email"), conn_id)},
        "subject": message.subject,
        "content": [{"type": "text/plain", "value": message.text}, {"type": "text/html", "value": message.html}],
        "tracking_settings": {name: {"enable": False} for name in ("click_tracking", "open_tracking")},
    }
    url, key = f"{_endpoint(conn_id, connection)}/v3/mail/send", connection.password
    try:
        answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT_SECONDS)
    except httpx.HTTPError as error:
        raise ExternalAPIError(f"the notice can't be sent by {conn_id!r}: {type(error).__name__}") from None
    if answer.status_code != httpx.codes.ACCEPTED:
        raise ExternalAPIError(f"SendGrid refuses the notice of {conn_id!r} with status {answer.status_code}")


def _mail(message: Message, to: Sequence[str], sender: str, digest: str) -> EmailMessage:
    # a folded subject is shown with odd spaces by some
    mail = EmailMessage(policy.SMTP.clone(max_line_length=400))
    mail["Subject"] = message.subject
    mail["From"] = sender
    mail["To"] = ", ".join(to)
    mail["Date"] = formatdate(localtime=True)
    # one that was sent twice, by a machine that died in between, is shown once
    mail["Message-ID"] = f"<{digest}@gca.{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.text)
    mail.add_alternative(message.html, subtype="html")
    return mail


def _sender(named: str | None, conn_id: str) -> str:
    if not named:
        raise ConfigurationError(f"no sender is named; give from_email, or fill it in at the connection {conn_id!r}")
    return addresses([named])[0]


def _endpoint(conn_id: str, connection: Any) -> str:
    host: str = connection.host or ""
    if not host:
        return SENDGRID
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    parts = urlsplit(url if connection.port is None else f"{url}:{connection.port}")
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ConfigurationError(f"the connection {conn_id!r} would send its key unencrypted; give an https address")
    return f"{parts.scheme}://{parts.netloc}"


def _without(error: Exception, to: Sequence[str]) -> str:
    """What a server said, without the addresses."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        refused: Mapping[str, tuple[int, bytes]] = error.recipients
        return f"{len(refused)} of {len(to)} addresses are refused"
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    for one in to:
        text = text.replace(one, "***")
    return text
