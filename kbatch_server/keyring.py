"""The service's keys: they encrypt stored secrets and sign what the service gives out."""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from itsdangerous import BadData, URLSafeTimedSerializer

from .private import make_private


class BadKey(ValueError):
    """A key is too short, or does not fit the encrypted data."""


class Keyring:
    """Encrypts and signs with the first of its keys, decrypts and verifies with any, for key rotation."""

    def __init__(self, keys: list[str]) -> None:
        if not keys or any(len(key) < 32 for key in keys):
            raise BadKey("a key must have at least 32 characters, like the output of: openssl rand -hex 32")
        self._keys = keys
        self._fernet = MultiFernet([Fernet(_derived(key, "seal")) for key in keys])
        self.key_ids = tuple(_derived(key, "id")[:16].decode() for key in keys)
        """A name for each key, the one that encrypts first. It says nothing about the key."""

    @classmethod
    def from_file(cls, path: Path, *, may_make: bool = True) -> Keyring:
        """Return a keyring from a file with one key per line, mode 0600; creates a missing file.

        Without ``may_make``, a missing file raises BadKey: otherwise each of several replicas would have its
        own keys.
        """
        if not may_make and not path.exists():
            raise BadKey(
                "keys are required, the same for every replica that uses this database; generate one "
                "with: openssl rand -hex 32"
            )
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            make_private(path)
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return cls(path.read_text().split())

    def seal(self, value: Any) -> bytes:
        """Return JSON ``value``, encrypted and authenticated."""
        return self._fernet.encrypt(json.dumps(value).encode())

    def unseal(self, sealed: bytes) -> Any:
        """Return the decrypted value, or raise BadKey."""
        try:
            return json.loads(self._fernet.decrypt(sealed))
        except InvalidToken:
            raise BadKey("encrypted with a key that this service does not have") from None

    def sign(self, value: Any, *, purpose: str) -> str:
        """Return JSON ``value`` as text for a URL, which ``verify`` accepts for this purpose only."""
        return self._serializer(purpose).dumps(value)

    def verify(self, signed: str, *, purpose: str, max_age_seconds: int) -> Any:
        """Return the value if it was signed for this purpose within ``max_age_seconds``, or None.

        A signature from the future is valid: a clock was set back, and only the service's keys can sign.
        """
        try:
            value, signed_at = self._serializer(purpose).loads(signed, return_timestamp=True)
        except BadData:
            return None
        age_seconds = time.time() - signed_at.timestamp()
        return value if age_seconds <= max_age_seconds else None

    def make_secret(self, purpose: str) -> bytes:
        """Return 32 bytes that depend only on the first key and the purpose."""
        return base64.urlsafe_b64decode(_derived(self._keys[0], purpose))

    def _serializer(self, purpose: str) -> URLSafeTimedSerializer:
        # itsdangerous signs with the last key of its list, and verifies with any
        keys = [_derived(key, "sign") for key in reversed(self._keys)]
        return URLSafeTimedSerializer(keys, salt=f"kbatch-server/{purpose}")


def _derived(key: str, purpose: str) -> bytes:
    """Return a Fernet key for one purpose (HKDF, RFC 5869), so that no two uses share a key."""
    hkdf = HKDF(hashes.SHA256(), length=32, salt=None, info=f"kbatch-server {purpose}".encode())
    return base64.urlsafe_b64encode(hkdf.derive(key.encode()))
