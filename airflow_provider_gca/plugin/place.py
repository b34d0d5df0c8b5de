"""Where the plugin is reached."""

from urllib.parse import urlsplit


def page_url(path: str = "", *, absolute: bool = False) -> str:
    """The address of a page of the plugin, with the path of ``[api] base_url`` before it.

    Args:
        path: within the plugin, without a slash before it.
        absolute: with scheme and host, for messages that leave Airflow; empty where ``base_url`` is not set.
    """
    base = base_url()
    if absolute:
        return f"{base}/gca/{path}" if base else ""
    return f"{urlsplit(base).path}/gca/{path}"


def base_url() -> str:
    """``[api] base_url`` without a slash at its end; empty where it is not set."""
    try:
        from airflow.sdk.configuration import conf
    except ImportError:  # Airflow 3.1
        from airflow.configuration import conf

    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
