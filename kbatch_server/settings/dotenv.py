"""Reads the ``.env`` file, before everything else."""

from __future__ import annotations

import os
from pathlib import Path

from dotenv import dotenv_values

KEYS = (
    "JUPYTERHUB_API_TOKEN",
    "JUPYTERHUB_SERVICE_PREFIX",
    "DEFAULT_FILE_STORAGE",
    "AZURE_ACCOUNT_NAME",
    "AZURE_CONTAINER",
    "AZURE_SAS_TOKEN",
)
"""The keys that the file may set. Others are ignored: they may be another program's."""

OLD_STORAGES = {
    "storage.backends.azure_storage.AzureStorage": "azure",
    "storages.backends.azure_storage.AzureStorage": "azure",
    "django.core.files.storage.FileSystemStorage": "file",
}
"""Values of DEFAULT_FILE_STORAGE in the first release's settings, with the entry points that they mean."""


class SettingsNotFound(Exception):
    """The file that KBATCH_SETTINGS_PATH names does not exist."""


def load_settings() -> None:
    """Set environment variables from the settings file; variables of the environment take precedence.

    The file is the one that KBATCH_SETTINGS_PATH names, which must exist, or else ``.env``, which may be
    missing.
    """
    named = os.environ.get("KBATCH_SETTINGS_PATH")
    path = Path(named or ".env")
    if named and not path.is_file():
        raise SettingsNotFound(f"KBATCH_SETTINGS_PATH: file not found: {named!r}")
    for key, value in dotenv_values(path).items():
        if key in KEYS and value is not None:
            os.environ.setdefault(key, value)


def get_storage_name() -> str:
    """Return the storage that the environment selects: the name of an entry point, or the path of a class."""
    name = os.environ.get("DEFAULT_FILE_STORAGE") or "file"
    return OLD_STORAGES.get(name, name)
