"""Write docker/stack/requirements.txt: what the inference image installs, pinned, which is all but Airflow.

With --check nothing is written, and the exit code says whether the file is current.
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


def requirements() -> str:
    """The direct requirements of the image; constraints.txt pins these and all that they bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = set(project["dependencies"] + [line for name in EXTRAS for line in extras[name]])
    kept = sorted(line for line in wanted if re.split(r"[\[<>=~! ;]", line)[0].lower() not in WITHOUT)
    return "# made by scripts/export_stack_requirements.py\n-c ../../constraints.txt\n" + "".join(
        f"{x}\n" for x in kept
    )


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(TARGET.read_text() != requirements())
    TARGET.write_text(requirements())
