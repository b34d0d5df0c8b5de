from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.latent.config import LatentConfig, dump_config, example_configs, load_config, make_config

PLACES = {"input_uri": "in.h5ad", "output_uri": "out"}
configs = st.builds(
    LatentConfig,
    input_uri=st.text(min_size=1, max_size=30).filter(str.isprintable),
    output_uri=st.just("out"),
    counts_layer=st.none() | st.sampled_from(["X", "raw", "counts"]),
    recover_counts=st.booleans(),
    batch_key=st.none() | st.just("batch"),
    labels_key=st.just("label"),
    label_map=st.none()
    | st.dictionaries(st.text(max_size=10), st.none() | st.text(max_size=10), min_size=1, max_size=4),
    latent_dim=st.integers(1, 512),
    hidden_dims=st.lists(st.integers(1, 8192), min_size=1, max_size=4).map(tuple),
    dropout=st.floats(0, 0.99),
    likelihood=st.sampled_from(["nb", "zinb", "gaussian"]),
    lr=st.floats(1e-6, 1),
    epochs=st.integers(1, 1000),
    kl_warmup_epochs=st.none() | st.integers(0, 1000),
    seed=st.integers(0, 2**32 - 1),
)


@given(configs)
@example(make_config({**PLACES, "labels_key": "label", "label_map": {"\x85": None, "\u03b3\u03b4 T": "yes"}}))
@settings(deadline=None)
def test_a_configuration_survives_yaml(config: LatentConfig) -> None:
    assert make_config(yaml.safe_load(dump_config(config))) == config


@given(configs)
@settings(deadline=None)
def test_the_warm_up_is_never_negative_and_half_the_epochs_unless_given(config: LatentConfig) -> None:
    expected = config.epochs // 2 if config.kl_warmup_epochs is None else config.kl_warmup_epochs
    assert config.warmup == expected >= 0


@pytest.mark.parametrize(
    ("typo", "near"), [("epoch", "epochs"), ("latent_dims", "latent_dim"), ("label_column", "label")]
)
def test_an_unknown_key_is_refused_with_a_known_one(typo: str, near: str) -> None:
    with pytest.raises(ConfigurationError, match=f"unknown option '{typo}'.*{near}"):
        make_config({**PLACES, typo: 3})
    with pytest.raises(ValidationError, match=f"unknown option '{typo}'"):
        LatentConfig.model_validate({**PLACES, typo: 3})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("dropout", 1.0),
        ("likelihood", "poisson"),
        ("hidden_dims", []),
        ("lr", float("nan")),
        ("seed", -1),
        ("label_head", True),
        ("test_batches", ["a"]),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=key):
        make_config({**PLACES, key: value})


def test_a_label_map_needs_a_label_key() -> None:
    with pytest.raises(ConfigurationError, match="labels_key is not"):
        make_config({**PLACES, "label_map": {"x": "y"}})


def test_numeric_labels_of_yaml_become_text() -> None:
    config = make_config({**PLACES, "labels_key": "leiden", "label_map": yaml.safe_load("{a: 0, b: null}")})
    assert config.label_map == {"a": "0", "b": None}


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 7\nseed: 3\n", encoding="utf-8")
    config = load_config(path, defaults={"seed": 1, "threads": 2}, epochs=9, latent_dim=None, **PLACES)
    assert (config.epochs, config.seed, config.threads, config.latent_dim) == (9, 3, 2, 10)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "a: [1"])
def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"config\.yaml"):
        load_config(path, **PLACES)


def test_a_missing_configuration_is_named() -> None:
    with pytest.raises(DataValidationError, match=r"configuration 'nowhere\.yaml' does not exist"):
        load_config("nowhere.yaml", **PLACES)


def test_every_bundled_example_is_a_valid_configuration() -> None:
    assert "pbmc68k_reduced" in example_configs()
    for name in example_configs():
        assert load_config(name, **PLACES).input_uri == "in.h5ad"


def test_the_pbmc_example_has_six_coarse_types() -> None:
    label_map = load_config("pbmc68k_reduced", **PLACES).label_map
    assert set(label_map.values()) == {"CD34+", "T", "B", "NK", "monocyte", "dendritic"}
