from pathlib import Path

import pytest

from airflow_provider_gca.utils.place import is_shown


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("{root}/run/report.html", True),
        ("file://{root}/run/report.html", True),
        ("{root}/../secret.html", False),
        ("{root}/link/report.html", False),
        ("{root}", False),
        ("/etc/passwd", False),
        ("gs://bucket/results/a.html", True),
        ("gs://bucket/results/../a.html", False),
        ("gs://bucket/results-of-others/a.html", False),
        ("https://example.org/a.html", False),
    ],
)
def test_only_what_lies_below_named_folders_is_shown(
    uri: str, shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "results"
    (root / "run").mkdir(parents=True)
    (root / "link").symlink_to("/etc")
    monkeypatch.setenv("GCA_RESULTS_URI", root.as_uri())
    monkeypatch.setenv("GCA_PAGE_FOLDERS", "gs://bucket/results/")
    assert is_shown(uri.format(root=root)) is shown
