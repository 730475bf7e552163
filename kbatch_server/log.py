"""The format of the log, text or JSON, without secrets; the access log has a line for each request, with its
id."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger import json
from tornado.log import access_log
from tornado.web import RequestHandler

from .metrics import REQUEST_SECONDS, REQUESTS
from .scrub import scrub_text, scrub_url

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being answered; it is in each line of a JSON log that the request causes."""

JOB_ID: ContextVar[str] = ContextVar("job_id", default="")
"""The id of the job that is being reconciled."""


class JsonFormatter(json.JsonFormatter):
    """One JSON object per line: time, level, logger, message, and request_id, job_id, exception if any."""

    def __init__(self) -> None:
        super().__init__(json_ensure_ascii=False)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Fill the object of one line."""
        extra: dict[str, Any] = {}
        super().add_fields(extra, record, message_dict)
        exception = extra.pop("exc_info", None)
        audit = extra.pop("audit", None)
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        log_data |= extra
        if audit is not None:  # an entry of the audit record
            log_data |= {f"audit_{name}": value for name, value in audit.to_dict().items() if name != "at"}
        for name, value in (
            ("request_id", REQUEST_ID.get()),
            ("job_id", find_job_id(record) or JOB_ID.get()),
            ("exception", exception and scrub_text(exception)),
        ):
            if value:
                log_data.setdefault(name, value)


class TextFormatter(logging.Formatter):
    """Readable lines: level, time, logger, message, and tracebacks without secrets from URLs."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname).1s %(asctime)s.%(msecs)03d %(name)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
        )

    def formatException(self, ei: Any) -> str:
        """Return a traceback without secrets from URLs."""
        return scrub_text(super().formatException(ei))


def find_job_id(record: logging.LogRecord) -> str | None:
    """Return the id of the job that a line is about: our lines about jobs begin with ``job %s``."""
    if isinstance(record.msg, str) and record.msg.startswith(("job %s", "Job %s")) and record.args:
        first = record.args[0] if isinstance(record.args, tuple) else None
        return str(first) if first else None
    return None


def make_formatter(*, as_json: bool = False) -> logging.Formatter:
    """Return the formatter for lines of the log, as text or JSON."""
    return JsonFormatter() if as_json else TextFormatter()


def set_up_logging(log: logging.Logger | logging.LoggerAdapter[Any], *, as_json: bool = False) -> None:
    """Set the format of the program's log, and send the lines of Tornado and of our modules there."""
    ours = log.logger if isinstance(log, logging.LoggerAdapter) else log
    for handler in ours.handlers:
        handler.setFormatter(make_formatter(as_json=as_json))
    ours.propagate = False
    # these cost time in each line, and no line of this service contains them
    # (https://docs.python.org/3/howto/logging.html#optimization)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    # with as_json, everything is logged as JSON, including the messages of libraries
    others = ("asyncio", "py.warnings") if as_json else ()
    for name in ("tornado.access", "tornado.application", "tornado.general", "kbatch_server", *others):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = ours.handlers, False
        logger.setLevel(ours.level)


def log_request(handler: RequestHandler) -> None:
    """Log one request, with a level that depends on its status: ERROR from 500 on, WARNING from 400 on.

    A successful request to a handler with ``log_success_debug = True`` (health checks, which come every few
    seconds) is logged at debug level.
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
    seconds = request.request_time()
    count_request(handler, status, seconds)
    fields = {
        "status": status,
        "method": _method_name(handler),
        "url": scrub_url(request.uri or ""),
        "user": _user_name(handler),
        "ip": request.remote_ip,
        "milliseconds": round(1000 * seconds, 2),
        "request_id": getattr(handler, "request_id", "-"),
    }
    access_log.log(
        level,
        "%(status)d %(method)s %(url)s (%(user)s@%(ip)s) %(milliseconds).2fms request=%(request_id)s",
        fields,
        extra=fields,
    )


def count_request(handler: RequestHandler, status: int, seconds: float) -> None:
    """Count an answered request by its handler; clients cannot choose any of the labels."""
    cls = type(handler)
    name = f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"
    method = handler.request.method
    REQUESTS.labels(name, method if method in RequestHandler.SUPPORTED_METHODS else "other", status).inc()
    if not getattr(handler, "is_stream", False):
        REQUEST_SECONDS.labels(name).observe(seconds)


def _method_name(handler: RequestHandler) -> str:
    # the requested method: handlers have one name for all unknown methods
    return (
        str(getattr(handler, "asked_method", handler.request.method)).encode("ascii", "replace")[:20].decode()
    )


def _user_name(handler: RequestHandler) -> str:
    # Not handler.current_user, which looks for the user again if none is known.
    name: str = getattr(getattr(handler, "_current_user", None), "name", "")
    return name if name.isprintable() else ascii(name)  # so that a name cannot contain a new line
