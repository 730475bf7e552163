"""Sorts Kubernetes's errors into temporary and permanent ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..base import LauncherUnavailable, LaunchRefused
from .client import KubeError, KubeRefused, KubeUnavailable
from .status import sentences


@contextmanager
def read_errors() -> Iterator[None]:
    """Raise LauncherUnavailable for errors of the API: they say nothing about the job."""
    try:
        yield
    except KubeError as error:
        raise LauncherUnavailable(f"The request to Kubernetes failed: {sentences.cut(str(error))}") from error


@contextmanager
def launch_errors() -> Iterator[None]:
    """Raise LauncherUnavailable for temporary errors of a launch, LaunchRefused for permanent ones."""
    try:
        yield
    except KubeUnavailable as error:
        if "request is too large" in str(error):  # etcd's words, which the API server answers with a 500
            raise LaunchRefused("TooLarge", "The job is too large for Kubernetes.") from error
        raise LauncherUnavailable(f"Kubernetes does not respond: {sentences.cut(str(error))}") from error
    except KubeRefused as error:
        message = sentences.cut(error.message)
        if "exceeded quota" in message:
            raise LauncherUnavailable(
                sentences.refused(re.sub(r"^.*? is forbidden: ", "", message))
            ) from error
        if re.search(r"cannot \w+ resource|is being terminated", message) or error.reason == "Conflict":
            raise LauncherUnavailable(f"Kubernetes denied the request ({error.status}): {message}") from error
        if error.status == 404 and message.startswith("namespaces "):
            raise LaunchRefused(
                "NamespaceNotFound", f"The namespace for the job does not exist: {message}."
            ) from error
        if error.status == 404:
            raise LauncherUnavailable(f"The job's objects were deleted in the meantime: {message}") from error
        raise LaunchRefused(
            error.reason, f"Kubernetes rejected the job ({error.status}): {message}"
        ) from error
