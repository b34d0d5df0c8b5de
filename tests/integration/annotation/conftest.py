"""Annotations of whole files, on the cells that the unit tests of annotation have; and a bucket to keep them in."""

from collections.abc import Iterator

import fsspec
import pytest

from tests.integration.annotation.gcs_loopback import Bucket, gcs
from tests.unit.annotation.conftest import blood, database, simulated

__all__ = ["blood", "bucket", "database", "simulated"]


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Bucket]:
    """An empty bucket at ``gs://lab``, served on this machine to the real client."""
    # or it asks Google what kind of bucket this is
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    with gcs() as served:
        monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "endpoint_url": served.url})
        yield served
