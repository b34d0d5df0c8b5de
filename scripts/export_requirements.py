"""Print what some extras need, pinned, without Airflow: ``export_requirements.py scanpy observability``.

Without extras, write docker/stack/requirements.txt, what the inference image installs; with --check nothing is
written, and the exit code says whether that file is current.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docker" / "stack" / "requirements.txt"
# vae, so that the same image trains on a GPU
EXTRAS = ("gcs", "stack", "vae")
WITHOUT = {"apache-airflow"}


def requirements(names: tuple[str, ...] = EXTRAS) -> list[str]:
    """The direct requirements; constraints.txt pins these and all that they bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = set(project["dependencies"] + [line for name in names for line in extras[name]])
    return sorted(line for line in wanted if re.split(r"[\[<>=~! ;]", line)[0].lower() not in WITHOUT)


if __name__ == "__main__":
    if names := tuple(name for name in sys.argv[1:] if name != "--check"):
        print(*requirements(names), sep="\n")
        sys.exit()
    text = "\n".join(["# made by scripts/export_requirements.py", "-c ../../constraints.txt", *requirements(), ""])
    if "--check" in sys.argv:
        sys.exit(TARGET.read_text() != text)
    TARGET.write_text(text)
