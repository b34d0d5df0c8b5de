"""The run records and the atlas, as the connection ``gca_atlas_default`` or the settings lead to them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from airflow_provider_gca.hooks.atlas import AtlasHook
from gca_core.config import load_settings

if TYPE_CHECKING:
    from gca_core.atlas import Atlas
    from gca_core.atlas.explore import Explorer
    from gca_core.runs.store import RunStore


def page_dag_id() -> str:
    """The DAG that the page starts."""
    return load_settings().page_dag_id


@lru_cache(maxsize=1)
def run_store() -> RunStore:
    """The run records; found once a process."""
    from gca_core.runs.store import RunStore

    return RunStore(AtlasHook().get_dsn(), pool=True)


@lru_cache(maxsize=1)
def atlas() -> Atlas:
    """The atlas; found once a process."""
    return AtlasHook().get_conn()


@lru_cache(maxsize=1)
def explorer() -> Explorer:
    """The atlas for those who look around in it; found once a process."""
    from gca_core.atlas.explore import Explorer

    return Explorer(AtlasHook().get_dsn())
