"""Annotations of whole files, on the cells that the unit tests of annotation have; and a bucket to keep them in."""

from tests.helpers.gcs_loopback import bucket
from tests.unit.annotation.conftest import blood, database, simulated

__all__ = ["blood", "bucket", "database", "simulated"]
