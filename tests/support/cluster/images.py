"""Make container images for the tests without a daemon or a registry, from a static busybox.

Debian's static busybox crashes when it looks a name up: in these images, address hosts by number.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from pathlib import Path

BUSYBOX = "localhost/busybox:1"
PAUSE = "localhost/pause:1"

APPLETS = """
    [ ash awk basename cat chmod chown cp cut date dd dirname du echo env expr false find grep gzip head
    hostname id kill ln ls md5sum mkdir mkfifo mktemp mv nc printf ps pwd readlink rm rmdir sed seq sh
    sha256sum sleep sort ssl_client stat tail tar tee test timeout touch tr true uname uniq unzip wc wget
    whoami xargs yes
"""

ETC = {
    "etc/passwd": b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "etc/group": b"root:x:0:\nnobody:x:65534:\n",
}


def make_images(out: Path) -> list[Path]:
    """Write the archives that every cluster gets to ``out``: what pods are held by, and busybox."""
    source = find_busybox()
    if source is None:
        raise FileNotFoundError("no busybox (Debian: busybox-static)")
    binary = source.read_bytes()
    env = {"Env": ["PATH=/bin"]}
    pause, busybox = out / "pause.tar", out / "busybox.tar"
    # Any process that does nothing holds a pod's namespaces; busybox spares building the real one.
    links = {"bin/sleep": "busybox"}
    make_image(
        pause,
        PAUSE,
        files={"bin/busybox": binary},
        links=links,
        config=env | {"Entrypoint": ["/bin/sleep", "2147483647"]},
    )
    make_image(
        busybox,
        BUSYBOX,
        files={"bin/busybox": binary} | ETC,
        links={f"bin/{applet}": "busybox" for applet in APPLETS.split()},
        config=env | {"Cmd": ["sh"]},
    )
    return [pause, busybox]


def make_image(
    out: Path,
    name: str,
    *,
    files: Mapping[str, bytes],
    links: Mapping[str, str],
    config: Mapping[str, object],
) -> None:
    """Write a docker-archive of one layer; the same input gives the same bytes."""
    layer = _make_layer(files, links)
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    manifest = {
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
    config_json = json.dumps(manifest, sort_keys=True).encode()
    config_name = hashlib.sha256(config_json).hexdigest() + ".json"
    index = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(out, "w") as archive:
        _add_file(archive, config_name, config_json, 0o644)
        _add_file(archive, "layer.tar", layer, 0o644)
        _add_file(archive, "manifest.json", json.dumps(index).encode(), 0o644)


def _make_layer(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for name in ("bin", "etc", "tmp"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            folder.mode = 0o1777 if name == "tmp" else 0o755
            layer.addfile(folder)
        for name, data in sorted(files.items()):
            _add_file(layer, name, data, 0o755 if name.startswith("bin/") else 0o644)
        for name, target in sorted(links.items()):
            link = tarfile.TarInfo(name)
            link.type = tarfile.SYMTYPE
            link.linkname = target
            layer.addfile(link)
    return buffer.getvalue()


def _add_file(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)  # owner root, time 0: nothing of the machine gets in
    info.size = len(data)
    info.mode = mode
    archive.addfile(info, io.BytesIO(data))


def find_busybox() -> Path | None:
    """Debian's static busybox: one file that runs in an empty image."""
    paths = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
    return next((path for path in paths if path.is_file()), None)
