"""What a good ZIP is, and that all unpackers agree on it; each bad one is refused by its entry's name."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import os
import shutil
import stat
import struct
import subprocess
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbatch_server.errors import InvalidRequest, KBatchError
from kbatch_server.launchers.local.unpack import BadCode, unpack
from kbatch_server.uploads import zipcheck as archive
from kbatch_server.uploads import zipcontent, zipdirectory, ziprewrite
from kbatch_server.uploads.zipnames import split_path
from tests.support.fuzzing import at_most_steps, changes, damage, fuzzed, peak_below
from tests.support.zips import NAME, make_zip, stored, unicode_path

MIB = 2**20
LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


GOOD = make_zip(("main.py", b"print('hello')\n"), ("data/x.csv", b"1,2\n"))


def entry(name: str, *, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def patched(content: bytes, *, number: int = 0, **fields: int) -> bytes:
    """Return a ZIP one of whose entries says something else about itself in the directory."""
    offsets = {
        "flag_bits": (8, "<H"),
        "method": (10, "<H"),
        "crc": (16, "<L"),
        "compress_size": (20, "<L"),
        "file_size": (24, "<L"),
        "place": (42, "<L"),
    }
    changed = bytearray(content)
    at = -1
    for _ in range(number + 1):
        at = changed.index(CENTRAL, at + 1)
    for field, value in fields.items():
        offset, form = offsets[field]
        struct.pack_into(form, changed, at + offset, value)
    return bytes(changed)


def renamed(content: bytes, old: str, new: bytes, *, everywhere: bool = True) -> bytes:
    """Return a ZIP with the bytes of a name replaced by as many others; else in the directory alone."""
    assert len(old.encode()) == len(new)
    at = 0 if everywhere else content.index(CENTRAL)
    return content[:at] + content[at:].replace(old.encode(), new)


def reader_of(content: bytes, piece_bytes: int = 1000) -> archive.Reader:
    async def read(start: int, length: int) -> AsyncIterator[bytes]:
        for at in range(start, start + length, piece_bytes):
            yield content[at : min(at + piece_bytes, start + length)]

    return read


async def check(content: bytes, piece_bytes: int = 1000) -> archive.Archive:
    return await archive.check_archive(len(content), reader_of(content, piece_bytes))


async def make_plain(content: bytes, piece_bytes: int = 1000) -> bytes:
    """Return what is kept of a ZIP: itself, where every unpacker makes the same of it."""
    checked = await check(content, piece_bytes)
    if checked.directory.is_plain:
        return content
    made = archive.rewrite_archive(checked, reader_of(content, piece_bytes))
    plain = b"".join([piece async for piece in made])
    kept = (await check(plain)).directory
    assert kept.is_plain or all(not entry.is_odd and not entry.is_left_out for entry in kept.entries)
    return plain


async def refusal(content: bytes, piece_bytes: int = 1000) -> str:
    with pytest.raises(KBatchError) as refused:
        await check(content, piece_bytes)
    assert refused.value.status == 400
    assert refused.value.details == [{"field": "file", "message": refused.value.message}]
    return refused.value.message


# --- good ones


ZIPS = {
    "plain": GOOD,
    "folders": make_zip((entry("data/", mode=stat.S_IFDIR | 0o755), b""), ("data/ü x.csv", b"1")),
    "odd-names": make_zip(
        ("main..py", b""), ("a/..b/c", b""), (".hidden", b""), ("-rf", b"x"), ("n\nl", b"y")
    ),
    "case": make_zip(("README", b"1"), ("readme", b"2")),
    "dots": make_zip(("./a", b"1"), ("b//c", b"2")),
    "not-marked-utf8": renamed(make_zip(("aa.txt", b"x")), "aa.txt", "ü.txt".encode()),
    "latin1": renamed(make_zip(("a.txt", b"x")), "a.txt", b"\xfc.txt"),
    "deep": make_zip(("d/" * 100 + "f", b"x")),
    "long": make_zip(("n" * 255, b"x"), ("/".join(["m" * 199] * 10), b"y")),
    "zeros": make_zip(("zeros", bytes(5 * MIB))),  # compresses well, and is small
    "stored": make_zip(("data", os.urandom(2 * MIB)), compress_type=zipfile.ZIP_STORED),
    "nested": make_zip(("inner.zip", GOOD), compress_type=zipfile.ZIP_STORED),
    "empty-file": make_zip(("a", b""), ("b", b"x")),
}


def streamed() -> bytes:
    """Return a ZIP as it is made where it cannot go back: sizes stand after the data."""
    file = io.BytesIO()
    file.seekable = lambda: False  # type: ignore[method-assign]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a", b"x" * 100)
        made.writestr("b", b"y" * 100)
    return file.getvalue()


def zip64() -> bytes:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made,
        made.open("a", "w", force_zip64=True) as one,
    ):
        one.write(b"x" * 100)
    return file.getvalue()


def commented(size: int) -> bytes:
    file = io.BytesIO(GOOD)
    with zipfile.ZipFile(file, "a") as made:
        made.comment = b"c" * size
    return file.getvalue()


def program() -> bytes:
    """Return a zipapp: a first line that names its interpreter, and a ZIP that knows of it."""
    file = io.BytesIO(b"#!/usr/bin/env python3\n")
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a") as made:
        made.writestr("__main__.py", b"print()")
    return file.getvalue()


ZIPS |= {"streamed": streamed(), "zip64": zip64(), "comment": commented(15_000), "program": program()}


def unpack_by_busybox(content: bytes, folder: Path) -> dict[bytes, bytes] | None:
    """Return the files, by their paths, as the container that fetches a job's code unpacks them."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox is needed: apt-get install busybox-static"
    (folder / "code.zip").write_bytes(content)
    (folder / "busybox").mkdir()
    done = subprocess.run(
        [busybox, "unzip", "-q", "-o", "../code.zip"],
        cwd=folder / "busybox",
        capture_output=True,
        check=False,
    )
    return read_tree(folder / "busybox") if done.returncode == 0 else None


