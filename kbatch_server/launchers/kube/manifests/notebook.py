"""Put what runs a job's notebook into its pod: files of its Secret, in a folder of their own. Pure."""

from __future__ import annotations

from typing import Any

from ....notebooks.launch import SETTINGS_FILE, SOURCE_FILES

Manifest = dict[str, Any]

FOLDER = "/kbatch-notebook"
VOLUME = "kbatch-notebook"

MOUNT: Manifest = {"name": VOLUME, "mountPath": FOLDER, "readOnly": True}


def make_volume(secret: str) -> Manifest:
    """Return the volume with the files, and nothing else, of the Secret of that name."""
    items = [{"key": name, "path": name} for name in (*SOURCE_FILES, SETTINGS_FILE)]
    return {"name": VOLUME, "secret": {"secretName": secret, "items": items}}
