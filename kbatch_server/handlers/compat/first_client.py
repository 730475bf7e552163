"""The API of the first client: it uploads a ZIP as a form, and submits a flat job with the upload's URL."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InvalidRequest, KBatchError
from ...models.job import Job
from ...models.request import JobRequest

NOT_A_ZIP = "The submitted file must be a ZIP archive."
WRONG_UPLOAD_DATA = "Incorrect structure for upload data field. Must have a 'name' and 'content' field."

_UPLOAD_URL = re.compile(r"(?:.*/)?uploads/([^/]+)/?|([^/]+)")


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A text file inside the JSON of a job."""

    name: str
    content: str

    def to_zip(self) -> bytes:
        """Return a ZIP with the file."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(self.name, self.content.encode())
        return buffer.getvalue()


def read_body(data: Any) -> tuple[JobRequest, InlineFile | None]:
    """Return the request in a flat body, and the file in it, if any; raises InvalidRequest.

    ``upload`` may be the URL in the answer to an upload, or an upload's id.
    """
    if not isinstance(data, dict):
        raise InvalidRequest.of_field("body", "must be a JSON object")
    fields = {key: value for key, value in data.items() if value is not None}
    inline = fields.pop("upload_data", None)
    if inline is not None and "upload" in fields:
        why = "Set either 'upload' or 'upload_data', not both."
        raise InvalidRequest(
            why, details=[{"field": each, "message": why} for each in ("upload", "upload_data")]
        )
    if isinstance(fields.get("upload"), str):
        match = _UPLOAD_URL.fullmatch(fields["upload"])
        if match is None:
            raise InvalidRequest.of_field("upload", "must be the URL of an upload")
        fields["upload"] = match[1] or match[2]
    return JobRequest.from_json(fields), None if inline is None else _read_inline(inline)


def make_job(job: Job, root: str, *, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a job in the flat form, with its environment; ``root`` is the URL of the service."""
    shown = job.to_dict(env=env)
    upload = job.spec.upload
    return {
        **shown,
        "url": f"{root}jobs/{job.id}/",
        "upload": None if upload is None else f"{root}uploads/{upload}/",
    }


def make_error_fields(error: KBatchError) -> dict[str, list[str]]:
    """Return the wrong fields with their messages, in the form for that client."""
    fields: dict[str, list[str]] = {}
    if isinstance(error, InvalidRequest):
        for each in error.details or ():
            name = re.split(r"[.\[]", each["field"], maxsplit=1)[0]
            if name not in error.to_dict():
                fields.setdefault(name, []).append(each["message"])
    return fields


def _read_inline(inline: Any) -> InlineFile:
    if (
        not isinstance(inline, dict)
        or set(inline) != {"name", "content"}
        or not all(isinstance(value, str) for value in inline.values())
    ):
        raise InvalidRequest.of_field("upload_data", WRONG_UPLOAD_DATA)
    name, content = inline["name"], inline["content"]
    if not re.fullmatch(r"[^/\\\x00-\x1f\x7f]{1,200}", name) or name in {".", ".."}:
        raise InvalidRequest.of_field("upload_data", "The 'name' must be a plain file name.")
    try:
        (name + content).encode()
    except UnicodeEncodeError:
        raise InvalidRequest.of_field("upload_data", "is not Unicode text") from None
    return InlineFile(name, content)
