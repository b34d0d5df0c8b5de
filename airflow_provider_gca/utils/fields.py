"""Checks of operator arguments: literals when the operator is built, templates when it runs."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from gca_core.errors import ConfigurationError, complaints

M = TypeVar("M", bound=BaseModel)
NOTHING = ("", "None")
_FLAG = TypeAdapter(bool)


def is_literal(value: Any) -> bool:
    """Whether a value is known when the DAG is parsed: no Jinja template or output of a task is in it."""
    from airflow.sdk import XComArg

    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, Mapping):
        return all(is_literal(entry) for entry in value.values())
    if isinstance(value, list | tuple | set):
        return all(is_literal(entry) for entry in value)
    return not isinstance(value, XComArg)


def require_text(operator: str, **fields: Any) -> None:
    """Refuse literals that are not a text with something in it.

    Raises:
        ConfigurationError: names the field and what was found.
    """
    for name, value in fields.items():
        if is_literal(value) and (not isinstance(value, str) or not value.strip()):
            raise ConfigurationError(f"{operator}: {name} has to be a text, found {value!r}")


def require_choice(operator: str, choices: Collection[str], **fields: Any) -> None:
    """Refuse literals that are none of ``choices``.

    Raises:
        ConfigurationError: names the field, what was found and what would do.
    """
    for name, value in fields.items():
        if is_literal(value) and value not in choices:
            raise ConfigurationError(f"{operator}: {name} is {value!r}; use one of {', '.join(sorted(choices))}")


def require_positive(operator: str, **fields: Any) -> None:
    """Refuse literals that are not a number above zero.

    Raises:
        ConfigurationError: names the field and what was found.
    """
    for name, value in fields.items():
        if is_literal(value) and (isinstance(value, bool | str) or not value > 0):
            raise ConfigurationError(f"{operator}: {name} has to be a number above 0, found {value!r}")


def check_literals(operator: str, model: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Refuse literals that ``model`` refuses; what is still a template waits until the task runs.

    Raises:
        ConfigurationError: names each field and what is wrong with it.
    """
    waiting = {name for name, value in values.items() if not is_literal(value)}
    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        if found := complaints(error, without=waiting):
            raise ConfigurationError(f"{operator}: {found}") from None


def make_model(operator: str, model: type[M], values: Mapping[str, Any]) -> M:
    """The core's model made from rendered fields; the complaints name fields, never values.

    Raises:
        ConfigurationError: names each field and what is wrong with it.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigurationError(f"{operator}: {complaints(error)}") from None


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that say something: None, and the text a template makes of None, are left out."""
    return {
        name: value
        for name, value in values.items()
        if value is not None and not (isinstance(value, str) and value in NOTHING)
    }


def given_within(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """:func:`given` at every level; mappings that nothing is left of go, too."""
    kept: dict[str, Any] = {}
    for name, value in given(values or {}).items():
        inner = given_within(value) if isinstance(value, Mapping) else value
        if inner != {}:
            kept[name] = inner
    return kept


def as_mapping(operator: str, name: str, value: Any) -> dict[str, Any]:
    """Options as a mapping; nothing, and what is not known yet, gives none.

    Raises:
        ConfigurationError: they are something else, such as the text that a template makes of a mapping.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if value is None or not is_literal(value) or (isinstance(value, str) and value.strip() in NOTHING):
        return {}
    raise ConfigurationError(
        f"{operator}: {name} has to be a mapping, found {type(value).__name__}; put templates into its values, "
        "or render with render_template_as_native_obj"
    )


def as_flag(operator: str, name: str, value: Any) -> bool:
    """Yes or no, also as the text a template makes of it; nothing means no.

    Raises:
        ConfigurationError: names the field and what was found.
    """
    if value is None or (isinstance(value, str) and value.strip() in NOTHING):
        return False
    try:
        return _FLAG.validate_python(value.strip() if isinstance(value, str) else value)
    except ValidationError:
        raise ConfigurationError(f"{operator}: {name} has to be true or false, found {value!r}") from None
