import subprocess
import sys

import gca_core.annotation as annotation


def test_every_name_is_there_and_found_by_dir():
    assert annotation.__all__ == sorted(annotation.__all__)
    for name in annotation.__all__:
        assert getattr(annotation, name) is not None
    assert set(annotation.__all__) <= set(dir(annotation))


def test_the_room_is_entered_without_its_furniture():
    heavy = {"scanpy", "anndata", "pandas", "numpy", "langchain_core", "matplotlib"}
    code = "import sys, gca_core.annotation; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "gca_core.annotation" in done.stdout.split()
    assert not heavy & set(done.stdout.split())
