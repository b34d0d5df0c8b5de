import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gca_core.annotation.config import PRESETS, AnnotationConfig

HERE = {"input_uri": "a.h5ad", "output_uri": "out"}


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_preset_stands_for_species_and_tissue(preset):
    config = AnnotationConfig(**HERE, preset=preset, species=None, tissue=None)
    assert (config.species, config.tissue) == PRESETS[preset]
    again = AnnotationConfig(**HERE, preset=preset, species=config.species)
    assert again == config


@pytest.mark.parametrize(("name", "value"), [("species", "human"), ("tissue", "lung")])
def test_a_preset_that_is_contradicted_is_refused(name, value):
    with pytest.raises(ValidationError, match=f"mouse_brain means {name}.*leave one of them out"):
        AnnotationConfig(**HERE, preset="mouse_brain", **{name: value})


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(
        ValidationError, match="'rat_liver' is not known; use one of human_pbmc, mouse_pbmc, mouse_brain"
    ):
        AnnotationConfig(**HERE, preset="rat_liver")


def test_a_stored_ranking_needs_its_column():
    with pytest.raises(ValidationError, match="name their column as cluster_key"):
        AnnotationConfig(**HERE, recompute_markers=False)
    assert not AnnotationConfig(**HERE, recompute_markers=False, cluster_key="leiden").recompute_markers


@pytest.mark.parametrize(
    "options",
    [
        {"top_n_markers": 4},
        {"min_overlap": 0},
        {"resolution": 0},
        {"resolution": float("inf")},
        {"seed": -1},
        {"seed": 2**32},
        {"input_uri": ""},
        {"json_report": ""},
        {"ranking": "guess"},
        {"unheard": 1},
        {"request_id": ""},
        {"request_id": "a\nb"},
        {"request_id": "x" * 201},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValidationError):
        AnnotationConfig(**(HERE | options))


@pytest.mark.parametrize("name", ["manual__2030-01-01T00:00:00+00:00", "0f3a", "run-7_b.c@host"])
def test_ids_of_schedulers_are_request_ids(name):
    assert AnnotationConfig(**HERE, request_id=name).request_id == name


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "cluster_key": st.none() | st.text(min_size=1),
            "preset": st.none() | st.sampled_from(list(PRESETS)),
            "tissue": st.none() | st.text(),
            "top_n_markers": st.integers(-3, 60),
            "min_overlap": st.integers(-3, 10),
            "force_unknown": st.booleans(),
            "resolution": st.floats(),
            "seed": st.integers(-5, 2**33),
            "backed": st.none() | st.booleans(),
            "request_id": st.none() | st.text(max_size=8),
            "recompute_markers": st.booleans(),
        },
    )
)
def test_any_configuration_is_refused_or_survives_json(options):
    try:
        config = AnnotationConfig(**(HERE | options))
    except ValidationError:
        return
    assert AnnotationConfig.model_validate_json(config.model_dump_json()) == config
    assert config.top_n_markers >= 5
    assert config.min_overlap >= 1
    assert config.resolution > 0
    if config.preset is not None:
        assert (config.species, config.tissue) == PRESETS[config.preset]
