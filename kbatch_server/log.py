"""The access log: one line for each request, with its id and without secrets."""

from __future__ import annotations

import logging
import re

from tornado.log import access_log
from tornado.web import RequestHandler

_SECRET_PARAMETER = re.compile(r"([^=&]*(?:token|auth|key|code|state|xsrf|sig)[^=&]*=)[^&]*", re.IGNORECASE)
# not the names of files below api/v1/jobs/…/outputs/
_SIGNED_PATH = re.compile(r"^((?:(?!/api/v1/).)*?/(?:code|outputs)/)[^/]+")


def scrub_url(url: str) -> str:
    """Return a URL without its secrets: the signed part of a job's URL, tokens and the like in the query."""
    # by hand: urlsplit raises for what a client may well send, like "//["
    path, mark, query = url.partition("?")
    return _SIGNED_PATH.sub(r"\1[secret]", path) + mark + _SECRET_PARAMETER.sub(r"\1[secret]", query)


def make_formatter() -> logging.Formatter:
    """Return how a line of the log looks: level, time, logger, message."""
    return logging.Formatter(
        "%(levelname).1s %(asctime)s.%(msecs)03d %(name)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )


def log_request(handler: RequestHandler) -> None:
    """Log one request: quietly where nothing is to be learned from it, as an error where we failed.

    A handler with ``log_success_debug = True`` (health checks, which come every few seconds) is logged at
    debug level as long as it succeeds.
    """
    status = handler.get_status()
    request = handler.request
    if status >= 500:
        level = logging.ERROR
    elif status >= 400:
        level = logging.WARNING
    elif getattr(handler, "log_success_debug", False):
        level = logging.DEBUG
    else:
        level = logging.INFO
    access_log.log(
        level,
        "%d %s %s (%s@%s) %.2fms request=%s",
        status,
        request.method,
        scrub_url(request.uri or ""),
        _user_name(handler),
        request.remote_ip,
        1000 * request.request_time(),
        getattr(handler, "request_id", "-"),
    )


def _user_name(handler: RequestHandler) -> str:
    # Not handler.current_user, which asks again who it is when nobody is known.
    name: str = getattr(getattr(handler, "_current_user", None), "name", "")
    return name if name.isprintable() else ascii(name)  # a name cannot start a line of its own
