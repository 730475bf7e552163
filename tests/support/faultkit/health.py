"""What the service says of itself while something is wrong."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.faultkit.waiting import until
from tests.support.installation import API

HEALTH_SECONDS = 30


def wait_failed(make_client: Callable[[], API], part: str) -> str:
    """Wait until ``/ready`` names this part as failed, and return its status and all that it names."""
    said: list[str] = []
    client = make_client()

    def is_named() -> bool:
        answer = client.http.get("api/v1/ready")
        failed = answer.json()["failed"]
        said[:] = [f"{answer.status_code} {' '.join(failed)}"]
        return part in failed

    try:
        until(is_named, f"/ready does not name {part}", HEALTH_SECONDS)
    finally:
        client.http.close()
    return said[0]
