"""Results as assets: an alias among the outlets, and events with figures for what a task wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from airflow.sdk import Context

# of an asset's URI, Airflow keeps ASCII only
_KEPT = ":/?#[]@!$&'()*+,;=%~"


def with_alias(arguments: Mapping[str, Any], alias: str | None) -> dict[str, Any]:
    """An operator's arguments, with the alias among its outlets."""
    if alias is None:
        return dict(arguments)
    outlets = arguments.get("outlets") or []
    listed = list(outlets) if isinstance(outlets, list | tuple) else [outlets]
    return {**arguments, "outlets": [*listed, AssetAlias(alias)]}


def note_assets(context: Context, alias: str | None, artefacts: Mapping[str, str], extra: Mapping[str, Any]) -> None:
    """Make each artefact an event of the asset with its URI, under the alias."""
    if alias is None:
        return
    events = context["outlet_events"][AssetAlias(alias)]
    for name, uri in artefacts.items():
        events.add(Asset(quote(uri, safe=_KEPT)), extra={"artefact": name, **extra})


def describe_outlets(context: Context, outlets: Iterable[Any], extra: Mapping[str, Any]) -> None:
    """Put ``extra`` on the events of the assets that the DAG's author named as outlets."""
    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(extra)
