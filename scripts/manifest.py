"""Entries of the manifests that lie beside bundled data files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def update_manifest(path: Path, *, description: str, source: str, licence: str, citation: str) -> None:
    """Write or replace the entry of ``path`` in the ``manifest.json`` beside it; other entries stay."""
    manifest = path.parent / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.exists() else []
    entry = {
        "file": path.name,
        "description": description,
        "source": source,
        "licence": licence,
        "citation": citation,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
    }
    entries = sorted([e for e in entries if e["file"] != path.name] + [entry], key=lambda e: str(e["file"]))
    manifest.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
