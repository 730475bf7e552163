"""The entries of a ``profile_list``: KubeSpawner's, with our own overrides, read into values. Pure.

A key that neither has is an error: it may be a misspelled one, or one that a hub's own code reads, such as
the groups that may choose a profile, which must not be ignored in silence.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from slugify import slugify

from ..models import job
from ..settings.checks import RENAMED_TRAITS
from ..validation import join_path
from .kubespawner import JOB_TRAITS, KUBESPAWNER_TRAITS, get_trait_name
from .overrides import fill_value
from .patterns import check_pattern

UNLISTED = "unlisted-choice"
"""What KubeSpawner's form calls a choice of the user's own, and how the name of its text ends."""


class WrongProfile(Exception):
    """The admin's list of profiles is wrong: the message names the profile and the key."""


def _named_by_text(value: Any) -> Any:
    """Return a dict whose keys are texts: in YAML, ``2:`` is a number."""
    return {str(key): each for key, each in value.items()} if isinstance(value, Mapping) else value


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kubespawner_override: dict[str, Any] = Field(default_factory=dict)
    kbatch_override: dict[str, Any] = Field(default_factory=dict)


class Choice(_Part):
    """A choice for an option. Other keys are those of jupyterhub-fancy-profiles."""

    display_name: str | None = None
    default: bool = False
    description: Any = None
    slug: Any = None


class Unlisted(_Part):
    """How users may enter a choice of their own."""

    enabled: bool = False
    display_name: str | None = None
    display_name_in_choices: str = "Other..."
    description_in_choices: Any = None
    validation_regex: Annotated[str, AfterValidator(check_pattern)] | None = None
    """An empty one is none."""
    validation_message: str | None = None


class Option(BaseModel):
    """A part of a profile that users choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    display_name: str | None = None
    choices: Annotated[dict[str, Choice], BeforeValidator(_named_by_text)] = Field(default_factory=dict)
    unlisted_choice: Unlisted = Unlisted()
    dynamic_image_building: Any = None

    @property
    def default_choice(self) -> str | None:
        """The name of the default choice: KubeSpawner's rule is the first, if none is marked."""
        marked = (name for name, choice in self.choices.items() if choice.default)
        return next(marked, next(iter(self.choices), None))

    def describe(self, name: str) -> job.ProfileOption:
        """Return the option as users see it."""
        own = self.unlisted_choice
        return job.ProfileOption(
            name=name,
            display_name=self.display_name or name,
            choices=[
                job.ProfileChoice(
                    name=each, display_name=choice.display_name or each, default=each == self.default_choice
                )
                for each, choice in self.choices.items()
            ],
            unlisted_choice=job.UnlistedChoice(
                display_name=own.display_name or self.display_name or name,
                display_name_in_choices=own.display_name_in_choices,
                validation_regex=own.validation_regex or None,
                validation_message=own.validation_message or "",
            )
            if own.enabled
            else None,
        )


class ProfileEntry(_Part):
    """One profile."""

    display_name: str
    given_slug: str | None = Field(default=None, alias="slug")
    description: str | None = None
    default: bool = False
    options: Annotated[dict[str, Option], BeforeValidator(_named_by_text)] = Field(
        default_factory=dict, alias="profile_options"
    )

    @cached_property
    def slug(self) -> str:
        """The name that requests use; without one of its own, KubeSpawner's for the name that users see."""
        return self.given_slug or str(slugify(self.display_name))


def read_profiles(profile_list: Any) -> tuple[ProfileEntry, ...]:
    """Return the entries of a list, or of a dict, whose values are taken in the order of its keys.

    Raises WrongProfile for a key without a meaning, a value of the wrong type, a slug that appears twice.
    """
    if isinstance(profile_list, Mapping):
        profile_list = [profile_list[key] for key in sorted(profile_list)]
    if not isinstance(profile_list, Sequence) or isinstance(profile_list, str):
        raise WrongProfile(f"must be a list or a dict, not {type(profile_list).__name__}")
    entries = tuple(_read_entry(entry, number) for number, entry in enumerate(profile_list, 1))
    slugs = [entry.slug for entry in entries]
    twice = next((slug for slug in slugs if slugs.count(slug) > 1), None)
    if twice is not None:
        raise WrongProfile(f"two profiles have the same slug, {twice!r}")
    return entries


def find_default(entries: Sequence[ProfileEntry]) -> ProfileEntry | None:
    """Return the profile of jobs that name none: KubeSpawner's rule is the first, if none is marked."""
    return next((entry for entry in entries if entry.default), entries[0] if entries else None)


def _read_entry(entry: Any, number: int) -> ProfileEntry:
    name = entry.get("display_name") if isinstance(entry, Mapping) else None
    where = f"profile {name!r}" if isinstance(name, str) else f"profile {number}"
    try:
        read = ProfileEntry.model_validate(entry)
    except ValidationError as error:
        raise WrongProfile(f"{where}: {_describe(error)}") from None
    for path, part in list_parts(read):
        for key in part.kubespawner_override:
            if get_trait_name(key) is None:
                raise WrongProfile(
                    f"{where}: {path}kubespawner_override.{key}: KubeSpawner has no such trait"
                    + _guess(key, KUBESPAWNER_TRAITS)
                )
        for key in part.kbatch_override:
            if key not in JOB_TRAITS:
                new = RENAMED_TRAITS.get(f"JobConfig.{key}", "").removeprefix("JobConfig.")
                raise WrongProfile(
                    f"{where}: {path}kbatch_override.{key}: JobConfig has no such trait"
                    + (f"; it is now {new}: rename it" if new else _guess(key, JOB_TRAITS))
                )
        if isinstance(part, Unlisted):
            _check_templates(part, f"{where}: {path}")
    return read


def list_parts(entry: ProfileEntry) -> list[tuple[str, _Part]]:
    """Return all parts of a profile that have overrides, each with its path in the entry."""
    parts: list[tuple[str, _Part]] = [("", entry)]
    for name, option in entry.options.items():
        path = f"profile_options.{name}"
        parts += [(f"{path}.choices.{each}.", choice) for each, choice in option.choices.items()]
        parts.append((f"{path}.unlisted_choice.", option.unlisted_choice))
    return parts


def _check_templates(part: Unlisted, where: str) -> None:
    for kind, values in (
        ("kubespawner_override", part.kubespawner_override),
        ("kbatch_override", part.kbatch_override),
    ):
        for key, value in values.items():
            try:
                fill_value(value, "x")
            except (ValueError, LookupError, AttributeError) as error:
                raise WrongProfile(
                    f"{where}{kind}.{key}: is not a template with {{value}}: {error}"
                ) from None


_KEYS = {key for part in (ProfileEntry, Option, Choice, Unlisted) for key in part.model_fields} | {
    "slug",
    "profile_options",
}


def _describe(error: ValidationError) -> str:
    """Return what is wrong first: the key, and why."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = join_path(first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key{_guess(str(first['loc'][-1]), _KEYS - {'given_slug', 'options'})}"
    if first["type"] == "missing":
        return f"{path}: is required"
    return f"{path}: {first['msg'].removeprefix('Value error, ')}".removeprefix(": ")


def _guess(word: str, words: Any) -> str:
    close = difflib.get_close_matches(word, sorted(words), n=1)
    return f"; did you mean {close[0]}?" if close else ""
