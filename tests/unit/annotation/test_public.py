import subprocess
import sys

import gca_core.annotation as annotation


def test_every_name_is_there_and_found_by_dir():
    assert annotation.__all__ == sorted(annotation.__all__)
    for name in annotation.__all__:
        assert getattr(annotation, name) is not None
    assert set(annotation.__all__) <= set(dir(annotation))


def test_the_room_is_entered_without_its_furniture():
    heavy = "{'scanpy', 'anndata', 'pandas', 'numpy', 'langchain_core', 'matplotlib'}"
    code = f"import sys, gca_core.annotation; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
