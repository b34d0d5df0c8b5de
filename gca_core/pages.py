"""Reports: self-contained HTML pages with every text from data escaped, and Markdown."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

# what Markdown would take for its own: marks, tags, cells of a table, and lines
_MARKS = re.compile(r"([\\`*\[\]<>|~])")
_SPACE = re.compile(r"\s+")


def render_page(package: str, template: str, **values: Any) -> str:
    """Fill a template of a package that extends ``page.html.j2``; a name that it lacks is an error.

    It gets the shared style, and the only script that it may run.
    """
    folder = resources.files("gca_core") / "templates"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    shared = {
        "style": Markup(style),  # noqa: S704 - of this package  # nosec B704
        "script": Markup(script),  # noqa: S704 - of this package  # nosec B704
        "script_hash": f"sha256-{base64_text(hashlib.sha256(script.encode()).digest())}",
    }
    return _environment(package, "gca_core", autoescape=True).get_template(template).render(shared | values)


def render_markdown(package: str, template: str, **values: Any) -> str:
    """Fill a Markdown template: texts from data stay text, and in one line."""
    return _environment(package, autoescape=False, finalize=_plain).get_template(template).render(values)


def as_markdown(text: str) -> str:
    """A text from data as Markdown shows it: in one line, and without meaning to it."""
    return str(_plain(text))


def render_parts(package: str, template: str, **values: Any) -> dict[str, str]:
    """Fill a template of a package that sets several texts, by their names; it escapes those that need it itself."""
    environment = _environment(package, autoescape=False)
    made = vars(environment.get_template(template).make_module(values))
    return {name: str(text) for name, text in made.items() if isinstance(text, str) and not name.startswith("_")}


def base64_text(data: bytes) -> str:
    """A picture as pages hold it."""
    return base64.b64encode(data).decode("ascii")


# which keeps the templates that it has compiled
@cache
def _environment(*packages: str, **options: Any) -> jinja2.Environment:
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in packages])
    return jinja2.Environment(  # noqa: S701 - callers say what escapes  # nosec B701
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader, **options
    )


def _plain(value: Any) -> Any:
    return _MARKS.sub(r"\\\1", _SPACE.sub(" ", value)) if isinstance(value, str) else value
