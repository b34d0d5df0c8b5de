"""``gca schema``: the JSON schemas of what the annotator writes and reads."""

import json
from typing import Annotated, Literal

import typer

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MODELS = {
    "report": "DatasetReport",
    "annotation": "Annotation",
    "corrections": "Corrections",
    "result": "AnnotationResult",
}


def schema(
    kind: Annotated[
        Literal["report", "annotation", "corrections", "result"],
        typer.Argument(
            help="report: report.json; annotation: one label in it; corrections: what a review leaves; "
            "result: what --json prints."
        ),
    ] = "report",
) -> None:
    """Print the JSON schema (draft 2020-12) of the report, or of another file.

    Example: gca schema report > report.schema.json
    """
    from gca_core import annotation

    model = getattr(annotation, MODELS[kind])
    described = {"$schema": DIALECT} | model.model_json_schema(mode="serialization")
    typer.echo(json.dumps(described, indent=2, ensure_ascii=False))
