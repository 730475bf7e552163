"""The choices of a user for the options of a profile: checks them, and fills in the defaults."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import InvalidRequest
from ..ratelimit import FairLimit
from .entries import UNLISTED, Choice, Option, ProfileEntry, Unlisted
from .patterns import matches

MATCH_WAIT_SECONDS = 10
"""Seconds that a text waits for its turn to be checked."""

SHOWN_CHOICES = 20
"""The number of choices that an error lists."""


@dataclass(frozen=True)
class Chosen:
    """A choice for an option, as a request has it: ``key`` and ``value`` of ``profile_options``."""

    key: str
    value: str
    part: Choice | Unlisted

    @property
    def own_text(self) -> str | None:
        """The user's own text; None for a choice of the list."""
        return self.value if isinstance(self.part, Unlisted) else None


def choose(entry: ProfileEntry, wanted: Mapping[str, str]) -> list[Chosen]:
    """Return the choice for each option of a profile, in the order in which the admin wrote them.

    ``wanted`` are the ``profile_options`` of a request. An empty text is none, as for KubeSpawner, and the
    user's own text takes precedence over a choice of the list. Raises InvalidRequest with the field.
    """
    known = {key for name in entry.options for key in (name, f"{name}--{UNLISTED}")}
    for key in wanted:
        if key not in known:
            names = ", ".join(entry.options) or "none"
            raise _refuse(key, f"profile {entry.slug!r} has no such option; options: {names}")
    chosen = []
    for name, option in entry.options.items():
        own, choice = wanted.get(f"{name}--{UNLISTED}"), wanted.get(name)
        chosen.append(_choose_own(name, option, own) if own else _choose_listed(name, option, choice))
    return chosen


def recall(entry: ProfileEntry, recorded: Mapping[str, str]) -> list[Chosen]:
    """Return the choices of an accepted job. In place of those that are gone, it returns the defaults."""
    chosen = []
    for name, option in entry.options.items():
        own, choice = recorded.get(f"{name}--{UNLISTED}"), recorded.get(name)
        if own and option.unlisted_choice.enabled:
            chosen.append(Chosen(f"{name}--{UNLISTED}", own, option.unlisted_choice))
            continue
        choice = choice if choice in option.choices else option.default_choice
        if choice is not None:
            chosen.append(Chosen(name, choice, option.choices[choice]))
    return chosen


def _choose_own(name: str, option: Option, text: str) -> Chosen:
    key = f"{name}--{UNLISTED}"
    if not option.unlisted_choice.enabled:
        raise _refuse(key, f"only a choice of the list can be set: {_list_names(option.choices)}")
    if not text.isprintable() or "{" in text or "}" in text:
        # a brace would begin a field of a template, which is the admin's to write
        raise _refuse(key, "must be one line of text, without braces")
    return Chosen(key, text, option.unlisted_choice)


def _choose_listed(name: str, option: Option, choice: str | None) -> Chosen:
    choice = choice or option.default_choice
    if choice is None:
        raise _refuse(f"{name}--{UNLISTED}", "is required: this option has no default")
    if choice not in option.choices:
        message = f"{choice[:100]!r} is not a choice; choices: {_list_names(option.choices)}"
        if choice == UNLISTED and option.unlisted_choice.enabled:
            raise _refuse(f"{name}--{UNLISTED}", "is required")
        raise _refuse(name, message)
    return Chosen(name, choice, option.choices[choice])


def _list_names(names: Iterable[str]) -> str:
    listed = list(names)
    more = ", …" if len(listed) > SHOWN_CHOICES else ""
    return ", ".join(listed[:SHOWN_CHOICES]) + more or "none"


def _refuse(key: str, message: str) -> InvalidRequest:
    return InvalidRequest.of_field(f"profile_options.{key[:100]}", message)


class TextChecks:
    """Checks users' own texts with the admin's regular expressions, one at a time, in a thread."""

    def __init__(self) -> None:
        self._turns = FairLimit(per_user=1, total=1, limit="", what="choices to check")

    async def check(self, user: str, chosen: Iterable[Chosen]) -> None:
        """Raise InvalidRequest, with the field, for a text that as a whole does not match."""
        for each in chosen:
            pattern = each.part.validation_regex if isinstance(each.part, Unlisted) else None
            if not pattern or not isinstance(each.part, Unlisted):
                continue
            async with self._turns.take(user, wait_seconds=MATCH_WAIT_SECONDS):
                does_match = await asyncio.to_thread(matches, pattern, each.value)
            if does_match is None:
                raise _refuse(each.key, "takes too long to check; choose a shorter or a simpler text")
            if not does_match:
                rule = each.part.validation_message or f"must match {pattern}"
                raise _refuse(each.key, rule)
