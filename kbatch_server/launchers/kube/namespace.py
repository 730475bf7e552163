"""The namespace where jobs run: what it may be called, and which it is when nobody says."""

from __future__ import annotations

import os
import re
from pathlib import Path

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def find_own_namespace() -> str:
    """Return the namespace that the environment names, or that of the pod that we run in, or ``default``."""
    if os.environ.get("POD_NAMESPACE"):
        return os.environ["POD_NAMESPACE"]
    return NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else "default"


def is_namespace_template(value: str) -> bool:
    """Whether it is a namespace's name, or one for each user that no user can make that of another's."""
    plain = value.replace("{username}", "u", 1)
    is_name = re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", plain)
    return is_name is not None and len(plain) <= 43 and value != "{username}"
