"""``gca examples``: the example DAGs that ship with the package."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from gca_core.errors import ConfigurationError, DataValidationError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def examples() -> None:
    """Copy the example DAGs that ship with the package."""


@app.command()
def copy(
    folder: Annotated[Path, typer.Argument(help="Airflow's DAGs folder, or any other; made where it is missing.")],
    overwrite: Annotated[bool, typer.Option(help="Replace files of these names, or refuse to.")] = False,
) -> None:
    """Copy the example DAGs into a folder, where every Airflow from 3.1 on finds them."""
    from gca_core import io

    sources = _sources()
    there = [path.name for path in sources if (folder / path.name).exists()]
    if there and not overwrite:
        raise DataValidationError(
            f"{folder} already holds {', '.join(there)}; take another folder, or replace them with --overwrite"
        )
    for path in sources:
        io.write_text(folder / path.name, path.read_text(encoding="utf-8"))
        typer.echo(str(folder / path.name))


def _sources() -> list[Path]:
    """The files, of the wheel or of the repository."""
    found = find_spec("airflow_provider_gca")
    places = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    for folder in [place / "example_dags" for place in places] + [place.parent / "dags" for place in places]:
        if files := sorted(folder.glob("gca_*.py")):
            return files
    raise ConfigurationError("this installation has no example DAGs; install airflow-provider-gca from its wheel")
