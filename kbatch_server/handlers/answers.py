"""What of a body is JSON, and what a user may read of an error."""

from __future__ import annotations

import http.client
import json
from typing import Any, NoReturn

from tornado.web import HTTPError

from ..errors import InvalidRequest, KBatchError


def parse_json(body: bytes | bytearray) -> Any:
    """Return parsed JSON, or raise InvalidRequest of ``body``: also for NaN, which is not JSON."""
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        why = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
        raise InvalidRequest.of_field("body", why) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def public_error(error: BaseException, request_id: str) -> KBatchError:
    """Return what a user may read about an error: all of our own kind, and nothing of a defect but an id."""
    if isinstance(error, KBatchError):
        return error
    if isinstance(error, HTTPError) and error.status_code < 500:
        phrase = http.client.responses.get(error.status_code, "Error")
        message = error.log_message % error.args if error.log_message else phrase
        told = KBatchError(message, reason="".join(phrase.title().split()))
        told.status = error.status_code
        return told
    return KBatchError(
        f"The service failed to answer; its log says more about request id {request_id}.",
        details={"request_id": request_id},
    )
