"""The folder that the page finds at the top of a ZIP is the one that the service finds."""

from __future__ import annotations

import struct
import zipfile

import pytest

from kbatch_server.uploads import zipdirectory
from tests.support.page_scripts import bundle
from tests.support.zips import NAME, make_zip, stored, unicode_path

# returns what the page finds, and how much of the file it reads at a time
FUNCTIONS = """
import { openAsBlob } from "node:fs";
import { findTopFolder } from "./src/fields/top-folder.ts";
const functions = {
  find: async (path: string) => {
    const file = await openAsBlob(path);
    let most = 0;
    const slice = (start: number, end: number) => {
      most = Math.max(most, end - start);
      return file.slice(start, end);
    };
    return [await findTopFolder({ size: file.size, slice } as Blob), most];
  },
};
"""

OEM = NAME.encode("cp437")
FOLDER = NAME.encode() + b"/"
UTF8 = 0x800
MIB = 2**20

MANY = [f"repo-main/{'n' * 150}/{number}" for number in range(10_000)]
"""Files whose directory is larger than what is read at a time."""


def zip_of(*names: str) -> bytes:
    return make_zip(dict.fromkeys(names, b""), compress_type=zipfile.ZIP_STORED)


def in_oem(content: bytes) -> bytes:
    """Return a ZIP in which the ``X`` of each ``donnXes`` is MS-DOS's ``é``."""
    return content.replace(b"donnXes", "données".encode("cp437"))


def make_zip64(*names: str, is_masked: bool) -> bytes:
    """Return a ZIP with the end of ZIP64; masked, that alone says where the directory is, as Go writes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
        content = bytearray(zip_of(*names))
    if is_masked:
        struct.pack_into("<HHLL", content, len(content) - 14, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return bytes(content)


CASES: dict[str, tuple[bytes, str]] = {
    "folder": (zip_of("repo-main/", "repo-main/a", "repo-main/b/c"), "repo-main"),
    "implied": (zip_of("repo-main/b/c"), "repo-main"),
    "macos": (zip_of("./repo-main//b/c", "__MACOSX/x", ".DS_Store"), "repo-main"),
    "two": (zip_of("a/x", "b/x"), ""),
    "file beside": (zip_of("a/x", "b"), ""),
    "file": (zip_of("main.py"), ""),
    "empty beside": (zip_of("a/x", "empty/"), ""),
    "oem below": (in_oem(zip_of("projet/main.py", "projet/donnXes.txt")), "projet"),
    "oem beside": (in_oem(zip_of("projet/main.py", "donnXes.txt")), ""),
    "oem": (in_oem(zip_of("donnXes/main.py", "donnXes/b/c")), "données"),
    "utf-8": (stored(FOLDER + b"x"), NAME),
    "oem below utf-8": (stored(FOLDER + OEM), (FOLDER + OEM).decode("cp437").split("/")[0]),
    "windows": (stored(b"projet\\" + OEM), "projet"),
    "bom": (stored("\ufeffprojet/x".encode(), flags=UTF8), "\ufeffprojet"),
    "unicode path": (stored(b"d/x", extra=unicode_path(b"d/x", FOLDER + b"x")), NAME),
    "unicode path of others": (stored(b"d/x", extra=unicode_path(b"e/x", FOLDER + b"x")), "d"),
    "unicode path of no version": (stored(b"d/x", extra=unicode_path(b"d/x", FOLDER + b"x", version=2)), "d"),
    "unicode path after another": (
        stored(b"d/x", extra=struct.pack("<HHL", 0x5455, 4, 0) + unicode_path(b"d/x", FOLDER + b"x")),
        NAME,
    ),
    "unicode path, cut": (stored(b"d/x", extra=unicode_path(b"d/x", FOLDER + b"x")[:-1]), "d"),
    "unicode path, flagged": (
        stored(b"d/x", flags=UTF8, extra=unicode_path(b"d/x", FOLDER + b"x")),
        "d",
    ),
    "many": (zip_of(*MANY), "repo-main"),
    "many and another": (zip_of(*MANY, "z/x"), ""),
    "zip64": (make_zip64("repo-main/a", "repo-main/b", is_masked=False), "repo-main"),
    "zip64, masked": (make_zip64("repo-main/a", "repo-main/b", is_masked=True), "repo-main"),
}


@pytest.fixture(scope="module")
def find(tmp_path_factory):
    """Return what asks the page about ZIPs: the folder, and how much of the file it reads at a time."""
    folder = tmp_path_factory.mktemp("page")
    ask = bundle(FUNCTIONS, folder)

    def find(*contents):
        paths = [folder / f"{number}.zip" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return ask(*(("find", str(path)) for path in paths))

    return find


@pytest.fixture(scope="module")
def found(find):
    """Return what the page finds in each case."""
    return dict(zip(CASES, find(*(content for content, _ in CASES.values())), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_the_page_finds_the_folder_that_the_service_does(found, case):
    content, top = CASES[case]
    assert (zipdirectory.read_directory(content, 0).tree.find_top_folder() or "") == top
    assert found[case][0] == top


def test_a_large_directory_is_read_in_pieces(found):
    content, _ = CASES["many"]
    assert len(content) - content.index(b"PK\1\2") > MIB
    assert found["many"][1] <= MIB


def test_where_there_is_no_directory_there_is_no_folder(find):
    good = zip_of("a/x")
    bad = [b"", b"no ZIP", good[:-30], good.replace(b"PK\1\2", b"PK\1\3")]
    assert [top for top, _ in find(good, *bad)] == ["a", "", "", "", ""]
