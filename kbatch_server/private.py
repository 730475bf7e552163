"""Makes files and folders accessible to the service alone, including existing ones with other modes."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private(path: Path) -> None:
    """Remove everybody else's access to a file or folder, if it exists.

    If it belongs to somebody else (such as a volume that Kubernetes mounts), this is impossible: then the log
    has a warning if everybody can access it.
    """
    try:
        info = path.stat()
    except FileNotFoundError:
        return
    mode = stat.S_IMODE(info.st_mode)
    if not mode & OTHERS:
        return
    if info.st_uid == os.geteuid():
        try:
            path.chmod(mode & ~OTHERS)
        except OSError as error:  # a file system that is read-only, say
            log.warning("%s has mode %04o, which cannot be changed: %s", path, mode, error)
        else:
            log.warning("%s had mode %04o, open to other users: changed to %04o", path, mode, mode & ~OTHERS)
    elif mode & stat.S_IRWXO:
        log.warning("%s has mode %04o, open to all users: its owner should change that", path, mode)
