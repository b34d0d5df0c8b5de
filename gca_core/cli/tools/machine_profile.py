"""``gca machine-profile``: write down what this machine has."""

from typing import Annotated

import typer


def machine_profile(
    output: Annotated[
        str, typer.Option("--output", "-o", help="The file to write; '-' prints the profile instead.")
    ] = "config.yml",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a profile of this machine, which training takes its device, threads, batch size and memory from."""
    from gca_core.machine import detect_machine, dump_profile, training_options, write_profile

    if output == "-":
        typer.echo(dump_profile(detect_machine()), nl=False)
        return
    profile = detect_machine()
    uri = write_profile(output, profile, replace=force)
    options = ", ".join(f"{name} {value}" for name, value in training_options(profile).items())
    typer.echo(f"wrote {uri}\ntraining will use: {options}")
