"""What a user may read about an error: all of our own kind, and nothing of a defect but an id."""

from __future__ import annotations

import http.client

from tornado.web import HTTPError

from ..errors import KBatchError


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
