"""The errors that a user may see, each with its HTTP status, a one-word reason and a sentence.

::

    KBatchError
     ├── InvalidRequest        400  a field of the request is wrong; ``details`` name it
     ├── NotAuthenticated      401  no token, or one that the hub does not know
     ├── Forbidden             403  the token lacks a scope
     ├── NotFound              404  it does not exist, or is somebody else's
     ├── RequestTimeout        408  the body does not come, or too slowly
     ├── Conflict              409  it is not in a state that allows this
     ├── TooLarge              413  a body over its limit
     ├── RangeNotSatisfiable   416  none of the bytes that are asked for are there
     ├── TooManyRequests       429  a limit on the number of things
     ├── NotSupported          501  the service cannot do this (yet)
     └── Unavailable           503  the hub, the storage or the cluster does not answer
          └── InsufficientStorage 507  there is no room left for what was sent

Anything else that is raised in a handler is a defect of ours: it is logged with the request's id and
answered with 500 and that id.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict


class ErrorJson(TypedDict):
    """An error."""

    status: int
    reason: str
    message: str
    details: Any


class KBatchError(Exception):
    """An error that can be told to the user.

    ``message`` is one plain sentence that says what is wrong and what to do; ``details`` is JSON that
    names the fields; ``retry_after_seconds`` becomes the Retry-After header.
    """

    status = 500
    reason = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        details: Any = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.details = details
        self.retry_after_seconds = retry_after_seconds

    def to_dict(self) -> ErrorJson:
        """Return the one JSON form of every error."""
        return {
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "details": self.details,
        }


class InvalidRequest(KBatchError):
    """A field of the request is wrong: ``details`` is a list of ``{"field", "message"}``."""

    status = 400
    reason = "Invalid"

    @classmethod
    def of_field(cls, field: str, message: str) -> InvalidRequest:
        """Return the error of one wrong field, named by its path, like ``env.HOME``."""
        return cls(f"{field}: {message}", details=[{"field": field, "message": message}])


class NotAuthenticated(KBatchError):
    status = 401
    reason = "Unauthorized"


class Forbidden(KBatchError):
    status = 403
    reason = "Forbidden"


class NotFound(KBatchError):
    status = 404
    reason = "NotFound"


class RequestTimeout(KBatchError):
    status = 408
    reason = "RequestTimeout"


class Conflict(KBatchError):
    status = 409
    reason = "Conflict"


class TooLarge(KBatchError):
    status = 413
    reason = "TooLarge"

    @classmethod
    def of_body(cls, limit: int, *, size: int | None = None, received: int = 0) -> TooLarge:
        """Return the error of a body whose size is known, or only how many bytes of it had come."""
        if size is not None:
            message = f"The body is {size} bytes, the limit is {limit} bytes."
            return cls(message, details={"size": size, "limit": limit})
        message = f"The body is larger than the limit of {limit} bytes ({received} received)."
        return cls(message, details={"size": None, "received": received, "limit": limit})


class RangeNotSatisfiable(KBatchError):
    """None of the bytes that a Range header names are there; ``size`` is how many there are."""

    status = 416
    reason = "RangeNotSatisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(f"The range is outside of the content, which has {size} bytes.")
        self.size = size


class TooManyRequests(KBatchError):
    status = 429
    reason = "TooManyRequests"


class NotSupported(KBatchError):
    status = 501
    reason = "NotImplemented"


class Unavailable(KBatchError):
    status = 503
    reason = "Unavailable"

    def __init__(self, message: str, *, retry_after_seconds: int = 5, **kwargs: Any) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds, **kwargs)


class InsufficientStorage(Unavailable):
    """There is no room for what was sent: a kind of Unavailable, as it may well work later."""

    status = 507
    reason = "InsufficientStorage"

    def __init__(self, message: str, *, retry_after_seconds: int = 60, **kwargs: Any) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds, **kwargs)
