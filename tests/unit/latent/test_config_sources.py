"""Where options come from: default.yaml, machine profile, file, environment, arguments."""

from __future__ import annotations

import string
from importlib import resources
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gca_core.errors import ConfigurationError
from gca_core.latent.config import LatentConfig, default_value, environment_options, load_config
from gca_core.machine import MachineProfile, training_options

PLACES = {"input_uri": "in.h5ad", "output_dir": "out"}
OPTIONS = sorted(set(LatentConfig.model_fields) - set(PLACES))


def test_every_option_has_its_default_in_the_file_and_nothing_else_is_there() -> None:
    text = resources.files("gca_core.latent").joinpath("default.yaml").read_text(encoding="utf-8")
    assert sorted(yaml.safe_load(text)) == OPTIONS


def test_the_defaults_of_the_file_are_valid_and_those_of_a_configuration() -> None:
    config = LatentConfig(**PLACES)
    assert {name: getattr(config, name) for name in OPTIONS} == {
        name: tuple(value) if isinstance(value := default_value(name), list) else value for name in OPTIONS
    }


def test_changing_a_default_that_was_read_changes_nothing_for_others() -> None:
    default_value("hidden_dims").append(7)
    assert LatentConfig(**PLACES).hidden_dims == tuple(default_value("hidden_dims"))


def test_each_source_wins_over_the_one_below(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("threads: 3\nepochs: 3\nseed: 3\n", encoding="utf-8")
    profile = training_options(MachineProfile(annotation_threads=2, max_epochs=2, learning_rate=0.002))
    environ = {"GCA_VAE__EPOCHS": "4", "GCA_VAE__SEED": "4"}
    config = load_config(path, defaults=profile, environ=environ, seed=5, **PLACES)
    assert (config.lr, config.threads, config.epochs, config.seed) == (0.002, 3, 4, 5)
    assert config.latent_dim == default_value("latent_dim")


def test_the_process_environment_is_looked_at_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCA_VAE__EPOCHS", "9")
    assert load_config(**PLACES).epochs == 9
    assert load_config(environ={}, **PLACES).epochs == default_value("epochs")


def test_variables_are_read_as_yaml() -> None:
    environ = {
        "GCA_VAE__HIDDEN_DIMS": "[64, 32]",
        "gca_vae__likelihood": "zinb",
        "GCA_VAE__EARLY_STOPPING_PATIENCE": "null",
        "GCA_VAE__LABEL_HEAD": "yes",
        "GCA_VAE__LABEL_KEY": "type",
        "GCA_VAE__SEED": "  ",
        "GCA_SEED": "8",
    }
    config = load_config(environ=environ, **PLACES)
    assert (config.hidden_dims, config.likelihood, config.early_stopping_patience) == ((64, 32), "zinb", None)
    assert config.label_head
    assert config.seed == default_value("seed")


def test_a_variable_can_name_one_entry_of_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("label_key: fine\nlabel_map: {a: x, b: y}\n", encoding="utf-8")
    config = load_config(path, environ={"GCA_VAE__LABEL_MAP__b": "z", "GCA_VAE__LABEL_MAP__C__D": "null"}, **PLACES)
    assert config.label_map == {"a": "x", "b": "z", "C__D": None}
    whole = load_config(path, environ={"GCA_VAE__LABEL_MAP": "{b: w}"}, **PLACES).label_map
    assert whole == {"a": "x", "b": "w"}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("GCA_VAE__EPOCS", "3", r"GCA_VAE__EPOCS: unknown option 'epocs'; did you mean 'epochs'"),
        ("GCA_VAE__EPOCHS__MORE", "3", "'epochs' has no entries"),
        ("GCA_VAE__HIDDEN_DIMS", "[64", "GCA_VAE__HIDDEN_DIMS is not valid YAML"),
        ("GCA_VAE__EPOCHS", "many", "epochs: "),
        ("GCA_VAE__", "3", "unknown option ''"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(variable: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_config(environ={variable: value}, **PLACES)


@given(st.text(string.ascii_letters + string.digits + "_ .-", min_size=1, max_size=20), st.text(max_size=20))
@settings(deadline=None, max_examples=200)
def test_any_variable_is_either_an_option_or_refused(suffix: str, value: str) -> None:
    try:
        options = environment_options({f"GCA_VAE__{suffix}": value})
    except ConfigurationError as error:
        assert suffix in str(error)
    else:
        assert set(options) <= set(OPTIONS) | set(PLACES)
        assert not value.strip() or len(options) == 1


@given(st.dictionaries(st.text(max_size=15), st.text(max_size=15), max_size=6))
@settings(deadline=None)
def test_variables_of_others_are_left_alone(environ: dict[str, str]) -> None:
    others = {name: value for name, value in environ.items() if not name.upper().startswith("GCA_VAE__")}
    assert environment_options(others) == {}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 10_000),
            "lr": st.floats(1e-6, 1),
            "hidden_dims": st.lists(st.integers(1, 512), min_size=1, max_size=3),
            "recover_counts": st.booleans(),
            "batch_key": st.text(string.ascii_letters, min_size=1, max_size=8),
            "device": st.sampled_from(["auto", "cpu", "cuda"]),
        },
    )
)
@settings(deadline=None, max_examples=50)
def test_the_environment_says_the_same_as_a_file(values: dict[str, object]) -> None:
    environ = {
        f"GCA_VAE__{name.upper()}": yaml.safe_dump(value).removesuffix("...\n") for name, value in values.items()
    }
    assert load_config(environ=environ, **PLACES) == load_config(environ={}, defaults=values, **PLACES)
