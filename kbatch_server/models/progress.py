"""The progress of a job, as the job itself reports it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ..errors import InvalidRequest
from ..validation import checked
from .request import Text
from .times import Moment

MAX_COUNT = 1e15
"""The largest number of things done: JavaScript counts a little further."""

Count = Annotated[float, Field(ge=0, le=MAX_COUNT, allow_inf_nan=False)]


class ProgressRequest(BaseModel):
    """How far a job is: ``done`` of ``total`` things, and a line of text. At least one of them is set."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    done: Count | None = None
    total: Annotated[float, Field(gt=0, le=MAX_COUNT, allow_inf_nan=False)] | None = None
    message: Annotated[Text, Field(max_length=500)] = ""

    @classmethod
    def from_json(cls, data: Any) -> ProgressRequest:
        """Return the report in parsed JSON, or raise InvalidRequest with each wrong field."""
        report = checked(cls, data)
        if report.done is None and not report.message:
            raise InvalidRequest.of_field("done", "is required, unless there is a message")
        return report


class JobProgress(BaseModel):
    """How far a job is, according to its latest report."""

    done: float | None = None
    total: float | None = None
    message: str = ""
    at: Moment
    """When it was reported."""
