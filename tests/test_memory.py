"""What a process keeps of the memory that its threads had."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNT = """
import ctypes, os, sys, tempfile, threading

from kbatch_server.memory import limit_arenas

limit_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
every = threading.Barrier(6)


def allocate():
    every.wait(10)
    pointer = libc.malloc(20_000)
    every.wait(10)
    libc.free(pointer)


threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with tempfile.NamedTemporaryFile() as file:
    libc.fopen.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    assert libc.malloc_info(0, stream) == 0
    libc.fclose(stream)
    print(open(file.name).read().count("<heap nr="))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize(("chosen", "arenas"), [({}, 2), ({"MALLOC_ARENA_MAX": "4"}, 4)])
def test_threads_share_few_arenas_unless_an_admin_says_how_many(chosen: dict[str, str], arenas: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | chosen
    done = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True)
    assert (done.stderr, int(done.stdout)) == ("", arenas)
