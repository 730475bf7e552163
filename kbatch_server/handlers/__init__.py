"""The web: each module has the handlers of one thing and lists their URLs at its end."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from . import audit, jobs, logs, outputs, pages, profiles, secrets, servers, system, uploads, users, watch
from .base import NotFoundHandler
from .compat import routes as kbatch
from .openapi import make_openapi
from .services import Services

MODULES = (
    system,
    audit,
    users,
    uploads,
    watch,
    jobs,
    logs,
    outputs,
    profiles,
    secrets,
    servers,
    kbatch,
    pages,
)


def list_routes() -> list[tuple[str, Any]]:
    """Return all patterns of paths below the service's prefix, each with its handler."""
    return [route for module in MODULES for route in module.default_handlers]


def make_handlers(prefix: str, services: Services) -> dict[str, Any]:
    """Return the handlers by URL, as arguments of Tornado's Application.

    ``prefix`` begins and ends with a slash, like ``/services/kbatch/``.
    """
    arguments = {"services": services}
    root = re.escape(prefix)

    @cache
    def write_openapi() -> str:  # it never changes, and anybody may ask for it
        return json.dumps(make_openapi(services.version, prefix, list_routes())) + "\n"

    return {
        "handlers": [(root + pattern, handler, arguments) for pattern, handler in list_routes()],
        "write_openapi": write_openapi,
        "default_handler_class": NotFoundHandler,
        "default_handler_args": arguments,
    }
