"""More entries than Airflow maps are refused with their number and what to do."""

import pytest

from airflow_provider_gca.utils.mapping import mappable
from gca_core.errors import DataValidationError

pytestmark = pytest.mark.usefixtures("airflow_home")


def test_more_than_airflow_maps_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")
    assert mappable([1, 2], "files") == [1, 2]
    with pytest.raises(DataValidationError, match=r"3 files, and Airflow maps 2 tasks at most.*MAX_MAP_LENGTH"):
        mappable([1, 2, 3], "files")
