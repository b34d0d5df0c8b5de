"""Where the plugin is reached, and which results it shows."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode, urlsplit


def page_url(path: str = "", *, absolute: bool = False, base_url: str | None = None) -> str:
    """The address of a page of the plugin, with the path of ``[api] base_url`` before it.

    Args:
        path: within the plugin, without a slash before it.
        absolute: with scheme and host, for messages that leave Airflow; empty where nobody said where Airflow is.
        base_url: instead of Airflow's setting.
    """
    base = (base_url or _configured()).rstrip("/")
    if absolute:
        return f"{base}/gca/{path}" if base else ""
    return f"{urlsplit(base).path}/gca/{path}"


def result_url(dag_id: str, dag_run_id: str, task_id: str, map_index: int, kind: str) -> str:
    """The address of a report or figure that a task recorded."""
    asked = {"dag_id": dag_id, "dag_run_id": dag_run_id, "task_id": task_id, "map_index": map_index, "kind": kind}
    return page_url(f"results?{urlencode(asked)}")


def uri_key(kind: str) -> str:
    """The XCom in which a task records where its report or figure lies."""
    return f"gca_{kind}_uri"


def is_shown(uri: str) -> bool:
    """Whether the plugin shows what lies there: below the results root, or a folder of ``GCA_PAGE_FOLDERS``.

    An XCom can be written by whoever may edit one, so that it must not lead to any file of the API server.
    """
    from gca_core.config import load_settings

    settings = load_settings()
    folders = (settings.results_root(), *settings.page_folders.split(","))
    return any(_below(uri, folder.strip()) for folder in folders if folder.strip())


def _below(uri: str, folder: str) -> bool:
    from gca_core.io import as_path, is_local

    if "://" not in uri or uri.startswith("file://"):
        root = as_path(folder) if "://" not in folder or folder.startswith("file://") else None
        return root is not None and is_local(root) and root.resolve() in as_path(uri).resolve().parents
    return uri.startswith(f"{folder.rstrip('/')}/") and ".." not in uri.split("/")


def _configured() -> str:
    return str(airflow_conf().get("api", "base_url", fallback="") or "")


def airflow_conf() -> Any:
    try:
        from airflow.sdk.configuration import conf
    except ImportError:  # Airflow 3.1
        from airflow.configuration import conf
    return conf
