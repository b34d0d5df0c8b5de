"""Names of jobs: made of what they compute, so that a job is found again and never started twice."""

import re
import uuid
from typing import Any

from gca_core.io import content_hash

# underscores, since filters of lists take - for a minus
RUN_LABEL, JOB_LABEL = "gca_run", "gca_job"
_NAMESPACE = uuid.UUID("6f1d5f5e-3a55-5d0e-9d5c-0f1e6f4f2b7a")
_PART = 24


def run_label(dag_id: str, run_id: str) -> str:
    """A label's value for a DAG run: readable, distinct, and at most 63 characters that labels may hold."""
    parts = [re.sub(r"[^a-z0-9]+", "-", text.lower())[:_PART].strip("-") for text in (dag_id, run_id)]
    return "-".join([*filter(None, parts), content_hash([dag_id, run_id])[:10]])


def job_key(run: str, job_uri: str, content: Any, spec_fingerprint: str) -> str:
    """The identity of a job: its run, its files, what it is asked (JSON) and how it runs; not its map index."""
    return f"gca-{content_hash([run, job_uri, content, spec_fingerprint])[:20]}"


def attempt_id(key: str, number: int) -> str:
    """The id of a job's attempt."""
    return f"{key}-r{number}"


def request_id(job_name: str) -> str:
    """The id of the request that creates a job: the same however often it is sent."""
    return str(uuid.uuid5(_NAMESPACE, job_name))


def job_labels(run: str, key: str) -> dict[str, str]:
    """The labels by which the jobs of a run, and the attempts of a job, are found."""
    return {RUN_LABEL: run, JOB_LABEL: key}
