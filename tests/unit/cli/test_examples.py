from pathlib import Path

from typer.testing import CliRunner

from gca_core.cli.main import app, main


def copy(folder: Path, *options: str) -> int:
    try:
        main(["examples", "copy", str(folder), *options])
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def test_the_examples_are_copied_and_nothing_is_replaced_unasked(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "Airflow's dags"
    assert CliRunner().invoke(app, ["examples", "copy", str(folder)]).exit_code == 0
    (folder / "gca_annotate.py").write_text("mine")
    (folder / "gca_latent.py").unlink()
    assert copy(folder) == 2
    assert "already holds gca_annotate.py" in " ".join(capsys.readouterr().err.split())
    assert (folder / "gca_annotate.py").read_text() == "mine" and not (folder / "gca_latent.py").exists()
    assert copy(folder, "--overwrite") == 0
    assert "dag_id" in (folder / "gca_annotate.py").read_text()
