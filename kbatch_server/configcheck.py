"""Finds what a configuration sets that does not exist, so that a misspelled limit is not a missing one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from traitlets.config import Config, Configurable, LazyConfigValue


class WrongSetting(Exception):
    """A setting is wrong: the message is one line that names it and says what it may be."""


def check_config(config: Config, classes: Iterable[type[Configurable]]) -> None:
    """Raise WrongSetting for a class or a trait in ``config`` that none of the classes (or parents) has."""
    known: dict[str, type[Configurable]] = {}
    for cls in classes:
        for each in cls.mro():
            if issubclass(each, Configurable):
                known[each.__name__] = each
    for section, values in config.items():
        if section not in known:
            raise WrongSetting(f"c.{section}: there is no such class{_guess(section, known)}")
        traits = known[section].class_traits(config=True)
        # a parent's section may also hold traits that only its subclasses have
        for cls in known.values():
            if issubclass(cls, known[section]):
                traits |= cls.class_traits(config=True)
        for name, value in values.items():
            if name not in traits and not isinstance(value, LazyConfigValue):
                raise WrongSetting(f"c.{section}.{name}: there is no such setting{_guess(name, traits)}")


def _guess(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]}?" if close else ""
