"""The first process of a cluster's node: when it ends, the kernel ends everything else there.

Runs in fresh PID, mount and network namespaces: ``init.py RUN_DIR tied|detached``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def mount_private_folders(run_dir: str) -> None:
    """Hide the host's folders whose names containerd, CNI and kubelet have built in."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    for path in ("/var/log", "/var/lib/cni"):
        own = run_dir + path
        os.makedirs(own)
        os.makedirs(path, exist_ok=True)
        subprocess.run(["mount", "--bind", own, path], check=True)


def main(run_dir: str, mode: str) -> None:
    mount_private_folders(run_dir)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # reaps containerd's orphaned shims
    print("ready", flush=True)
    if mode == "tied":
        sys.stdin.read()  # ends when the process that started us does, however it does
    else:
        while True:
            signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
