"""What a run refuses before any work; whole runs are in the integration tests."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gca_core.cli.vae.commands import app
from gca_core.errors import ConfigurationError, DataValidationError, GcaError
from gca_core.latent import TorchVAE
from gca_core.latent.train import run_training
from gca_core.locks import sole_writer
from tests.helpers.latent_counts import Configure, Save, counts_with_groups, scaled_with_raw


def test_the_command_refuses_what_the_core_refuses(save: Save, tmp_path: Path) -> None:
    out = tmp_path / "never"
    cells = save(scaled_with_raw(counts_with_groups()))
    done = CliRunner().invoke(app, ["pipeline", cells, "--output-dir", str(out)])
    assert isinstance(done.exception, DataValidationError)
    assert "recover_counts" in str(done.exception)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels_key": "celltype"}, "found 'group', 'batch'"),
        ({"labels_key": "one"}, "at least two labels"),
        ({"labels_key": "group", "label_map": {"a": "x"}}, "label_map lacks 'b', 'c'"),
        ({"recover_counts": True}, "leave recover_counts off"),
        ({"labels_key": "group", "knn_neighbors": 140}, "lower knn_neighbors"),
    ],
)
def test_bad_input_fails_before_any_work_and_writes_nothing(save, configure, monkeypatch, options, message):
    cells = counts_with_groups()
    cells.obs["one"] = "same"
    config = configure(save(cells), **options).model_copy()
    monkeypatch.setattr(TorchVAE, "fit", lambda *_: pytest.fail("training began"))
    with pytest.raises(GcaError, match=message):
        run_training(config)
    assert not Path(config.output_uri).exists()


def test_an_output_folder_that_is_a_file_or_in_use_is_refused(save: Save, configure: Configure, tmp_path: Path) -> None:
    config = configure(save(counts_with_groups()))
    with sole_writer(config.output_uri), pytest.raises(DataValidationError, match="already running: process"):
        run_training(config)
    (tmp_path / "out").write_text("keep me", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="can't be a folder"):
        run_training(config)
    assert (tmp_path / "out").read_text(encoding="utf-8") == "keep me"
