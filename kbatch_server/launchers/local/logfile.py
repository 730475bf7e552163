"""The log file of a local job, and the times of its parts; the standard library only."""

from __future__ import annotations

import math
import os
import struct
import sys
import time

PIECE_BYTES = 65536

NOTE = struct.Struct("<QQ")
"""An offset in the log, and the time (seconds since 1970) from which the data was written."""

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class LogFile:
    """A new file to copy output to, up to a limit, and a second file with the time of each part."""

    def __init__(self, path: str, times_path: str, max_bytes: int) -> None:
        self._fd = os.open(path, _FLAGS, 0o600)
        self._times_fd = os.open(times_path, _FLAGS, 0o600)
        self._room: float = max_bytes or math.inf
        self._max_bytes = max_bytes
        self._size = 0
        self._second = 0

    def copy_from(self, output: int, *, only_if_ready: bool = False) -> bool:
        """Copy one piece; return False at the end of the output."""
        try:
            piece = os.read(output, PIECE_BYTES)
        except BlockingIOError:
            return not only_if_ready
        if self._room and piece:
            if len(piece) > self._room:
                piece = piece[: int(self._room)] + self._last_line()
                self._room = 0
            else:
                self._room -= len(piece)
            self._write(piece)
        return bool(piece)

    def _last_line(self) -> bytes:
        return f"\n[the log ends here: it reached its limit of {self._max_bytes} bytes]\n".encode()

    def _write(self, piece: bytes) -> None:
        try:
            second = int(time.time())
            if second != self._second:
                os.write(self._times_fd, NOTE.pack(self._size, second))
                self._second = second
            while piece:
                written = os.write(self._fd, piece)
                self._size += written
                piece = piece[written:]
        except OSError as error:  # no space: the job continues without this piece of its log
            print(f"{int(time.time())} the log cannot be written: {error}", file=sys.stderr)

    def close(self) -> None:
        """Close the files."""
        os.close(self._fd)
        os.close(self._times_fd)
