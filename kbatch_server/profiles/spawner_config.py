"""Reads what the admin has already written for the hub's servers, as defaults for jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from traitlets import TraitError
from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue, PyFileConfigLoader

from ..settings.checks import WrongSetting, describe_error
from .config import JobConfig
from .kubespawner import take_traits
from .z2jh import WrongValues, read_values

SETTING = "KBatchServer.spawner_config"

SECTIONS = ("Spawner", "KubeSpawner")
"""The classes of the hub's configuration that count, the more special one last."""

VALUE_FILES = (".json", ".yaml", ".yml")
"""The ends of names of files with the values of zero-to-jupyterhub's chart."""


@dataclass(frozen=True)
class SpawnerDefaults:
    """Defaults for jobs, as a configuration, and what of the hub's has no effect on them."""

    config: Config
    ignored: list[str] = field(default_factory=list)


def load_spawner_config(path: Path) -> SpawnerDefaults:
    """Return the defaults in a hub's configuration file, or in the values of zero-to-jupyterhub.

    Raises WrongSetting if the file cannot be read, or if it has a value that no job can have.
    """
    if path.suffix in VALUE_FILES:
        traits, ignored = _load_values(path)
    else:
        traits, ignored = _run_file(path), []
    config = Config()
    if "profile_list" in traits:
        config.Profiles.profile_list = traits.pop("profile_list")
    taken = take_traits(traits)
    for name, value in taken.values.items():
        try:
            JobConfig(**{name: value})
        except TraitError as error:
            raise WrongSetting(f"{SETTING}: {path}: {name}: {error}") from None
        config.JobConfig[name] = value
    return SpawnerDefaults(config, [*taken.ignored, *ignored])


def _run_file(path: Path) -> dict[str, Any]:
    """Return the traits that a configuration file sets. It is a program, and is run as the hub runs it."""
    loader = PyFileConfigLoader(path.name, path=str(path.absolute().parent))
    try:
        config = loader.load_config()
    except (Exception, SystemExit) as error:
        hint = ""
        if isinstance(error, ImportError):
            hint = (
                "; install the module here as well, or move the spawner's settings to a file of their own, "
                "and load it in both configurations with load_subconfig()"
            )
        raise WrongSetting(f"{SETTING}: {describe_error(error, path)}{hint}") from error
    traits: dict[str, Any] = {}
    for section in SECTIONS:
        for name, value in config.get(section, {}).items():
            traits[name] = _get_value(name, value) if isinstance(value, LazyConfigValue) else value
    return traits


def _get_value(name: str, value: LazyConfigValue) -> Any:
    """Return the value of ``c.KubeSpawner.volumes.append(…)`` and the like."""
    trait = JobConfig.class_traits(config=True).get(name)
    initial = trait.default() if trait is not None else None
    if not isinstance(initial, (list, dict, set)):
        initial = {} if value.to_dict().keys() <= {"update"} else []
    return value.get_value(initial)


def _load_values(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        values = yaml.safe_load(path.read_text())  # JSON is YAML, too
        if not isinstance(values, dict):
            raise WrongValues("must be a map: the values of zero-to-jupyterhub, or those below singleuser")
        return read_values(values)
    except OSError as error:
        raise WrongSetting(f"{SETTING}: {path}: {error.strerror}") from None
    except (ValueError, yaml.YAMLError, WrongValues) as error:
        raise WrongSetting(f"{SETTING}: {path}: {' '.join(str(error).split())}") from None
