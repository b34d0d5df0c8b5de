"""How much memory a process of a benchmark has needed."""

from __future__ import annotations

import re
from pathlib import Path


def peak_gib() -> float:
    """High-water mark of this process's own resident memory, in GiB; NaN where the system doesn't tell.

    ``ru_maxrss`` would not do: a process that was started by a larger one begins with that one's mark.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8")) if status.is_file() else None
    return int(found.group(1)) / 2**20 if found else float("nan")
