"""Extracts one file from a multipart body as it arrives, piece by piece."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..errors import InvalidRequest

ROOM_BYTES = 64 * 1024
"""Maximum size of the body without the file: boundaries, headers, small other parts."""

MAX_PARTS = 100
"""Maximum number of parts: a form has a few, and parsing each takes as long as some kilobytes of the file."""


class FilePart:
    """The content of the part called ``file`` in a ``multipart/form-data`` body.

    Feed it the body: for each piece it returns the bytes that belong to the file. It skips other parts, if
    they are few and small. (The parser accepts at most eight headers of four kilobytes for each part.)
    """

    def __init__(self, content_type: str) -> None:
        """Take the Content-Type of the request; raises InvalidRequest if it names no boundary."""
        _, options = parse_options_header(content_type)
        self.is_found = False
        self._is_ended = False
        self._is_file = False
        self._field = self._value = b""
        self._disposition = b""
        self._pieces: list[bytes] = []
        self._parts = 0
        self._beside = 0
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_field,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_end": self._end,
                },
            )
        except (KeyError, FormParserError):
            raise InvalidRequest.of_field("Content-Type", "has no boundary between the parts") from None

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes of a piece of the body that belong to the file; raises InvalidRequest."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest.of_field("body", f"is not multipart/form-data: {error}") from None
        data, self._pieces = b"".join(self._pieces), []
        self._beside += len(chunk) - len(data)
        if self._beside > ROOM_BYTES:
            raise InvalidRequest.of_field("body", f"has more than {ROOM_BYTES} bytes beside the file")
        return data

    def finish(self) -> None:
        """Raise InvalidRequest unless the body had a whole file; to be called at the end of the body."""
        if not self.is_found:
            why = "No file was submitted."
            raise InvalidRequest(why, reason="NoFile", details=[{"field": "file", "message": why}])
        if not self._is_ended:
            raise InvalidRequest.of_field("body", "ends before the final boundary")

    def _begin_part(self) -> None:
        self._disposition = b""
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest.of_field("body", f"has more than {MAX_PARTS} parts")

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        self._is_file = options.get(b"name") == b"file"
        if self._is_file and self.is_found:
            raise InvalidRequest.of_field("file", "was sent more than once")
        self.is_found = self.is_found or self._is_file

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._pieces.append(data[start:end])

    def _end(self) -> None:
        self._is_ended = True
