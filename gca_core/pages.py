"""HTML pages: self-contained, with every text from data escaped."""

import base64
from typing import Any

import jinja2


def render_template(package: str, template: str, **values: Any) -> str:
    """Fill a template of a package's ``templates`` folder; a name that it lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def base64_text(data: bytes) -> str:
    """A picture as pages hold it."""
    return base64.b64encode(data).decode("ascii")
