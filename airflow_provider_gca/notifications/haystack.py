"""Tell people by mail how a HAYSTACK run ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.utils.fields import NOTHING, is_literal
from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from gca_core.haystack.notice import Notice

log = logging.getLogger(__name__)

# in the context: what the loop has to tell, as JSON
NOTICE = "haystack_notice"


class HaystackNotifier(BaseNotifier):
    """Mails how a HAYSTACK run ended, once for each way it does, however often a task is tried again or cleared.

    The mail holds the verdict, score, question, a link to the run's page, and what went wrong, as text and as HTML. It
    goes through an Airflow connection of type ``smtp``, or to SendGrid by one with the API key as its password.

    For a loop: ``haystack_loop(..., notifiers=HaystackNotifier(to="lab@example.org"))``. As a callback of a task
    elsewhere it needs ``run_id``.

    Args:
        to: addresses: a list, or a text with commas between. Templated, like all but ``statuses``; a template that
            gives no text means nobody.
        smtp_conn_id: the SMTP connection; its extra ``from_email`` is the sender where ``from_email`` is None.
        sendgrid_conn_id: a connection for SendGrid instead. Its password is the API key, its extra ``from_email`` the
            sender, its host another address of the API.
        from_email: the sender.
        base_url: where users reach Airflow, for the link; Airflow's own setting ``[api] base_url`` where None.
        statuses: the ends that are told: ``completed``, ``failed``, ``cancelled``.
        run_id: the run's id in the run records, where no loop says it.
        gca_atlas_conn_id: connection of the run records.
    """

    template_fields = (
        "to", "smtp_conn_id", "sendgrid_conn_id", "from_email", "base_url", "run_id", "gca_atlas_conn_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        to: str | Sequence[str],
        smtp_conn_id: str = "smtp_default",
        sendgrid_conn_id: str | None = None,
        from_email: str | None = None,
        base_url: str | None = None,
        statuses: Sequence[str] = ("completed", "failed", "cancelled"),
        run_id: str | None = None,
        gca_atlas_conn_id: str = AtlasHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.to = to
        self.smtp_conn_id = smtp_conn_id
        self.sendgrid_conn_id = sendgrid_conn_id
        self.from_email = from_email
        self.base_url = base_url
        self.statuses = statuses
        self.run_id = run_id
        self.gca_atlas_conn_id = gca_atlas_conn_id
        if is_literal(to):
            from airflow_provider_gca.notifications.mail import addresses

            addresses(to)

    def __call__(self, *args: Any) -> None:
        """Render the fields and tell; unlike others, an error is raised, so that a task can try again."""
        (context,) = args
        self.render_template_fields(context)
        self.notify(context)

    def notify(self, context: Context) -> None:
        """Tell of the run that the context or ``run_id`` names, if nobody was told."""
        from airflow_provider_gca.notifications import mail
        from gca_core.haystack.notice import render_notice
        from gca_core.io import content_hash

        notice = self._notice(context)
        if notice.status not in self.statuses:
            log.info("nobody is told of run %s, which is %s", notice.run_id, notice.status)
            return
        if self.to in NOTHING:
            log.info("nobody asked to be told of run %s", notice.run_id)
            return
        receivers = mail.addresses(self.to)
        service = self._conn_id("sendgrid_conn_id")
        told = {"notice": notice.digest, "to": receivers, "by": service or self.smtp_conn_id}
        digest = content_hash(told)
        with AtlasHook(self.gca_atlas_conn_id).get_run_store().telling(notice.run_id, digest) as first:
            if not first:
                log.info("run %s: its end was told before", notice.run_id)
                return
            message = render_notice(notice)
            sender = self._conn_id("from_email")
            if service is not None:
                mail.send_by_sendgrid(service, message, receivers, sender)
            else:
                mail.send_by_smtp(self.smtp_conn_id, message, receivers, sender, digest)
        log.info("run %s, %s: %d were told", notice.run_id, notice.status, len(receivers))

    def _conn_id(self, name: str) -> str | None:
        value = getattr(self, name)
        return None if value in (None, *NOTHING) else str(value)

    def _notice(self, context: Mapping[str, Any]) -> Notice:
        from airflow_provider_gca.utils.results import run_page
        from gca_core.haystack.notice import Notice, make_notice

        base = self._conn_id("base_url")
        given = context.get(NOTICE)
        if given is not None:
            notice = Notice.model_validate(given)
        else:
            run_id = self._conn_id("run_id")
            row = AtlasHook(self.gca_atlas_conn_id).get_run_store().get(run_id) if run_id else None
            if row is None:
                raise ConfigurationError(
                    f"HaystackNotifier: there is no run {run_id!r}; give it to haystack_loop, or name a run by run_id"
                )
            notice = make_notice(row)
        return notice.model_copy(update={"link": run_page(notice.run_id, base)})
