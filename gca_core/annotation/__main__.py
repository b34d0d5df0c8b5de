"""``python -m gca_core.annotation``: the same as ``gca scanpy``."""

import sys

from gca_core.cli.main import main

if __name__ == "__main__":
    main(["scanpy", *sys.argv[1:]])
