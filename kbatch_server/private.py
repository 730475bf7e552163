"""Files and folders that are for the service alone, also those that were there before with other modes."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private(path: Path) -> None:
    """Take from everybody else what they may do with a file or a folder, if there is one.

    Where it is somebody else's, as what Kubernetes mounts is, that cannot be done: then the log says so, if
    everybody may read it.
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
