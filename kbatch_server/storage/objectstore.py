"""Stores objects in a bucket of S3 or a compatible service, or of Google Cloud Storage."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from traitlets import Bool, Unicode, default

from .base import StorageError
from .bucket import BucketStorage


class S3Storage(BucketStorage):
    """A bucket of Amazon S3, or of a compatible service (MinIO, Ceph, R2, …).

    Without an access key it uses the credentials of the environment: a web identity (as for service accounts
    on EKS), or the role of the container or instance.
    """

    service = "S3"

    region = Unicode(
        help="""The bucket's region. Default: the environment variable AWS_REGION or AWS_DEFAULT_REGION, else
        ``us-east-1``.
        """,
        config=True,
    )

    access_key_id = Unicode(
        help="""The id of the access key. Default: the environment variable AWS_ACCESS_KEY_ID.""", config=True
    )

    secret_access_key = Unicode(
        help="""The secret of the access key. Default: the environment variable AWS_SECRET_ACCESS_KEY.""",
        config=True,
    )

    path_style = Bool(
        help="""Put the bucket's name into the URL's path, not into its host name. Default: True if
        ``endpoint`` is set.

        Few services except Amazon's have a host name for each bucket.
        """,
        config=True,
    )

    @default("region")
    def _default_region(self) -> str:
        return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"

    @default("access_key_id")
    def _default_access_key_id(self) -> str:
        return os.environ.get("AWS_ACCESS_KEY_ID", "")

    @default("secret_access_key")
    def _default_secret_access_key(self) -> str:
        return os.environ.get("AWS_SECRET_ACCESS_KEY", "")

    @default("path_style")
    def _default_path_style(self) -> bool:
        return bool(self.endpoint)

    @default("sign_urls")
    def _default_sign_urls(self) -> bool:
        return bool(self.access_key_id) and not os.environ.get("AWS_SESSION_TOKEN")

    async def open(self) -> None:
        """Create the client; raises StorageError for a missing or wrong setting, or the missing package."""
        for given, missing in (
            ("access_key_id", "secret_access_key"),
            ("secret_access_key", "access_key_id"),
        ):
            if getattr(self, given) and not getattr(self, missing):
                raise StorageError(f"S3Storage.{missing} must be set if {given} is set")
        await super().open()

    def _make_client(self, endpoint: str, **kwargs: Any) -> Any:
        from obstore.store import S3Store

        if self.access_key_id:
            kwargs |= {"access_key_id": self.access_key_id, "secret_access_key": self.secret_access_key}
        if endpoint:
            scheme, _, host = endpoint.partition("://")
            kwargs["endpoint"] = endpoint if self.path_style else f"{scheme}://{self.bucket}.{host}"
        return S3Store(
            self.bucket,
            region=self.region,
            virtual_hosted_style_request=not self.path_style,
            disable_bulk_delete=True,  # not every service has it, and we delete one by one
            **kwargs,
        )


class GCSStorage(BucketStorage):
    """A bucket of Google Cloud Storage.

    Without a service account's key it uses the credentials of the environment: the file that
    ``GOOGLE_APPLICATION_CREDENTIALS`` names, or the identity of the workload or instance.
    """

    service = "Google Cloud Storage"

    service_account_key = Unicode(
        help="""The key of a service account: the JSON itself, not the name of a file.""", config=True
    )

    service_account_file = Unicode(
        help="""A file with the key of a service account, in place of ``service_account_key``.""",
        config=True,
    )

    @default("sign_urls")
    def _default_sign_urls(self) -> bool:
        return bool(self.service_account_key or self.service_account_file)

    async def open(self) -> None:
        """Create the client; raises StorageError for a missing or wrong setting, or the missing package."""
        key, name = self.service_account_key, "service_account_key"
        if self.service_account_file:
            name = "service_account_file"
            try:
                key = await asyncio.to_thread(Path(self.service_account_file).read_text)
            except OSError as error:
                raise StorageError(f"GCSStorage.{name}: {error.strerror}") from error
        if key and not _is_service_account(key):
            raise StorageError(f"GCSStorage.{name} is not the JSON of a service account's key")
        self._key = key
        await super().open()

    def _make_client(self, endpoint: str, **kwargs: Any) -> Any:
        from obstore.store import GCSStore

        if self._key:
            kwargs["service_account_key"] = self._key
        if endpoint:
            kwargs["base_url"] = endpoint
        return GCSStore(self.bucket, **kwargs)


def _is_service_account(text: str) -> bool:
    try:
        said = json.loads(text)
    except ValueError:
        return False
    return isinstance(said, dict) and {"client_email", "private_key"} <= set(said)
