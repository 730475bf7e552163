"""What is found in a tar as it streams by, and what is no tar."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbatch_server.models.results import OutputFile
from kbatch_server.outputs.tarindex import BLOCK, OMITTED_LIST, BadTar, TarIndex, TooManyEntries, clean_path
from tests.support.fuzzing import at_most_steps, changes, damage, fuzzed, peak_below
from tests.support.tars import MODIFIED_AT, make_tar

FILES = {
    "./a.txt": b"hello",
    "empty": b"",
    "x/" * 90 + "long.bin": bytes(3000),
    "ü/ñ-" + "é" * 120: b"1" * 512,
}
OTHERS = {
    "folder": (tarfile.DIRTYPE, ""),
    "link": (tarfile.SYMTYPE, "y" * 300),
    "hard": (tarfile.LNKTYPE, "./a.txt"),
    "hard-to-nothing": (tarfile.LNKTYPE, "nothing"),
    "fifo": (tarfile.FIFOTYPE, ""),
    "device": (tarfile.CHRTYPE, ""),
}


def index(data, size=None, **options):
    found = TarIndex(**({"max_entries": 10_000} | options))
    for start in range(0, len(data), size or len(data) or 1):
        found.feed(data[start : start + (size or len(data))])
    found.finish()
    return found


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [1, 7, 512, 10_240, None])
def test_the_files_are_found_where_the_standard_library_finds_them(format, size):
    data = make_tar(FILES, format=format, others=OTHERS)
    found = index(data, size)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = {
            clean_path(member.name): OutputFile(
                clean_path(member.name), member.offset_data, member.size, MODIFIED_AT
            )
            for member in archive
            if member.type == tarfile.REGTYPE
        }
    hard = found.files.pop("hard")
    assert found.files == expected
    assert (hard.offset, hard.size) == (expected["a.txt"].offset, 5)
    assert found.left_out == 3
    assert found.links == {"link": "y" * 300}


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../up", "a/../../up", "x" * 1001, "./"], ids=["abs", "up", "in", "long", "empty"]
)
def test_paths_that_lead_outside_are_left_out(name):
    found = index(make_tar({name: b"x"}))
    assert (found.files, found.left_out) == ({}, 1)


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_sparse_files_are_left_out_and_those_behind_them_found(tmp_path, format):
    if not shutil.which("tar"):
        pytest.fail("GNU tar is needed")
    with (tmp_path / "sparse").open("wb") as file:
        for hole in range(40):  # more than the four pieces that fit into a header
            file.seek(hole * 2**20)
            file.write(b"x" * 4096)
    (tmp_path / "z.txt").write_bytes(b"behind")
    command = ["tar", "-S", f"--format={format}", "-cf", "-", "-C", tmp_path, "sparse", "z.txt"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(data) < 2**20
    found = index(data, 1000)
    assert found.left_out == 1
    [file] = found.files.values()
    assert data[file.offset :][: file.size] == b"behind"


def test_a_later_file_of_the_same_path_counts():
    found = index(make_tar({"a": b"1"})[:1024] + make_tar({"./a": b"22"}))
    assert [file.size for file in found.files.values()] == [2]


def test_tars_that_follow_each_other_are_one():
    data = make_tar({"a": b"1"}) + make_tar({"b": b"22"}, others={"c": (tarfile.SYMTYPE, "a")})
    found = index(data, 700)
    assert {path: data[file.offset :][: file.size] for path, file in found.files.items()} == {
        "a": b"1",
        "b": b"22",
    }
    assert (found.links, found.is_complete) == ({"c": "a"}, True)
    with pytest.raises(BadTar, match="truncated"):
        index(data[: len(make_tar({"a": b"1"})) + 600])


def test_how_large_a_tar_is_at_least_is_known_from_its_headers():
    found = TarIndex(max_entries=10)
    found.feed(make_header(size=2**40))
    assert found.least_size == 512 + 2**40


def test_names_that_are_no_utf_8_stay_apart():
    data = make_tar({"b\udcfe": b"1"})[:1024] + make_tar({"b\udcff": b"2"})
    assert sorted(index(data).files) == ["b\\xfe", "b\\xff"]


@pytest.mark.parametrize("time", [2**60, -5])
def test_a_time_that_no_calendar_has_is_cut(time):
    info = tarfile.TarInfo("a")
    info.mtime = time
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    assert 0 <= index(data).files["a"].modified_at <= 253402300799


WHOLE = make_tar(FILES)


@pytest.mark.parametrize("length", [0, 1, 511, 512, 515, 5000])
def test_what_ends_in_the_middle_is_no_tar(length):
    with pytest.raises(BadTar, match="truncated"):
        index(WHOLE[:length])


def make_header(**fields):
    info = tarfile.TarInfo("a")
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "data",
    [
        b"PK" + b"x" * 600,
        b"\x00" * 511 + b"x",
        WHOLE[:148] + b"0000000" + WHOLE[155:],
        make_header(type=tarfile.GNUTYPE_LONGNAME, size=2**30),
        make_header(type=tarfile.GNUTYPE_LONGNAME, size=0),
        make_header(size=-1),
        make_header(type=tarfile.XHDTYPE, size=10) + b"999 path=x".ljust(512, b"\0"),
        make_header(type=tarfile.XHDTYPE, size=5) + b"nope\n".ljust(512, b"\0"),
        make_header(type=tarfile.XHDTYPE, size=12) + b"12 size=abc\n".ljust(512, b"\0") + make_header(),
    ],
    ids=["zip", "noise", "checksum", "name of 1 GiB", "no name", "negative", "record", "words", "size"],
)
def test_what_is_no_tar_is_refused_and_nothing_is_held(data):
    found = TarIndex(max_entries=10)
    with pytest.raises(BadTar):
        found.feed(data)


def test_endless_entries_are_refused():
    with pytest.raises(TooManyEntries):
        index(make_tar({str(number): b"" for number in range(11)}), max_entries=10)


def feed_long(found, count, *, link=False):
    """Feed entries whose paths take 2 KB each in memory, one by one."""
    for number in range(count):
        info = tarfile.TarInfo("é/" + "日" * 980 + f"{number:06}")
        if link:
            info.type, info.linkname = tarfile.SYMTYPE, "日" * 990
        else:
            info.size = 0 if number % 2 else BLOCK
        found.feed(info.tobuf(tarfile.PAX_FORMAT, "utf-8") + bytes(info.size))


@pytest.mark.parametrize("link", [False, True], ids=["files", "links"])
def test_paths_take_a_bounded_memory_and_what_exceeds_it_is_counted_and_named(link):
    found = TarIndex(max_entries=10_100)
    with peak_below(found.max_bytes + 2**20):
        feed_long(found, 4000, link=link)
    assert found.is_cut
    if link:
        assert 0 < len(found.links) < 4000
        assert found.left_out == 4000 - len(found.links)
        return
    assert found.omitted_files == 4000 - len(found.files)
    assert found.omitted_size == 2000 * BLOCK - sum(file.size for file in found.files.values())
    assert 10 < len(found.omitted_named) < 1000
    assert not {file.path for file in found.omitted_named} & found.files.keys()


def test_links_leave_memory_for_files_and_the_list_of_omitted_files_always_has_some():
    found = TarIndex(max_entries=10_100)
    feed_long(found, 1000, link=True)
    found.feed(make_tar({f"file-{number}": b"" for number in range(1000)})[:-1024])
    assert len(found.files) == 1000
    feed_long(found, 1000)
    assert found.omitted_files > 0
    found.feed(make_tar({OMITTED_LIST: b"1 2\n", "file-1": b"again", "no room": b"x" * 600}))
    assert found.files["file-1"].size == 5
    assert OMITTED_LIST in found.files


def test_what_a_later_entry_replaces_takes_no_memory():
    found = TarIndex(max_entries=10_100)
    for _ in range(20):
        found.feed(
            make_tar(
                {f"{number}" + "x" * 900: b"" for number in range(10)},
                others={f"{number}" + "y" * 900: (tarfile.SYMTYPE, "z") for number in range(10)},
            )[: -tarfile.RECORDSIZE]
            or b""
        )
    assert (len(found.files), len(found.links), found.is_cut) == (10, 10, False)
    assert found._bytes < 20 * 1300


@pytest.mark.parametrize(
    ("target", "is_kept"),
    [
        ("/usr/bin/python3", False),
        ("/out-of-it/x", False),
        ("/out", True),
        ("/out/x", True),
        ("/code/x/y", True),
        ("../x", True),
        ("/usr/../out/x", True),
        ("//out/x", True),
    ],
)
def test_a_link_that_leads_out_of_the_folders_is_left_out_at_once(target, is_kept):
    found = TarIndex(100, folders=("/out", "/code"))
    found.feed(make_tar({}, others={"outputs/link": (tarfile.SYMTYPE, target)}))
    assert (list(found.links.values()), found.left_out) == (([target], 0) if is_kept else ([], 1))


def test_what_follows_the_end_is_padding():
    assert sorted(index(WHOLE + b"x" * 5000).files) == sorted(clean_path(name) for name in FILES)


def make_pax_header(records: bytes, size: int | None = None) -> bytes:
    """Return an extended header with these records, whatever they are."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records) if size is None else size
    return info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(-(-len(records) // BLOCK) * BLOCK, b"\0")


def make_record(keyword: bytes, value: bytes) -> bytes:
    """Return a record of an extended header, with its own length at its beginning."""
    rest = b" %b=%b\n" % (keyword, value)
    length = next(n for n in range(len(rest), len(rest) + 20) if n == len(b"%d" % n) + len(rest))
    return b"%d%b" % (length, rest)


@pytest.mark.parametrize(
    "records",
    [
        b"0 a=b\n",
        b"1 a=b\n",
        b"4 =b\n",
        b"5 ab\n",
        b"6 a=b\n7",
        b"x a=b\n",
        b"-6 a=b\n",
        b"99 a=b\n",
        b"6 a=bc",
    ],
)
def test_an_extended_header_with_a_wrong_length_is_no_tar(records):
    with at_most_steps(500), pytest.raises(BadTar, match="extended header"):
        index(make_pax_header(records) + bytes(1024))


@pytest.mark.parametrize("number", ["--5", "5-", "²", "٣", "1e5", "", "1" * 19])
def test_a_number_that_cannot_be_read_is_no_tar(number):
    with pytest.raises(BadTar, match="number"):
        index(make_pax_header(make_record(b"size", number.encode())) + make_tar({"a": b""}))


def test_the_steps_for_an_extended_header_grow_with_its_length_only():
    steps = []
    for count in (1000, 2000):
        with at_most_steps(10**6) as count_steps:
            index(make_pax_header(b"5 a=\n" * count) + make_tar({"a": b""}), 512)
        steps.append(count_steps())
    assert steps[1] < 2.2 * steps[0]


def test_extended_headers_one_after_the_other_take_no_memory():
    found = TarIndex(max_entries=10_000)
    for number in range(100):
        found.feed(make_pax_header(make_record(b"key%d" % number, b"x" * 60_000)))
    assert sum(map(len, found._next.values())) == 0


@fuzzed
@given(
    changes(), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.booleans(), st.integers(1, 600)
)
def test_a_damaged_tar_is_read_in_few_steps_or_is_no_tar(made, format, is_sealed, size):
    data = damage(make_tar(SMALL_FILES, format=format, others=OTHERS), made)
    if is_sealed:
        data = seal(data)
    with at_most_steps(100 * (2 + len(data) // BLOCK) + 30 * (1 + len(data) // size)):
        try:
            found = index(data, size, max_entries=200)
        except (BadTar, TooManyEntries):
            return
    assert all(file.offset >= 0 and file.offset + file.size <= len(data) for file in found.files.values())
    again = index(data, max_entries=200)
    assert (again.files, again.links, again.left_out) == (found.files, found.links, found.left_out)


SMALL_FILES = {"./a.txt": b"hello", "b/" * 60 + "long.bin": bytes(700), "ü/" + "é" * 120: b"1"}


def seal(data: bytes) -> bytes:
    """Return a tar in which each block that looks like a header has the right checksum: else none is read."""
    result = bytearray(data)
    for start in range(0, len(data) - BLOCK + 1, BLOCK):
        if b"ustar" in result[start : start + BLOCK]:
            result[start + 148 : start + 156] = b" " * 8
            result[start + 148 : start + 156] = b"%06o\0 " % sum(result[start : start + BLOCK])
    return bytes(result)
