"""``gca stack``: inference jobs, gene lists and a small checkpoint."""

import logging
from typing import Annotated

import typer

from gca_core.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True)
Seeds = Annotated[str, typer.Option(help="Seeds of the draws that are averaged, with commas.")]


@app.callback()
def stack() -> None:
    """Run inference jobs, and prepare what STACK needs for them.

    STACK's code and weights come under licences for non-commercial use; research that a company pays for counts as
    commercial.
    """


@app.command()
def infer(
    job: Annotated[str | None, typer.Argument(help="Path or URI of a job file.", show_default=False)] = None,
    prompt: Annotated[str | None, typer.Option(help="h5ad of perturbed cells, counts, with obs['pair'].")] = None,
    query: Annotated[str | None, typer.Option(help="h5ad of unperturbed cells of the target type, counts.")] = None,
    control: Annotated[
        str | None, typer.Option(help="h5ad of the prompt's control cells, with the same pairs.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="h5ad to write; its job file lies beside it, in job/.")] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint of a model backend.")] = None,
    genelist: Annotated[str | None, typer.Option(help="JSON or text list of the genes that the model knows.")] = None,
    diffusion_steps: Annotated[int, typer.Option(min=1, help="Generation steps T.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per forward pass; halved while memory lacks.")] = 32,
    seeds: Seeds = "0",
    backend: Annotated[str, typer.Option(help="stack, or shift, which needs no model.")] = "stack",
    exit_with_parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Work through a job file, or through one request that the options make up.

    Exit codes: 0; 1 some requests failed (results.json beside the job file says which); and when all failed: 2 bad
    input, 3 out of memory, 4 a missing model, 5 storage.
    """
    from gca_core import io
    from gca_core.inference import job as entrypoint
    from gca_core.inference.local import write_job
    from gca_core.inference.models import InferenceRequest
    from gca_core.inference.predictor import require_backend

    files = {"prompt": prompt, "query": query, "control": control, "output": output}
    if job is not None and any(files.values()):
        raise ConfigurationError("name a job file or the files of a request, not both")
    if job is None:
        if lacking := [f"--{name}" for name, value in files.items() if value is None]:
            raise ConfigurationError(f"name a job file, or also {', '.join(lacking)}")
        require_backend(backend)
        uris = {f"{name}_uri": str(value) for name, value in files.items()}
        request = InferenceRequest(
            candidate_id=io.content_hash([uris, backend, model, genelist, diffusion_steps, seeds])[:12],
            **uris,
            backend=backend,
            checkpoint=model,
            gene_list_uri=genelist,
            diffusion_steps=diffusion_steps,
            batch_size=batch_size,
            seeds=_numbers(seeds),
        )
        job = io.as_uri(io.as_path(str(output)).parent / "job" / request.candidate_id / "job.json")
        write_job([request], job)
    logging.getLogger("gca_core").setLevel(logging.INFO)
    if exit_with_parent is not None:
        entrypoint.exit_with_parent(exit_with_parent)
    raise typer.Exit(entrypoint.run_to_exit(job))


@app.command()
def genes(
    source: Annotated[str, typer.Argument(help="A pickled list of gene symbols, as arc-stack comes with.")],
    target: Annotated[str, typer.Argument(help="The JSON list to write.")],
) -> None:
    """Convert a pickled gene list, in a process without network, secrets or the right to load classes."""
    from gca_core.inference.stack.genes import convert_pickled

    typer.echo(f"{convert_pickled(source, target)} genes in {target}")


@app.command(name="train-tiny")
def train_tiny_checkpoint(
    folder: Annotated[str, typer.Argument(help="A new folder for model.ckpt, genes.json and gate.json.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the simulated cells.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of simulation and training.")] = 0,
) -> None:
    """Train a small checkpoint on simulated responses, for tests and demonstrations, in two minutes.

    It is kept only if it uses its prompt: on held-out perturbations, prompts of the asked one have to beat those of
    another by 0.2 in Pearson correlation of the change. Else the command fails and leaves nothing.
    """
    from gca_core.inference.stack.tiny import EPOCHS, train_tiny

    figures = train_tiny(folder, epochs=epochs or EPOCHS, seed=seed)
    typer.echo(f"{folder}: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigurationError(f"seeds: expected numbers with commas, such as 0,1,2; found {text!r}") from None
