"""The notebook that a job runs: which one, with which parameters, on which kernel."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_PATH_LENGTH = 1000

MAX_PARAMETERS = 200
"""Maximum number of names: more than any cell of parameters that somebody wrote by hand has."""

MAX_PARAMETER_BYTES = 64 * 1024
"""Maximum size of all values: the job's record, its Secret and the resulting notebook contain them."""

MAX_DEPTH = 20
"""Maximum depth of lists and objects: Python's own compiler gives up at 100."""

MAX_EXPRESSION_LENGTH = 4096

# a name of Python or Julia, or one of R's, which may have dots
_NAME = re.compile(r"[^\W\d]\w*(?:\.\w+)*")


def _checked_path(value: str) -> str:
    _check_text(value)
    if not value.endswith(".ipynb"):
        raise ValueError("must be the path of a notebook, like analysis/train.ipynb")
    if ".." in value.split("/"):
        raise ValueError("must stay inside the code: remove '..'")
    return value


def _checked_names(value: Any) -> Any:
    if not isinstance(value, dict):
        return value  # that it is none is said by its type
    if len(value) > MAX_PARAMETERS:
        raise ValueError(f"has {len(value)} names; the limit is {MAX_PARAMETERS}")
    for name in value:
        if not (len(name) <= 100 and _NAME.fullmatch(name)):
            raise ValueError(f"{name[:60]!r} is not a valid variable name")
        _check_text(name)
    return value


def _checked_values(value: Any) -> Any:
    """Return parsed JSON after a look at each part of it, which ends where there is too much."""
    room = MAX_PARAMETER_BYTES
    left = [(value, 0)]
    while left:
        each, depth = left.pop()
        room -= _measure(each)
        if isinstance(each, (list, dict)):
            if depth > MAX_DEPTH:
                raise ValueError(f"are nested more than {MAX_DEPTH} deep: put them into a file of the code")
            room -= len(each)
            if room >= 0:
                left += [(part, depth + 1) for part in (each.values() if isinstance(each, dict) else each)]
                left += [(key, depth + 1) for key in each if isinstance(each, dict)]
        if room < 0:
            raise ValueError(f"are more than {MAX_PARAMETER_BYTES} bytes: put them into a file of the code")
    return value


def _measure(value: Any) -> int:
    """Return the approximate size of a value in bytes, without its elements. Raises ValueError."""
    if isinstance(value, str):
        return len(_check_text(value))
    if isinstance(value, bool) or value is None:
        return 4
    if isinstance(value, int):
        return value.bit_length() // 3 + 1
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("contain a number that is not finite: use an expression, like float('inf')")
    return 8


def _check_text(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("contain a NUL character")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("contain an unpaired surrogate") from None


def _checked_expression(value: str) -> str:
    _check_text(value)
    if not value.strip():
        raise ValueError("must not be empty: leave the name out to keep the notebook's own value")
    return value


Expression = Annotated[str, Field(max_length=MAX_EXPRESSION_LENGTH), AfterValidator(_checked_expression)]


class Notebook(BaseModel):
    """The notebook of a job. Parameters without a new value keep the notebook's own."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    path: Annotated[str, Field(min_length=1, max_length=MAX_PATH_LENGTH), AfterValidator(_checked_path)]
    """The path in the job's working folder, the top folder of the code. A notebook runs in its own folder."""
    parameters: Annotated[
        dict[str, Any], BeforeValidator(_checked_names), BeforeValidator(_checked_values)
    ] = Field(default_factory=dict)
    """Values by name, with JSON's types. They are set after the cell tagged ``parameters``."""
    expressions: Annotated[dict[str, Expression], BeforeValidator(_checked_names)] = Field(
        default_factory=dict
    )
    """Expressions by name, in the notebook's language, like ``1/3``; their results are the values."""
    kernel: (
        Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None
    ) = None
    """The kernel; None: the notebook's own or, if the image lacks it, another one of the same language."""

    @model_validator(mode="after")
    def _are_apart(self) -> Notebook:
        both = sorted(self.parameters.keys() & self.expressions.keys())
        if both:
            raise ValueError(f"{both[0]} is both a parameter and an expression: set it once")
        return self
