"""Commands whose options are fields of a configuration: help, limits and defaults stand there alone."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

F = TypeVar("F", bound=Callable[..., Any])
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def with_fields(
    model: type[BaseModel],
    fields: Iterable[str],
    *functions: Callable[..., Any],
    spelling: Mapping[str, tuple[str, ...]] = _NOTHING,
    defaults: Mapping[str, str] = _NOTHING,
) -> Callable[[F], F]:
    """Give a command that ends in ``**given`` these fields of the configuration, and what the functions take.

    An option that isn't given is None, whatever its default.

    Args:
        model: the configuration.
        fields: of which ones.
        functions: their keyword arguments become options as they stand.
        spelling: the options of fields that are no ``--their-name``.
        defaults: what the help says of those that the configuration doesn't decide.
    """
    told = _described(model)
    added = [
        _parameter(name, model.model_fields[name], told.get(name), spelling.get(name, ()), defaults.get(name))
        for name in fields
    ]
    for function in functions:
        added += [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def decorate(command: F) -> F:
        own = inspect.signature(command, eval_str=True)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        first = [p for p in named if p.kind is not p.KEYWORD_ONLY]
        parameters = [*first, *added, *named[len(first) :]]
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _described(model: type[BaseModel]) -> dict[str, str]:
    """What the docstring says of each field, as a sentence."""
    entries = re.findall(r"^    (\w+): (.+?)(?=^    \w+: |\Z)", inspect.getdoc(model) or "", re.MULTILINE | re.DOTALL)
    plain = {name: " ".join(text.replace("``", "").split()) for name, text in entries}
    return {name: text[0].upper() + text[1:] for name, text in plain.items()}


def _parameter(
    name: str, field: FieldInfo, told: str | None, spelled: tuple[str, ...], default: str | None
) -> inspect.Parameter:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    default = default or (None if field.default is None or field.annotation is bool else str(field.default))
    limits = {side: getattr(limit, side) for limit in field.metadata for side in ("ge", "le") if hasattr(limit, side)}
    option = typer.Option(
        *spelled,
        help=field.description or told,
        show_default=False if default is None else default,
        min=limits.get("ge"),
        max=limits.get("le"),
        metavar={int: "INT", bool: ""}.get(field.annotation),  # type: ignore[arg-type]
        rich_help_panel=str(extra["group"]) if "group" in extra else None,
    )
    plain = field.annotation in (bool, int, float) or get_origin(field.annotation) is Literal
    kind: Any = field.annotation if plain else str
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )
