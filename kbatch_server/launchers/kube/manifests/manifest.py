"""An object of Kubernetes, or a part of one."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]
"""JSON as the API has it: ``{"metadata": {"name": …}, …}``."""
