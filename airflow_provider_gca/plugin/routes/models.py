"""What the API takes and gives."""

from typing import Any

from pydantic import BaseModel


class Fault(BaseModel):
    """Every refusal and failure.

    Attributes:
        error: the status in words.
        error_type: which kind, for programs.
        message: what was found, what was expected, what to do.
        details: more of it; places and messages of fields that don't fit.
        run_id: the run that was asked for, where one was.
    """

    error: str
    error_type: str
    message: str
    details: Any = None
    run_id: str | None = None


class Health(BaseModel):
    """Whether the parts behind the API answer."""

    status: str
    database: str


class Metadata(BaseModel):
    """What runs here."""

    version: str
    airflow_version: str
    dag_id: str
