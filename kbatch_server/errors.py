"""The errors that a user may see, each with its HTTP status, a one-word reason and a sentence.

::

    KBatchError
     ├── InvalidRequest        400  a field of the request is wrong; ``details`` name it
     ├── NotAuthenticated      401  no token, or one that the hub does not know
     ├── Forbidden             403  the token lacks a scope
     ├── NotFound              404  it does not exist, or belongs to another user
     ├── RequestTimeout        408  the body did not arrive, or too slowly
     ├── Conflict              409  the state of the job or upload does not allow this
     ├── TooLarge              413  the body exceeds its limit
     ├── RangeNotSatisfiable   416  the content has none of the requested bytes
     ├── TooManyRequests       429  a limit on the number of things
     ├── NotSupported          501  the service does not support this (yet)
     └── Unavailable           503  the hub, the storage or the cluster does not respond
          └── InsufficientStorage 507  not enough space for the request

Any other error in a handler is a bug: the handler logs it with the request's id, and answers with 500 and
that id.
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
    """An error to be shown to the user.

    ``message`` is one plain sentence with the problem and what to do; ``details`` is JSON with the names of
    fields; ``retry_after_seconds`` becomes the Retry-After header.
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
        """Return the JSON form that all errors share."""
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
        """Return the error for one wrong field, with its path, like ``env.HOME``."""
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
        """Return the error for a body of known size, or of which only some bytes have arrived."""
        if size is not None:
            message = f"The request body has {size} bytes; the limit is {limit} bytes."
            return cls(message, details={"size": size, "limit": limit})
        message = f"The request body is larger than the limit of {limit} bytes ({received} received)."
        return cls(message, details={"size": None, "received": received, "limit": limit})


class RangeNotSatisfiable(KBatchError):
    """The content, which has ``size`` bytes, contains none of the requested range."""

    status = 416
    reason = "RangeNotSatisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(f"The requested range is outside the content, which has {size} bytes.")
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
    """The request does not fit on the disk: a kind of Unavailable, because it may work later."""

    status = 507
    reason = "InsufficientStorage"

    def __init__(self, message: str, *, retry_after_seconds: int = 60, **kwargs: Any) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds, **kwargs)
