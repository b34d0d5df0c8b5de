"""Where options come from: defaults, machine profile, file, environment, arguments."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gca_core.errors import ConfigurationError
from gca_core.latent.config import LatentConfig, dump_config, load_config, make_config, used_config
from gca_core.machine import MachineProfile, training_options

PLACES = {"input_uri": "in.h5ad", "output_uri": "out"}


def test_each_source_wins_over_the_one_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.used.yaml"
    path.write_text("threads: 3\nepochs: 3\nseed: 3\n", encoding="utf-8")
    profile = training_options(MachineProfile(annotation_threads=2, max_epochs=2, learning_rate=0.002))
    monkeypatch.setenv("GCA_VAE__EPOCHS", "4")
    monkeypatch.setenv("GCA_VAE__SEED", "4")
    config = load_config(path, defaults=profile, seed=5, **PLACES)
    assert (config.lr, config.threads, config.epochs, config.seed) == (0.002, 3, 4, 5)
    assert config.latent_dim == LatentConfig(**PLACES).latent_dim
    # a finished run is read as it was
    path.write_text(dump_config(LatentConfig(**PLACES, epochs=3)), encoding="utf-8")
    assert used_config(str(tmp_path)).epochs == 3


def test_variables_say_what_a_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "GCA_VAE__HIDDEN_DIMS": "[64, 32]",
        "gca_vae__likelihood": "zinb",
        "GCA_VAE__EARLY_STOPPING_PATIENCE": "null",
        "GCA_VAE__LABEL_HEAD": "yes",
        "GCA_VAE__LABELS_KEY": "type",
        "GCA_VAE__LABEL_MAP": '{"Treg": "T", "x": null}',
        "GCA_VAE__SEED": "",
        "GCA_SEED": "8",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = load_config(**PLACES)
    assert (config.hidden_dims, config.likelihood, config.early_stopping_patience) == ((64, 32), "zinb", None)
    assert (config.label_head, config.label_map, config.seed) == (True, {"Treg": "T", "x": None}, 0)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("GCA_VAE__EPOCS", "3", r"GCA_VAE__EPOCS: unknown option 'epocs'; did you mean 'epochs'"),
        ("GCA_VAE__EPOCHS__MORE", "3", "unknown option 'epochs__more'"),
        ("GCA_VAE__HIDDEN_DIMS", "[64", "GCA_VAE__.* variable is not valid JSON.*hidden_dims"),
        ("GCA_VAE__EPOCHS", "many", "epochs: "),
        ("GCA_VAE__", "3", "unknown option ''"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(variable, value, message, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=message):
        load_config(**PLACES)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 10_000),
            "lr": st.floats(1e-6, 1),
            "hidden_dims": st.lists(st.integers(1, 512), min_size=1, max_size=3),
            "recover_counts": st.booleans(),
            "batch_key": st.text(string.ascii_letters, min_size=1, max_size=8).filter(lambda text: text != "null"),
            "device": st.sampled_from(["auto", "cpu", "cuda"]),
        },
    )
)
@settings(deadline=None, max_examples=50)
def test_the_environment_says_the_same_as_a_file(values: dict[str, object]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(f"GCA_VAE__{name.upper()}", value if isinstance(value, str) else json.dumps(value))
        assert load_config(**PLACES) == make_config({**values, **PLACES})
