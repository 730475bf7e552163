"""Gives a job a user name and a home folder, even if the image does not know its user. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ....models.job import JobSpec
from ....slugs import make_account_name
from .manifest import Manifest
from .script import read_script

HOME_DIR = "/kbatch-home"
HOME_VOLUME = "kbatch-home"
SHELL = "/bin/sh"

NOT_FOUND_CODE = 127
NOT_FOUND_MESSAGE = "kbatch: the command was not found"
"""The exit code and the termination message of a container whose command does not exist in its image."""

HOME_SCRIPT = read_script("home")
"""Runs a command with a writable home folder, and reports with the two above that it does not exist."""

_WRAPPER = (SHELL, "-c", HOME_SCRIPT, "sh")


def needs_home(spec: JobSpec, env_names: Collection[str]) -> bool:
    """Whether to check a job's home: its user may have none in the image, or that of another user."""
    return spec.ensure_home and bool(spec.command or spec.notebook) and "HOME" not in env_names


def wrap_command(command: Sequence[str]) -> list[str]:
    """Return a command that provides HOME and then runs this command."""
    return [*_WRAPPER, *command]


def unwrap_command(command: Sequence[str]) -> list[str]:
    """Return the user's own part of a container's command."""
    count = len(_WRAPPER)
    return list(command[count:] if tuple(command[:count]) == _WRAPPER else command)


def make_account_env(user: str, env_names: Collection[str]) -> list[Manifest]:
    """Return the variables with the user's name, for programs that would look for an account."""
    name = make_account_name(user)
    return [{"name": each, "value": name} for each in ("USER", "LOGNAME") if each not in env_names]
