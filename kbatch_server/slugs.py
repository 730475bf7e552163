"""Makes names for Kubernetes: valid for any text, and never the same for two different texts.

A text that is a valid label stays as it is; any other is reduced to its safe characters and gets ``---`` and
16 digits of its SHA-256 at the end. A plain name may not contain ``--``, so the two kinds never collide (like
KubeSpawner's safe slugs: https://jupyterhub-kubespawner.readthedocs.io/en/latest/templates.html, which has a
shorter hash, of 32 bits).
"""

from __future__ import annotations

import hashlib
import re
import secrets

MAX_LABEL = 63
"""Kubernetes: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names"""

MAX_JOB_ID = 52
"""The name of a pod is that of its Job and six more characters, and must be a label too: at most 57
characters remain."""

HASH_LENGTH = 16
"""64 bits of SHA-256: with 32, a user who can choose a name finds one that collides with another's in
minutes."""

_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")

_SAFE = re.compile(r"[a-z]([a-z0-9]|-(?!-))*[a-z0-9]|[a-z]")
_ALPHABET = "abcdefghjkmnpqrstvwxyz0123456789"
"""32 characters without i, l, o and u: no 1l0O to misread, few words to blush at."""

_RANDOM_LENGTH = 10
"""50 bits; and the database rejects an id that exists."""


def make_slug(text: str, *, max_length: int = MAX_LABEL) -> str:
    """Return a DNS label (RFC 1123) for any text: different texts have different slugs."""
    if len(text) <= max_length and _SAFE.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_LENGTH]
    stem = _stem(text)[: max_length - len(digest) - 3].rstrip("-") or "x"
    return f"{stem}---{digest}"


def make_account_name(user: str) -> str:
    """Return the value of ``USER`` in a user's jobs, without spaces; their account may have another name."""
    return user if _ACCOUNT.fullmatch(user) else make_slug(user)


def make_job_id(name: str) -> str:
    """Return a new id for a job: its name, made safe, and a random end, like ``train-8f3k2m9xqw``."""
    stem = _stem(name)[: MAX_JOB_ID - _RANDOM_LENGTH - 1].rstrip("-") or "job"
    return f"{stem}-{_random()}"


def make_upload_id() -> str:
    """Return a new id for an upload, which nobody can guess (160 bits)."""
    return secrets.token_hex(20)


def _stem(text: str) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return stem if not stem or stem[0].isalpha() else f"x-{stem}"


def _random() -> str:
    bits = secrets.randbits(5 * _RANDOM_LENGTH)
    return "".join(_ALPHABET[bits >> shift & 31] for shift in range(0, 5 * _RANDOM_LENGTH, 5))
