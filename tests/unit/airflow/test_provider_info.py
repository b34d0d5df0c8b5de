import importlib
import json
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from airflow_provider_gca.hooks.connection_forms import FORMS
from airflow_provider_gca.provider_info import get_provider_info


def schema(name: str) -> dict[str, Any]:
    return json.loads(resources.files("airflow").joinpath(name).read_text())


def complaints(value: Any, rules: dict[str, Any]) -> list[str]:
    validator = jsonschema.validators.validator_for(rules)
    validator.check_schema(rules)
    return [error.message for error in validator(rules).iter_errors(value)]


def test_fits_the_schema_that_airflow_checks_at_run_time() -> None:
    assert complaints(get_provider_info(), schema("provider_info.schema.json")) == []


def test_connection_types_fit_the_stricter_schema_of_provider_sources() -> None:
    stricter = schema("provider.yaml.schema.json")
    rules = {**stricter["properties"]["connection-types"], "definitions": stricter.get("definitions", {})}
    assert complaints(get_provider_info()["connection-types"], rules) == []


def test_package_name_is_the_distribution_name_that_discovery_compares_it_with() -> None:
    (entry_point,) = (
        point
        for point in metadata.distribution("airflow-provider-gca").entry_points
        if point.group == "apache_airflow_provider"
    )
    assert entry_point.load()()["package-name"] == metadata.distribution("airflow-provider-gca").metadata["Name"]


def test_every_module_it_names_exists() -> None:
    info = get_provider_info()
    modules = [
        module
        for room in ("operators", "sensors", "hooks", "triggers")
        for entry in info[room]
        for module in entry["python-modules"]
    ]
    for module in modules:
        importlib.import_module(module)
    classes = [
        *info["extra-links"],
        *info["notifications"],
        *(entry["hook-class-name"] for entry in info["connection-types"]),
    ]
    for path in classes:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


def test_every_module_of_the_shell_is_named_or_helps_one_that_is() -> None:
    info = get_provider_info()
    package = Path(importlib.import_module("airflow_provider_gca").__file__ or "").parent
    helpers = {"airflow_provider_gca.operators.base", "airflow_provider_gca.hooks.connection_forms"}
    for room in ("operators", "sensors", "hooks", "triggers"):
        there = {f"airflow_provider_gca.{room}.{path.stem}" for path in (package / room).glob("[a-z]*.py")}
        named = {module for entry in info[room] for module in entry["python-modules"]}
        assert there - helpers == named


def test_importing_it_imports_nothing_of_airflow() -> None:
    script = (
        "import sys, airflow_provider_gca.provider_info as info; info.get_provider_info();"
        "print([name for name in sys.modules if name.split('.')[0] in ('airflow', 'gca_core')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_both_styles_of_form_describe_the_same_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, dict[str, Any]] = {}

    class StringField:
        def __init__(self, label: str, **options: Any) -> None:
            made[label] = options

    class Wtforms:
        class validators:  # noqa: N801
            Optional = staticmethod(lambda: "optional")
            AnyOf = staticmethod(lambda choices: ("any of", tuple(choices)))

    Wtforms.StringField = StringField  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wtforms", Wtforms)
    for form in FORMS:
        widgets = form.widgets()
        entry = form.provider_entry()
        assert list(widgets) == list(entry["conn-fields"])
        for field in entry["conn-fields"].values():
            choices = [check[1] for check in made[field["label"]]["validators"] if check != "optional"]
            assert choices == ([tuple(field["schema"]["enum"][:-1])] if "enum" in field["schema"] else [])
        behaviour = {key.replace("_", "-"): value for key, value in form.field_behaviour().items()}
        assert behaviour == entry["ui-field-behaviour"]


def test_no_field_of_a_form_holds_a_secret_outside_the_password() -> None:
    names = {name for form in FORMS for name in form.fields}
    assert not [name for name in names if any(word in name for word in ("key", "token", "secret", "password"))]
