"""Annotations of whole files, on the cells that the unit tests of annotation have; and a bucket to keep them in."""

from tests.helpers.blood import blood, database, simulated
from tests.helpers.gcs_loopback import bucket

__all__ = ["blood", "bucket", "database", "simulated"]
