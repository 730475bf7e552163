"""The index of results: whatever files are called, one of many is found, and only that one is read."""

from __future__ import annotations

import json
import tracemalloc
import zlib

import pytest

from kbatch_server.models.results import OmittedFile, OutputFile
from kbatch_server.store import resultindex
from kbatch_server.store.resultindex import find_in_index, pack_index, unpack_index

ODD = [
    'a"b',
    "a\\",
    'a\\"',
    "new\nline",
    "日" * 900,
    "😀",
    "foo[",
    ", 0, 3, 1], [",
    '\n["x", ',
    "\n]",
    "], ",
    '", "omitted": [',
    "plain",
]
OMITTED = [OmittedFile("too\nlarge", 10**12), OmittedFile("x" * 1000, 1)]


def make_files(paths) -> list[OutputFile]:
    return [OutputFile(path, 512 * number, number, 1_700_000_000) for number, path in enumerate(paths)]


@pytest.mark.parametrize("piece", [1, 7, 1000, 2**20])
@pytest.mark.parametrize("paths", [[], ["one"], ODD, [f"{i:05}" for i in range(1200)]])
def test_an_index_is_read_as_it_was_written_however_its_pieces_fall(monkeypatch, paths, piece):
    monkeypatch.setattr(resultindex, "PIECE_BYTES", piece)
    files = make_files(paths)
    packed = pack_index(files, OMITTED)
    assert unpack_index(packed) == (files, OMITTED)
    looked_for = files if len(files) < 100 else files[::300]
    assert [find_in_index(packed, file.path) for file in looked_for] == looked_for
    for path in ("too\nlarge", "nothing", "", "x", "on", 'one", 0'):
        assert find_in_index(packed, path) is None


def test_an_index_that_an_earlier_version_wrote_is_read_too():
    files = make_files(["b", "a"])
    first = zlib.compress(json.dumps(files).encode())
    assert unpack_index(first) == (sorted(files), [])
    assert find_in_index(first, "a") == files[1]
    second = zlib.compress(json.dumps({"files": files, "omitted": OMITTED}).encode())
    assert unpack_index(second) == (files, OMITTED)
    assert (find_in_index(second, "b"), find_in_index(second, "c")) == (files[0], None)


def test_one_file_of_ten_thousand_is_found_without_reading_or_holding_the_others(monkeypatch):
    files = make_files([f"{'日' * 900}{number:05}" for number in range(10_000)])
    packed = pack_index(files, [])
    made = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: made.append(len(text)) or loads(text))
    tracemalloc.start()
    try:
        assert find_in_index(packed, files[-1].path) == files[-1]
        assert find_in_index(packed, "nothing") is None
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(made) == 1
    assert made[0] < 10_000
    assert held < 4 * 2**20  # of 54 MB
