"""Results as they are sent: a report may run its own script and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from fastapi import HTTPException
from fastapi.responses import StreamingResponse

from gca_core.errors import GcaError
from gca_core.io import as_path, is_local, reaching

_CHUNK = 1024 * 1024
_LOOK = {".html": "text/html; charset=utf-8", ".png": "image/png", ".svg": "image/svg+xml", ".pdf": "application/pdf"}
_KEEP = {".json": "application/json", ".md": "text/markdown; charset=utf-8", ".csv": "text/csv; charset=utf-8"}
# of an origin of its own: no cookie, no request, nothing of the page around it
CSP = (
    "sandbox allow-scripts allow-popups allow-modals allow-downloads; default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; font-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)


def send_file(uri: str) -> StreamingResponse:
    """A file that was recorded: reports and figures to look at, anything else to keep.

    Raises:
        HTTPException: 404 where it is gone, or lies where the API server can't read.
    """
    path = as_path(uri)
    name = path.name
    ending = path.suffix.lower()
    try:
        with reaching(uri):
            if not path.is_file():
                raise FileNotFoundError(name)
            size = path.stat().st_size
    except (OSError, GcaError, ImportError):
        where = "on the disk of the worker that wrote it, or gone" if is_local(path) else "gone, or closed to it"
        raise HTTPException(404, f"the API server can't read {name}; it is {where}") from None

    def parts() -> Iterator[bytes]:
        with path.open("rb") as source:
            while part := source.read(_CHUNK):
                yield part

    kind = _LOOK.get(ending) or _KEEP.get(ending, "application/octet-stream")
    shown = "inline" if ending in _LOOK else "attachment"
    headers = {
        "Content-Disposition": f"{shown}; filename*=UTF-8''{quote(name)}",
        "Content-Security-Policy": CSP,
        "Content-Length": str(size),
    }
    return StreamingResponse(parts(), media_type=kind, headers=headers)
