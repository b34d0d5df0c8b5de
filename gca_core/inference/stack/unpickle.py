"""Reads a pickled list of texts and prints it as JSON; run as a script of its own, never imported for its work."""

import contextlib
import importlib
import json
import pickle
import resource
import sys
from collections.abc import Sequence
from typing import Any

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
}
FORBIDDEN = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.spawn", "ctypes.")
MEMORY, SECONDS = 2 << 30, 30


class ListUnpickler(pickle.Unpickler):
    """Knows no class but those of numpy's arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """A class that a pickle names."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event.startswith(FORBIDDEN):
        raise PermissionError(f"it tries {event}")


def main(path: str) -> None:
    """Print the list in ``path`` as JSON."""
    with contextlib.suppress(ImportError):
        # it loads libraries, which is forbidden from here on
        importlib.import_module("numpy._core.multiarray")
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sys.addaudithook(_refuse)
    with open(path, "rb") as file:  # noqa: PTH123
        found = ListUnpickler(file).load()
    found = found.tolist() if hasattr(found, "tolist") else found
    genes = list(found) if isinstance(found, Sequence | set | frozenset) and not isinstance(found, str) else found
    # a pipe has no size, so that the limit on files doesn't touch it
    json.dump(genes, sys.stdout)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
