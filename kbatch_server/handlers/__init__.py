"""The web: each module has the handlers of one thing and lists their URLs at its end."""

from __future__ import annotations

import re
from typing import Any

from . import audit, jobs, logs, outputs, pages, profiles, system, uploads, users, watch
from .base import NotFoundHandler
from .compat import routes as kbatch
from .services import Services

MODULES = (system, audit, users, uploads, watch, jobs, logs, outputs, profiles, kbatch, pages)


def make_handlers(prefix: str, services: Services) -> dict[str, Any]:
    """Return the arguments of Tornado's Application that say which handler answers which URL.

    ``prefix`` begins and ends with a slash, like ``/services/kbatch/``.
    """
    arguments = {"services": services}
    root = re.escape(prefix)
    return {
        "handlers": [
            (root + pattern, handler, arguments)
            for module in MODULES
            for pattern, handler in module.default_handlers
        ],
        "default_handler_class": NotFoundHandler,
        "default_handler_args": arguments,
    }
