"""``gca schema``: the JSON schemas of what the annotator writes and reads."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Kind(StrEnum):
    """What a schema can be of."""

    REPORT = "report"
    ANNOTATION = "annotation"
    CORRECTIONS = "corrections"
    RESULT = "result"


def schema(
    kind: Annotated[
        Kind,
        typer.Argument(
            help="report: report.json; annotation: one label in it; corrections: what a review leaves; "
            "result: what --json prints."
        ),
    ] = Kind.REPORT,
) -> None:
    """Print the JSON schema (draft 2020-12) of the report, or of another file.

    Example: gca schema report > report.schema.json
    """
    described = {"$schema": DIALECT} | _model(kind).model_json_schema(mode="serialization")
    typer.echo(json.dumps(described, indent=2, ensure_ascii=False))


def _model(kind: Kind) -> type[BaseModel]:
    if kind is Kind.CORRECTIONS:
        from gca_core.annotation.labels.corrections import Corrections

        return Corrections
    if kind is Kind.RESULT:
        from gca_core.annotation.run import AnnotationResult

        return AnnotationResult
    from gca_core.annotation.models import Annotation, DatasetReport

    return DatasetReport if kind is Kind.REPORT else Annotation
