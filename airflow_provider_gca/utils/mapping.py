"""Whether Airflow maps so many tasks."""

from typing import TypeVar

from airflow_provider_gca.utils.place import airflow_conf
from gca_core.errors import DataValidationError

Entry = TypeVar("Entry")


def mappable(entries: list[Entry], what: str) -> list[Entry]:
    """These entries, if a task may be mapped over so many.

    Args:
        entries: what a task hands on for another to be mapped over.
        what: what they are, such as ``files``.

    Raises:
        DataValidationError: there are more than Airflow's ``[core] max_map_length``, which would refuse them without
            a number.
    """
    most = airflow_conf().getint("core", "max_map_length", fallback=1024)
    if len(entries) > most:
        raise DataValidationError(
            f"{len(entries):,} {what}, and Airflow maps {most:,} tasks at most (max_map_length); raise "
            "AIRFLOW__CORE__MAX_MAP_LENGTH for the API server and the workers, or start a run for each part of them"
        )
    return entries
