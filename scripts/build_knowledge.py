"""Build the bundled knowledge snapshot from files that a user downloads.

    python scripts/build_knowledge.py --source FOLDER [--output gca_core/knowledge/data]

The same as ``gca knowledge build``; see docs/guides/knowledge.md for the files and where they come from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gca_core.knowledge.bundled.build import build_snapshot
from gca_core.knowledge.bundled.files import BUNDLED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the downloaded files")
    parser.add_argument("--output", type=Path, default=BUNDLED, help="folder of the bundled files")
    arguments = parser.parse_args()
    for part in build_snapshot(arguments.source, arguments.output):
        size = "skipped: its source is not there" if part.bytes is None else f"{part.bytes:,} bytes"
        print(f"{part.file} from {part.source}: {size}")


if __name__ == "__main__":
    main()
