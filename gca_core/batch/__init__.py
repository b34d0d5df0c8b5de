"""Jobs on Google Batch: one machine, one ``gca`` command, found again by what it computes."""

from gca_core.batch.models import Attempt, BatchConfig, JobView, Machine

__all__ = ["Attempt", "BatchConfig", "JobView", "Machine"]
