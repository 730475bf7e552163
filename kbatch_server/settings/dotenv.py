"""The ``.env`` file that is read before anything else, and what its keys set."""

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
"""The keys that such a file may have; others are left alone, they may be another program's."""

OLD_STORAGES = {
    "storage.backends.azure_storage.AzureStorage": "azure",
    "storages.backends.azure_storage.AzureStorage": "azure",
    "django.core.files.storage.FileSystemStorage": "file",
}
"""What DEFAULT_FILE_STORAGE said in the first release's settings, and the entry point that it means."""


class SettingsNotFound(Exception):
    """The file that KBATCH_SETTINGS_PATH names is not there."""


def load_settings() -> None:
    """Set the environment variables of the settings file that the environment does not set itself.

    The file is the one that KBATCH_SETTINGS_PATH names, which must be there, or ``.env``, which may be.
    """
    named = os.environ.get("KBATCH_SETTINGS_PATH")
    path = Path(named or ".env")
    if named and not path.is_file():
        raise SettingsNotFound(f"KBATCH_SETTINGS_PATH: file not found: {named!r}")
    for key, value in dotenv_values(path).items():
        if key in KEYS and value is not None:
            os.environ.setdefault(key, value)


def get_storage_name() -> str:
    """Return the storage that the environment chooses: an entry point's name, or a class's path."""
    name = os.environ.get("DEFAULT_FILE_STORAGE") or "file"
    return OLD_STORAGES.get(name, name)
