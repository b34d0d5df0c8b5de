"""How ``gca vae`` reads its arguments; the training itself is replaced."""

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gca_core.cli.main import app
from gca_core.cli.vae import commands as vae
from gca_core.latent.config import LatentConfig

RESULT = {
    "model": "vae-nb",
    "n_cells": 1,
    "n_genes": 1,
    "seed": 0,
    "metrics": {"val_negative_elbo": 1.0},
    "seconds": {"train": 1.0},
    "uris": {"run": "file:///run.json"},
}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[LatentConfig]:
    """Configurations that training was asked for."""
    asked: list[LatentConfig] = []

    def train(config: LatentConfig) -> dict[str, Any]:
        asked.append(config)
        return RESULT

    monkeypatch.setattr(vae, "_train", train)
    monkeypatch.chdir(tmp_path)
    return asked


def invoke(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["vae", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_train_is_meant_when_no_command_is_named(trained: list[LatentConfig]) -> None:
    for arguments in (
        ["train", "in.h5ad", "--epochs", "3"],
        ["in.h5ad", "--epochs", "3"],
        ["--epochs", "3", "in.h5ad"],
    ):
        assert invoke(*arguments).exit_code == 0
    assert trained[0] == trained[1] == trained[2]
    assert (trained[0].input_uri, trained[0].epochs) == ("in.h5ad", 3)


def test_without_arguments_the_help_names_every_command(trained: list[LatentConfig]) -> None:
    output = invoke().output
    assert all(name in output for name in ("train", "eval", "viz", "pipeline", "embed", "map"))
    assert not trained


def test_pipeline_is_a_command_and_a_flag(trained: list[LatentConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    from gca_core.latent.evaluation import figures as gallery

    drawn: list[str] = []

    def draw(run_uri: str, **_: Any) -> dict[str, str]:
        drawn.append(run_uri)
        return {"tsne": "file:///tsne.png"}

    monkeypatch.setattr(gallery, "draw_run", draw)
    for arguments in (["pipeline", "in.h5ad"], ["--pipeline", "in.h5ad"], ["train", "in.h5ad", "--pipeline"]):
        assert "tsne.png" in invoke(*arguments).output
    assert "tsne.png" not in invoke("train", "in.h5ad").output
    assert drawn == [trained[0].output_uri] * 3


@pytest.mark.parametrize("option", ["--output-dir", "--output_dir"])
def test_the_output_folder_has_two_spellings(trained: list[LatentConfig], option: str) -> None:
    assert invoke("in.h5ad", option, "there").exit_code == 0
    assert trained[0].output_uri == "there"


def test_without_a_folder_equal_runs_share_one_under_outputs(trained, monkeypatch):
    for arguments in (["in.h5ad"], ["in.h5ad"], ["in.h5ad", "--seed", "1"]):
        invoke(*arguments)
    first, second, third = (config.output_uri for config in trained)
    assert first == second != third
    assert first.startswith("outputs/in-")
    monkeypatch.setenv("GCA_RESULTS_URI", "memory://results")
    invoke("in.h5ad")
    assert trained[-1].output_uri == f"memory://results/latent/{first.removeprefix('outputs/')}"


def test_the_input_may_stand_in_the_configuration(trained: list[LatentConfig], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("input_uri: mine.h5ad\nepochs: 7\n", encoding="utf-8")
    assert invoke("--config", "run.yaml").exit_code == 0
    assert (trained[0].input_uri, trained[0].epochs) == ("mine.h5ad", 7)


def test_without_any_input_the_option_is_named(trained: list[LatentConfig]) -> None:
    from gca_core.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="input_uri: Field required"):
        invoke("--epochs", "3")
    assert not trained


def test_the_machine_profile_gives_what_nothing_else_does(trained, tmp_path, monkeypatch):
    (tmp_path / "machine.yml").write_text("annotation_threads: 3\nbatch_size: 64\n", encoding="utf-8")
    monkeypatch.setenv("GCA_MACHINE_PROFILE", "machine.yml")
    invoke("in.h5ad", "--batch-size", "32")
    assert (trained[0].threads, trained[0].loader_workers, trained[0].batch_size) == (3, 3, 32)


def test_a_mistyped_command_is_not_taken_for_an_input(trained: list[LatentConfig]) -> None:
    done = invoke("pipelin", "in.h5ad")
    assert done.exit_code == 2
    assert "pipeline" in done.output
    assert not trained


@pytest.mark.parametrize("option", ["--dry-run", "--dry_run"])
def test_a_dry_run_has_one_epoch_on_cells_that_are_gone_afterwards(trained, option, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "input_uri: mine.h5ad\nlabels_key: mine\nlabel_map: {a: b}\nepochs: 50\nlatent_dim: 3\ntest_batches: [x]\n"
        "split_key: donor\n",
        encoding="utf-8",
    )
    assert invoke(option, "--config", "run.yaml").exit_code == 0
    config = trained[0]
    assert (config.epochs, config.labels_key, config.latent_dim, config.test_batches) == (1, "cell_type", 3, ())
    assert config.output_uri == "outputs/dry-run"
    assert not Path(config.input_uri).exists()


def test_a_dry_run_keeps_its_cells_when_the_profile_says_so(trained, tmp_path, monkeypatch):
    (tmp_path / "config.yml").write_text("keep_temp_files: true\n", encoding="utf-8")
    monkeypatch.setenv("GCA_MACHINE_PROFILE", "config.yml")
    invoke("--dry-run")
    kept = Path(trained[0].input_uri)
    assert kept.exists()
    kept.unlink()
    kept.parent.rmdir()


@given(name=st.text(string.ascii_letters + string.digits + "äß _.", min_size=1, max_size=20))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_name_gives_a_folder_under_outputs(trained: list[LatentConfig], name: str) -> None:
    trained.clear()
    assert invoke("train", f"data/{name}.h5ad").exit_code == 0
    assert trained[0].input_uri == f"data/{name}.h5ad"
    folder = Path(trained[0].output_uri)
    assert folder.parent == Path("outputs")
    assert folder.name not in {"", ".", ".."}
