"""Whose credentials open ``gs://`` URIs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gca_core.errors import ConfigurationError

PROTOCOLS = ("gs", "gcs")


@contextmanager
def credentials_of(gcp_conn_id: str | None) -> Iterator[None]:
    """Open ``gs://`` URIs with the credentials of an Airflow connection while the block lasts.

    None leaves it to the worker's own (application default credentials). Tasks have a process each, so this changes
    nothing for others.

    Raises:
        ConfigurationError: the Google provider is not installed.
    """
    if gcp_conn_id is None:
        yield
        return
    try:
        from airflow.providers.google.common.hooks.base_google import (  # type: ignore[import-not-found,unused-ignore]
            GoogleBaseHook,
        )
        from fsspec.config import conf  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ConfigurationError(
            f"the connection {gcp_conn_id!r} needs Airflow's Google provider ({error}); "
            "install it with: pip install 'airflow-provider-gca[google]'"
        ) from error
    token = GoogleBaseHook(gcp_conn_id=gcp_conn_id).get_credentials()
    before = {name: conf[name] for name in PROTOCOLS if name in conf}
    conf.update({name: {**before.get(name, {}), "token": token} for name in PROTOCOLS})
    try:
        yield
    finally:
        for name in PROTOCOLS:
            del conf[name]
        conf.update(before)
