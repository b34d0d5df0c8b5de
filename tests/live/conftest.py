"""One running Airflow for all these tests, with a loopback Batch and bucket; what a test kills it starts again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.batch_loopback import BatchServer, batch_server, storage_of
from tests.helpers.gcs_loopback import Bucket, gcs
from tests.helpers.live_airflow import MARK, LiveAirflow, live_airflow


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """The bucket of the jobs."""
    with gcs() as served:
        yield served


@pytest.fixture(scope="session")
def batch_service(bucket: Bucket) -> Iterator[BatchServer]:
    """The loopback Batch behind the connection ``cloud``."""
    with batch_server(environment=storage_of(bucket.url)) as server:
        yield server


@pytest.fixture(scope="session")
def airflow(bucket: Bucket, batch_service: BatchServer) -> Iterator[LiveAirflow]:
    """A running Airflow."""
    environment = {**storage_of(bucket.url), "AIRFLOW_CONN_CLOUD": batch_service.connection}
    with live_airflow(Path(__file__).parent / "dags", environment) as running:
        # so the jobs end with it
        batch_service.environment[MARK] = str(running.home)
        yield running


@pytest.fixture
def batch(batch_service: BatchServer) -> Iterator[BatchServer]:
    """The loopback Batch, without jobs before, and without running ones afterwards."""
    batch_service.jobs.clear()
    yield batch_service
    batch_service.release()
    assert not batch_service.running()
