"""Finds settings that do not exist, so that a misspelled limit does not silently have no effect."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from traitlets import TraitError
from traitlets.config import Config, Configurable
from traitlets.config.loader import LazyConfigValue

RENAMED = {
    "Departures": "LaunchPacer",
    "Launchpad": "SignedLinks",
    "Traffic": "InflightRequests",
}
"""Old and new names of configurable classes."""

RENAMED_TRAITS = {
    "JobConfig.annotations": "JobConfig.extra_annotations",
    "JobConfig.labels": "JobConfig.extra_labels",
    "KubeJobLauncher.create_namespace": "KubeJobLauncher.create_user_namespaces",
    "PodConfig.annotations": "PodConfig.extra_annotations",
    "PodConfig.labels": "PodConfig.extra_labels",
}
"""Old and new names of traits."""


class WrongSetting(Exception):
    """A setting is wrong: the message is one line that names it and says what it may be."""


def check_config(config: Config, classes: Iterable[type[Configurable]]) -> None:
    """Raise WrongSetting if ``config`` has a class or trait that none of the classes or parents has."""
    known: dict[str, type[Configurable]] = {}
    for cls in classes:
        for each in cls.mro():
            if issubclass(each, Configurable):
                known[each.__name__] = each
    for section, values in config.items():
        if section in RENAMED and section not in known:
            name = next((f".{each}" for each in values), "")
            raise WrongSetting(
                f"c.{section}{name} is now c.{RENAMED[section]}{name}: rename it in the configuration"
            )
        if section not in known:
            raise WrongSetting(f"c.{section}: unknown class{_guess(section, known)}")
        traits = known[section].class_traits(config=True)
        # a parent's section may also hold traits that only its subclasses have
        for cls in known.values():
            if issubclass(cls, known[section]):
                traits |= cls.class_traits(config=True)
        for name, value in values.items():
            new = RENAMED_TRAITS.get(f"{section}.{name}")
            if new is not None:
                raise WrongSetting(f"c.{section}.{name} is now c.{new}: rename it in the configuration")
            # reading c.Class.name in the file leaves an empty LazyConfigValue behind
            if name not in traits and not (isinstance(value, LazyConfigValue) and not value.to_dict()):
                raise WrongSetting(f"c.{section}.{name}: unknown setting{_guess(name, traits)}")


def _guess(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def check_url(url: str, setting: str) -> str:
    """Return a URL to listen on unchanged, or raise TraitError that names the setting."""
    parsed = urlparse(url)
    try:
        port = parsed.port
    except ValueError:
        port = None
    if parsed.scheme == "https":
        raise TraitError(
            f"{setting} is {url!r}: the service serves HTTP only, so its url at the hub must begin "
            "with http://; with internal_ssl, only requests to the hub are encrypted"
        )
    if parsed.scheme != "http" or not parsed.hostname or port is None:
        raise TraitError(f"{setting} is {url!r}; it must be like http://HOST:PORT")
    return url


def describe_error(error: Any, path: Path) -> str:
    """Return one line with the place and the reason of an error in a configuration file (which is Python)."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == path.name]
    line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
    where = path if line is None else f"{path}, line {line}"
    said = error.msg if isinstance(error, SyntaxError) else f"{type(error).__name__}: {error}"
    return " ".join(f"{where}: {said}".split())