def unpack_by_python(content: bytes) -> dict[bytes, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {
            os.fsencode("/".join(split_path(each.filename))): file.read(each)
            for each in file.infolist()
            if not each.is_dir()
        }


def unpack_locally(content: bytes, folder: Path) -> dict[bytes, bytes]:
    (folder / "code.zip").write_bytes(content)
    unpack(folder / "code.zip", folder / "local", max_bytes=100 * MIB)
    return read_tree(folder / "local")


def read_tree(folder: Path) -> dict[bytes, bytes]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[os.fsencode(path.relative_to(folder))] = b"-> " + os.fsencode(path.readlink())
        elif path.is_file():
            found[os.fsencode(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.mark.parametrize("name", ZIPS)
@pytest.mark.parametrize("piece_bytes", [7, MIB])
async def test_a_zip_as_people_make_them_is_good_and_each_unpacker_makes_the_same_of_it(
    tmp_path, name, piece_bytes
):
    content = ZIPS[name]
    plain = await make_plain(content, max(piece_bytes, len(content) // 10_000))
    unpacked = unpack_locally(plain, tmp_path)
    assert unpacked == unpack_by_busybox(plain, tmp_path)
    assert unpacked == unpack_by_python(plain)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert len(unpacked) == sum(not each.is_dir() for each in file.infolist())


@pytest.mark.slow
async def test_any_change_of_a_byte_is_refused_or_changes_nothing_that_is_unpacked(tmp_path):
    good, passed = unpack_locally(GOOD, tmp_path), 0
    for at in range(len(GOOD)):
        for value in (0x00, 0xFF):
            changed = GOOD[:at] + bytes([value]) + GOOD[at + 1 :]
            try:
                await check(changed)
            except InvalidRequest:
                continue
            passed += 1
            folder = tmp_path / f"{at}-{value}"
            folder.mkdir()
            assert unpack_locally(changed, folder) == unpack_by_busybox(changed, folder) == good, at
    assert passed < len(GOOD)  # dates, rights and the like


# --- what is none


async def test_what_is_no_zip_is_refused():
    for content in (
        b"",
        b"PK",
        b"x" * 100,
        b"PK\x05\x06",
        b"Rar!\x1a\x07" + bytes(100),
        b"\x1f\x8b" + GOOD[:50],
    ):
        assert await refusal(content) == "The submitted file must be a ZIP archive."


async def test_a_zip_that_was_cut_off_is_refused():
    for cut in (5, 40, len(GOOD) // 2, len(GOOD) - 30, len(GOOD) - 1):
        assert await refusal(GOOD[:cut]) == "The ZIP archive is damaged, maybe truncated."


async def test_a_zip_that_lacks_its_middle_is_refused():
    assert await refusal(GOOD[:10] + GOOD[20:]) == "The ZIP archive is damaged, maybe truncated."
    blank = make_zip(("a", os.urandom(5000)), ("b", os.urandom(5000)))
    for missing, name in ((2000, "a"), (7000, "b")):  # in place: as many zeros
        content = blank[:missing] + bytes(1000) + blank[missing + 1000 :]
        assert f"entry '{name}' is damaged" in await refusal(content)


async def test_a_zip_that_something_else_stands_before_is_refused():
    assert "has data before it" in await refusal(b"MZ junk" + GOOD)


async def test_a_comment_that_hides_the_directory_from_busybox_is_refused():
    assert "has a comment of more than 16,000 bytes" in await refusal(commented(65535))


async def test_a_directory_that_hides_an_entry_is_refused():
    longer = bytearray(GOOD)
    struct.pack_into("<H", longer, GOOD.index(CENTRAL) + 32, 60)  # a comment, over the next entry
    assert await refusal(bytes(longer)) == "The ZIP archive is damaged, maybe truncated."


async def test_a_zip_without_files_is_refused():
    for content in (make_zip({}), make_zip(("folder/", b""))):
        assert await refusal(content) == "The ZIP archive has no files."


# --- names


@pytest.mark.parametrize("name", ["/etc/passwd", "\\\\host\\x", "C:\\x", "c:x"])
async def test_an_absolute_path_is_refused(name):
    message = await refusal(make_zip(("good", b""), (name, b"")))
    assert message == f"The ZIP archive's entry {name!r} has an absolute path."


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a\\..\\x", "..", "a/.."])
async def test_a_path_that_leads_out_is_refused(name):
    assert f"{name!r} has '..' in its path" in await refusal(make_zip((name, b"")))


async def test_a_path_that_leads_out_only_where_the_entry_itself_stands_is_refused():
    content = renamed(make_zip(("good/name", b"x")), "good/name", b"../../bad")
    hidden = renamed(content, "../../bad", b"good/name", everywhere=False)
    assert "'good/name' has a header that differs" in await refusal(hidden)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("data\\x.csv", "has a backslash in its path: make the ZIP with '/'"),
        ("d/" * 101 + "f", "is more than 100 folders deep"),
        ("d/" * 101, "is more than 100 folders deep"),
        ("n" * 5000, "has too long a name: the limit is 255 bytes"),
        ("é" * 128, "has too long a name"),
        ("/".join(["m" * 200] * 10), "has too long a name"),
    ],
)
async def test_a_name_that_not_every_machine_takes_is_refused(name, problem):
    shown = name if len(name) <= 200 else name[:200] + "…"
    message = await refusal(make_zip(("good", b""), (name, b"")))
    assert message.startswith(f"The ZIP archive's entry {shown!r} {problem}")


async def test_a_name_with_nul_is_refused():
    content = renamed(make_zip(("aXb.py", b"")), "aXb", b"a\0b")
    assert "'a\\x00b.py' has no name, or one with a NUL" in await refusal(content)


async def test_a_name_that_is_not_utf8_but_says_so_is_refused():
    content = renamed(make_zip(("ü.txt", b"x")), "ü.txt", b"\xff\xfe.txt")
    assert "entry '\ufffd\ufffd.txt' has a name that is not UTF-8" in await refusal(content)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("a", "b", "a"), "'a' appears twice"),
        (("a/b", "./a//b"), "'./a//b' appears twice"),
        (("a", "a/b"), "'a' is both a file and a folder"),
        (("a/b/c", "a/b"), "'a/b' is both a file and a folder"),
        (("a", "a/"), "'a' is both a file and a folder"),
    ],
)
async def test_two_entries_for_one_place_are_refused(names, problem):
    assert problem in await refusal(make_zip(*[(name, b"") for name in names]))


OEM = NAME.encode("cp437")
NAMES = {
    "oem": (stored(OEM), NAME),
    "utf8-that-says-so": (stored(NAME.encode(), flags=0x800), NAME),
    "utf8-that-does-not": (stored(NAME.encode(), system=3), NAME),
    "unicode-path": (stored(b"donn?es.txt", extra=unicode_path(b"donn?es.txt", NAME.encode())), NAME),
    "unicode-path-behind-another-field": (
        stored(OEM, extra=struct.pack("<HHL", 0x5455, 4, 1) + unicode_path(OEM, NAME.encode())),
        NAME,
    ),
    "unicode-path-of-another-name": (stored(OEM, extra=unicode_path(b"other", b"wrong.txt")), NAME),
    "unicode-path-of-a-later-version": (stored(OEM, extra=unicode_path(OEM, b"wrong.txt", version=2)), NAME),
    "unicode-path-that-is-not-utf8": (stored(OEM, extra=unicode_path(OEM, b"\xff.txt")), NAME),
    "unicode-path-beside-utf8": (
        stored(NAME.encode(), flags=0x800, extra=unicode_path(NAME.encode(), b"wrong.txt")),
        NAME,
    ),
    "backslashes": (stored(b"proj\\sub\\main.py"), "proj/sub/main.py"),
    "backslashes-of-ntfs": (stored(b"proj\\main.py", system=11), "proj/main.py"),
}


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_is_the_same_to_the_check_and_to_every_unpacker(tmp_path, name):
    content, right = NAMES[name]
    assert [entry.name for entry in (await check(content)).directory.entries] == [right]
    plain = await make_plain(content)
    expected = {right.encode(): b"x"}
    assert unpack_locally(plain, tmp_path) == expected
    assert unpack_by_busybox(plain, tmp_path) == expected
    assert unpack_by_python(plain) == expected


async def test_a_name_of_a_zip_that_was_kept_before_is_right_on_one_machine(tmp_path):
    assert unpack_locally(NAMES["oem"][0], tmp_path) == {NAME.encode(): b"x"}


@pytest.mark.parametrize("raw", [b"..\\x", b"a\\..\\x", b"\\x", b"c:\\x"])
async def test_a_path_that_leads_out_by_backslashes_is_refused(raw):
    assert "path" in await refusal(stored(raw))


async def test_a_path_that_leads_out_by_the_unicode_path_field_is_refused():
    content = stored(b"good.txt", extra=unicode_path(b"good.txt", b"../bad.txt"))
    assert "entry '../bad.txt' has '..' in its path" in await refusal(content)


async def test_two_names_that_mean_the_same_are_refused():
    content = make_zip((entry("a/b"), b""), (entry("aXb"), b""))
    same = renamed(content, "aXb", b"a\\b").replace(CENTRAL + b"\x14\x03", CENTRAL + b"\x14\x00")
    assert "'a/b' appears twice" in await refusal(same)


async def test_what_macos_adds_for_itself_is_left_out(tmp_path):
    content = make_zip(
        ("project/main.py", b"1"),
        ("project/.DS_Store", b"2"),
        ("__MACOSX/project/._main.py", b"3"),
        ("__MACOSX/._project", b"4"),
        ("project/__MACOSX/x", b"5"),
        (".DS_Store.d/x", b"6"),
    )
    plain = await make_plain(content)
    expected = {b"project/main.py": b"1", b"project/__MACOSX/x": b"5", b".DS_Store.d/x": b"6"}
    assert unpack_locally(plain, tmp_path) == unpack_by_busybox(plain, tmp_path) == expected
    assert await refusal(make_zip(("__MACOSX/x", b""), ("a/.DS_Store", b""))) == (
        "The ZIP archive has no files."
    )


@pytest.mark.parametrize(
    ("names", "top"),
    [
        (("repo-main/", "repo-main/a", "repo-main/b/c"), "repo-main"),
        (("repo-main/b/c",), "repo-main"),
        (("./repo-main//b/c", "__MACOSX/x", ".DS_Store"), "repo-main"),
        (("a/x", "b/x"), None),
        (("a/x", "b"), None),
        (("main.py",), None),
        (("a/x", "empty/"), None),
    ],
)
async def test_one_folder_at_the_top_is_known(names, top):
    content = make_zip(*[(name, b"") for name in names])
    assert (await check(content)).directory.tree.find_top_folder() == top


async def test_a_zip_that_is_made_plain_has_the_rights_times_and_bytes_of_the_first(tmp_path):
    program = entry("bin/go", mode=stat.S_IFREG | 0o755)
    program.date_time = (2026, 10, 1, 12, 30, 58)
    data = os.urandom(300_000)
    content = make_zip((program, b"#!/bin/sh\n"), ("data\u00fc", data), (".DS_Store", b""), ("empty/", b""))
    plain = await make_plain(content, 7000)
    with zipfile.ZipFile(io.BytesIO(plain)) as made:
        assert made.testzip() is None
        assert made.namelist() == ["bin/go", "data\u00fc", "empty/"]
        assert made.getinfo("bin/go").date_time == program.date_time
        assert made.read("data\u00fc") == data
    unpack_locally(plain, tmp_path)
    unpack_by_busybox(plain, tmp_path)
    for folder in ("local", "busybox"):
        assert (tmp_path / folder / "bin/go").stat().st_mode & 0o100
        assert not (tmp_path / folder / "data\u00fc").stat().st_mode & 0o100


async def test_a_large_zip_is_made_plain_in_the_form_for_large_ones(monkeypatch):
    monkeypatch.setattr(ziprewrite, "IN_ZIP64", 1000)
    monkeypatch.setattr(ziprewrite, "IN_ZIP64_16", 2)
    monkeypatch.setattr(zipdirectory, "IN_ZIP64", 1000)
    monkeypatch.setattr(zipdirectory, "IN_ZIP64_16", 2)
    monkeypatch.setattr(zipcontent, "IN_ZIP64", 1000)
    content = make_zip(("b", b"1" * 900), ("c", b"3"), (".DS_Store", b""), compress_type=zipfile.ZIP_STORED)
    plain = await make_plain(content)
    assert b"PK\6\6" in plain
    assert [each.size for each in (await check(plain)).directory.entries] == [900, 1]


@pytest.mark.parametrize("kind", ["folders", "left out", "links"])
async def test_a_zip_of_very_many_entries_is_made_plain_a_few_at_a_time(kind, monkeypatch):
    count = 20 * ziprewrite.ENTRIES_AT_ONCE
    make = {
        "folders": lambda number: (f"{number}/", b""),
        "left out": lambda number: (f"__MACOSX/{number}", b""),
        "links": lambda number: (entry(str(number), mode=stat.S_IFLNK | 0o777), b"main.py"),
    }[kind]
    content = make_zip(("main.py", b""), (".DS_Store", b""), *map(make, range(count)))
    checked = await check(content, len(content))

    async def read(start, length):
        yield content[start : start + length]  # all at once: nothing is waited for

    done, done_at_turns = 0, [0]
    is_left_out = zipdirectory.ZipEntry.is_left_out.fget
    make_central = ziprewrite._make_central

    def look(entry):
        nonlocal done
        done += 1
        return is_left_out(entry)

    def make_counted(*args):
        nonlocal done
        done += 1
        return make_central(*args)

    async def take_turns():
        while True:
            done_at_turns.append(done)
            await asyncio.sleep(0)

    monkeypatch.setattr(zipdirectory.ZipEntry, "is_left_out", property(look))
    monkeypatch.setattr(ziprewrite, "_make_central", make_counted)
    others = asyncio.create_task(take_turns())
    pieces = [piece async for piece in archive.rewrite_archive(checked, read)]
    others.cancel()
    steps = [after - before for before, after in itertools.pairwise([*done_at_turns, done])]
    assert sum(steps) >= count
    assert max(steps) <= 2 * ziprewrite.ENTRIES_AT_ONCE
    assert max(map(len, pieces)) <= 2 * ziprewrite.PIECE_BYTES


# --- links


def linked(*links: tuple[str, bytes], compress_type: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = [(entry(name, mode=stat.S_IFLNK | 0o777), target) for name, target in links]
    return make_zip(*made, ("a/b/file", b"x"), ("top", b"y"), compress_type=compress_type)


@pytest.mark.parametrize(
    "links",
    [
        [("link", b"top")],
        [("link", b"a/b")],
        [("a/b/link", b"../../top")],
        [("a/link", b"b/file"), ("second", b"a/link")],
        [("a/up", b".."), ("second", b"a/up/a/b")],
        [("link", b"is/not/there")],
        [("link", b".")],
    ],
)
async def test_links_that_stay_inside_are_links(tmp_path, links):
    for compress_type in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        folder = tmp_path / str(compress_type)
        folder.mkdir()
        plain = await make_plain(linked(*links, compress_type=compress_type))
        unpacked = unpack_locally(plain, folder)
        assert unpacked == unpack_by_busybox(plain, folder)
        for name, target in links:
            assert unpacked[name.encode()] == b"-> " + target


@pytest.mark.parametrize(
    ("links", "problem"),
    [
        ([("evil", b"/etc/passwd")], "'evil' is a link to an absolute path"),
        ([("evil", b"..")], "'evil' is a link to a place outside"),
        ([("a/evil", b"../../x")], "'a/evil' is a link to a place outside"),
        ([("a/evil", b"b/../../../x")], "'a/evil' is a link to a place outside"),
        # each of these is inside by its own words
        ([("a/up", b".."), ("evil", b"a/up/../x")], "'evil' is a link to a place outside"),
        ([("a/up", b"b"), ("evil", b"a/up/../../../x")], "'evil' is a link to a place outside"),
        ([("1", b"a/b"), ("a/b/2", b"../../1/../../.."), ("3", b"1/2")], "is a link to a place outside"),
        ([("evil", b"nothing/../../x")], "'evil' is a link to a place outside"),
        ([("evil", b"top/../../x")], "'evil' is a link to a place outside"),
        ([("one", b"two"), ("two", b"one")], "is a link to itself"),
        ([("evil", b"evil")], "'evil' is a link to itself"),
        ([("evil", b"")], "'evil' is a link without a target"),
        ([("evil", b"a\0b")], "'evil' is a link without a target, or with one"),
        ([("evil", b"\xff")], "'evil' is a link without a target, or with one"),
        ([("evil", b"x" * 2001)], "'evil' is a link that cannot be read, or is longer"),
        ([("evil/", b"top")], "'evil/' is a link that cannot be read"),
        ([("top", b"a")], "'top' appears twice"),
        ([("a", b"top")], "'a' is both a link and a folder"),
        ([("a/b/file/x", b"top")], "'a/b/file' is both a file and a folder"),
    ],
)
async def test_a_link_that_could_lead_outside_or_be_written_through_is_refused(links, problem):
    assert problem in await refusal(linked(*links))


async def test_nothing_is_written_through_a_link_whatever_comes_first():
    content = make_zip((entry("link", mode=stat.S_IFLNK | 0o777), b"a"), ("a/x", b""), ("link/x", b"evil"))
    assert "'link' is both a link and a folder" in await refusal(content)


async def test_a_chain_of_links_that_linux_would_not_follow_is_refused():
    chain = [(f"l{i}", f"l{i + 1}".encode()) for i in range(60)]
    assert "to itself, or follows too many links" in await refusal(linked(*chain))


async def test_the_steps_for_links_grow_with_their_number_only():
    steps = []
    for count in (500, 1000):
        content = linked(*[(f"l{i}", f"l{i - 1}/a/b/..".encode() if i % 30 else b"a") for i in range(count)])
        with at_most_steps(10**7) as count_steps:
            directory = zipdirectory.read_directory(content, 0)
            following = zipcontent.ContentCheck(directory)
            following.feed(content[: directory.start])
            following.finish()
        steps.append(count_steps())
    assert steps[1] < 2.2 * steps[0]


async def test_links_that_say_too_much_in_all_are_refused(monkeypatch):
    monkeypatch.setattr(zipdirectory, "MAX_LINK_BYTES", 50)
    assert "in the ZIP archive exceed 50 bytes" in await refusal(linked(("l", b"a" * 30), ("m", b"b" * 30)))


# --- kinds


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
async def test_a_device_is_refused(kind):
    assert "'evil' is neither a file, a folder nor a link" in await refusal(
        make_zip((entry("evil", mode=kind), b""))
    )


async def test_an_encrypted_entry_is_refused():
    assert "'main.py' is encrypted" in await refusal(patched(GOOD, flag_bits=0x1))
    at_its_place = GOOD[:6] + b"\x01" + GOOD[7:]
    assert "'main.py' has a header that differs" in await refusal(at_its_place)


async def test_a_compression_that_busybox_does_not_know_is_refused():
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        assert "'x' has a compression method" in await refusal(make_zip(("x", b"x"), compress_type=method))


# --- how much


async def test_a_directory_longer_than_the_first_read_is_read_in_bounds(monkeypatch):
    content = make_zip(*[(f"{i:05}" + "n" * 100, b"") for i in range(3000)])
    reads = []

    async def read(start: int, length: int) -> AsyncIterator[bytes]:
        reads.append((start, length))
        yield content[start : start + length]

    await archive.check_archive(len(content), read)
    directory = len(content) - content.index(CENTRAL)
    assert [length for _, length in reads] == [archive.TAIL_BYTES, directory, len(content) - directory]
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 200_000)
    assert "too many entries" in await refusal(content)


async def test_too_many_entries_are_refused(monkeypatch):
    monkeypatch.setattr(zipdirectory, "MAX_ENTRIES", 3)
    await check(make_zip(*[(f"f{i}", b"") for i in range(3)]))
    assert "more than 3 entries" in await refusal(make_zip(*[(f"f{i}", b"") for i in range(4)]))


@pytest.mark.slow
async def test_as_many_entries_as_may_be_are_looked_at_in_seconds():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for i in range(zipdirectory.MAX_ENTRIES - 1):
            made.writestr(f"folder/{i}", b"x")
    start = time.process_time()
    await check(file.getvalue(), MIB)
    assert time.process_time() - start < 15


async def test_a_bomb_is_refused_by_its_ratio():
    assert "'main.py' is more than 200 times larger" in await refusal(patched(GOOD, file_size=200 * MIB))
    honest = make_zip(("small", b"x"), ("zeros", bytes(101 * MIB)))
    assert "'zeros' is more than 200 times larger" in await refusal(honest)


async def test_a_bomb_of_many_entries_is_refused_by_the_ratio_of_all_and_by_their_size(monkeypatch):
    content = make_zip(*[(f"f{i}", b"x") for i in range(110)])
    for i in range(110):  # each says just less than the size from which on the ratio of one holds
        content = patched(content, number=i, file_size=100 * MIB - 1)
    said = "its largest entry, 'f0', has 104857599."
    assert (await refusal(content)).endswith(f"more than 10737418240 bytes when unpacked; {said}")
    monkeypatch.setattr(zipdirectory, "MAX_UNPACKED_BYTES", 2**40)
    assert (await refusal(content)).endswith(f"is more than 200 times larger when unpacked; {said}")


async def test_entries_that_share_their_bytes_are_refused():
    content = make_zip(("a", os.urandom(500)), ("b", os.urandom(500)))
    assert "'b' overlaps another" in await refusal(patched(content, number=1, place=3))
    assert "'data/x.csv' overlaps another" in await refusal(patched(GOOD, compress_size=5000))
    assert "damaged" in await refusal(patched(make_zip(("a", b"x")), compress_size=5000))


async def test_entries_that_overlap_by_what_stands_at_their_own_place_are_refused():
    """The kind with no ratio to see: an entry's extra field reaches over the next, which is in both."""
    first = bytearray(make_zip(("a", b""), ("b", b"x" * 100), compress_type=zipfile.ZIP_STORED))
    second_at = first.index(LOCAL, 4)
    struct.pack_into("<H", first, 28, 40)  # the first's extra field: 40 bytes long, it says
    assert second_at < 30 + 1 + 40
    assert "'b' overlaps another" in await refusal(bytes(first))


def lying(claimed: int, real: int, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a ZIP whose entry says in both places that it has fewer bytes than it inflates to."""
    content = bytearray(make_zip(("liar", bytes(real)), compress_type=method))
    struct.pack_into("<L", content, 22, claimed)
    struct.pack_into("<L", content, 14, zlib.crc32(bytes(claimed)))
    return patched(bytes(content), file_size=claimed, crc=zlib.crc32(bytes(claimed)))


@pytest.mark.slow
async def test_an_entry_that_has_more_in_it_than_it_says_is_refused_without_inflating_the_rest():
    content = lying(10, 300 * MIB)
    tracemalloc.start()
    try:
        message = await refusal(content, MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message == "The ZIP archive's entry 'liar' has more than its declared 10 bytes."
    assert peak < 4 * MIB


async def test_an_entry_that_has_less_in_it_than_it_says_is_refused():
    content = bytearray(make_zip(("liar", b"x" * 100)))
    struct.pack_into("<L", content, 22, 101)
    assert "'liar' is damaged" in await refusal(patched(bytes(content), file_size=101))


@pytest.mark.parametrize("field", ["compress_size", "file_size", "crc", "method"])
async def test_an_entry_that_is_another_at_its_own_place_is_refused(field):
    content = make_zip(("first", b"x" * 50), ("liar", b"y" * 50))
    before = zipfile.ZipFile(io.BytesIO(content)).getinfo("liar")
    said = {"compress_size": before.compress_size - 1, "file_size": 51, "crc": before.CRC ^ 1, "method": 0}
    message = await refusal(patched(content, number=1, **{field: said[field]}))
    assert message.startswith("The ZIP archive's entry 'liar' has a header that differs")


async def test_a_wrong_checksum_is_refused():
    content = bytearray(make_zip(("data", os.urandom(1000)), compress_type=zipfile.ZIP_STORED))
    content[500] ^= 1
    assert "'data' is damaged: its size or checksum is wrong" in await refusal(bytes(content))


async def test_bytes_after_the_end_of_what_is_compressed_are_refused():
    deflated = make_zip(("a", b"x" * 100))
    at = deflated.index(CENTRAL)
    longer = bytearray(deflated[:at] + b"junk" + deflated[at:])
    size = zipfile.ZipFile(io.BytesIO(deflated)).getinfo("a").compress_size + 4
    struct.pack_into("<L", longer, 18, size)
    struct.pack_into("<L", longer, len(longer) - 6, at + 4)
    assert "'a' is damaged" in await refusal(patched(bytes(longer), compress_size=size))


async def test_a_storage_that_gives_less_than_there_is_is_no_good_zip():
    reads = []

    async def read(start: int, length: int) -> AsyncIterator[bytes]:
        reads.append(start)
        yield GOOD if len(reads) == 1 else GOOD[: min(length, 20)]

    with pytest.raises(KBatchError, match="damaged"):
        await archive.check_archive(len(GOOD), read)


@pytest.mark.slow
async def test_the_content_is_followed_in_constant_memory():
    """A megabyte at a time goes in, and never more than some small pieces are held."""
    content = make_zip(("zeros", bytes(90 * MIB)), ("data", os.urandom(8 * MIB)))
    directory = zipdirectory.read_directory(content, 0)
    following = zipcontent.ContentCheck(directory)
    tracemalloc.start()
    try:
        for at in range(0, directory.start, MIB):
            following.feed(content[at : min(at + MIB, directory.start)])
        following.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB


# --- any bytes at all


VARIED = make_zip(
    ("a/b.txt", b"hello" * 20),
    (entry("dir/", mode=stat.S_IFDIR | 0o755), b""),
    (entry("link", mode=stat.S_IFLNK | 0o777), b"a/b.txt"),
    ("ü", b"x"),
    ("__MACOSX/._x", b"y"),
)
FUZZED = [GOOD, VARIED, streamed(), zip64(), *(content for content, _ in NAMES.values())]


def read_sync(content: bytes) -> None:
    """Check a ZIP without threads, so that its steps can be counted."""
    directory = zipdirectory.read_directory(content, 0)
    following = zipcontent.ContentCheck(directory)
    following.feed(content[: directory.start])
    following.finish()


@fuzzed
@given(changes(most=2), st.sampled_from(FUZZED))
def test_a_damaged_zip_is_read_in_few_steps_and_refused_or_each_unpacker_makes_the_same_of_it(made, base):
    content = damage(base, made)
    with at_most_steps(2000 + 20 * len(content)):
        try:
            read_sync(content)
        except (InvalidRequest, zipfile.BadZipFile):
            return
    with tempfile.TemporaryDirectory() as folder:
        plain = asyncio.run(make_plain(content))
        with at_most_steps(4000 + 20 * len(plain)):
            unpacked = unpack_locally(plain, Path(folder))
        assert unpacked == unpack_by_busybox(plain, Path(folder))


@fuzzed
@given(changes(most=2), st.sampled_from(FUZZED))
def test_a_damaged_zip_is_unpacked_on_one_machine_in_few_steps_or_is_refused(made, base):
    content = damage(base, made)
    with tempfile.TemporaryDirectory() as folder:
        with at_most_steps(4000 + 20 * len(content)), contextlib.suppress(BadCode):
            unpack_locally(content, Path(folder))
        assert set(os.listdir(folder)) <= {"code.zip", "local"}


def test_what_follows_the_end_of_compressed_data_is_not_kept():
    """zlib keeps all that comes after the end: of an entry that says it has a gigabyte, all of that."""
    good = make_zip(("liar", b"x"), ("b", b""))
    size = zipfile.ZipFile(io.BytesIO(good)).getinfo("liar").compress_size
    junk = bytes(30 * MIB)
    at = good.index(LOCAL, 4)
    longer = bytearray(good[:at] + junk + good[at:])
    struct.pack_into("<L", longer, 18, size + len(junk))
    content = patched(bytes(longer), compress_size=size + len(junk))
    content = patched(content, number=1, place=at + len(junk))
    struct.pack_into("<L", end := bytearray(content), len(content) - 6, content.index(CENTRAL))
    directory = zipdirectory.read_directory(bytes(end), 0)
    following = zipcontent.ContentCheck(directory)
    pieces = [content[start : start + MIB] for start in range(0, directory.start, MIB)]
    with peak_below(2 * MIB), pytest.raises(InvalidRequest, match="'liar' is damaged"):
        deque(map(following.feed, pieces), maxlen=0)


# --- memory


def make_deep(count: int, depth: int) -> bytes:
    return make_zip(*[(f"{i}/" + "d/" * (depth - 1) + "f", b"") for i in range(count)])


def test_folders_that_only_paths_name_are_counted():
    content = make_deep(1100, 97)
    with (
        peak_below(30 * MIB),
        pytest.raises(InvalidRequest, match="100,000 files and folders, including"),
    ):
        zipdirectory.read_directory(content, 0)


@pytest.mark.slow
def test_the_largest_directory_that_may_be_takes_little_memory():
    for names in (
        [f"{i:06}" + "n" * 110 for i in range(zipdirectory.MAX_ENTRIES)],
        [f"{i}/" + "d/" * 97 + "f" for i in range(1000)],
        [f"{i}/" + "/".join(["m" * 190] * 10) for i in range(8000)],
    ):
        content = make_zip(*[(name, b"") for name in names])
        assert len(content) - content.index(CENTRAL) < zipdirectory.MAX_DIRECTORY_BYTES
        with peak_below(80 * MIB):
            zipdirectory.read_directory(content, 0)
