"""What local jobs leave in their output folder is packed, however hostile it is, and then removed."""

from __future__ import annotations

import os

import pytest
from descriptors import list_open_below
from test_local_launcher import Changes, as_root, changes, jobs_root, launcher, make_script, run  # noqa: F401

from kbatch_server.launchers.base import LauncherUnavailable
from kbatch_server.launchers.outputtar import MAX_DEPTH, Packer
from kbatch_server.tarindex import TarIndex


def read(path):
    """Return the content of the files in a folder's tar by path, and how many entries were left out."""
    packer = Packer(str(path))
    data = b""
    while piece := packer.read():
        data += piece
    packer.close()
    return unpack(data), packer.left_out


def unpack(data):
    index = TarIndex(max_entries=10**6)
    index.feed(data)
    index.finish()
    assert index.left_out == 0
    return {file.path: data[file.offset :][: file.size] for file in index.files.values()}


def test_plain_files_are_packed_under_names_of_any_length_and_characters(tmp_path):
    files = {"a.bin": os.urandom(700_000), "empty": b"", "ü/" + "x" * 200: b"1", "line\nbreak": b"2"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert read(tmp_path) == (files, 0)


def test_nothing_is_followed_or_waited_for(tmp_path):
    secret, output = tmp_path / "secret", tmp_path / "output"
    output.mkdir()
    secret.write_bytes(b"the service's own")
    (output / "link").symlink_to(secret)
    (output / "folder").symlink_to(tmp_path)
    os.mkfifo(output / "fifo")
    (output / "fine").write_bytes(b"1")
    assert read(output) == ({"fine": b"1"}, 3)
    (tmp_path / "output-link").symlink_to(output)
    with pytest.raises(OSError, match="output-link"):
        Packer(str(tmp_path / "output-link")).read()


@as_root
def test_a_hard_link_to_the_file_of_another_account_is_left_out(tmp_path):
    secret, output = tmp_path / "secret", tmp_path / "output"
    output.mkdir()
    secret.write_bytes(b"root's")
    os.link(secret, output / "mine")
    os.chown(output, 65534, 65534)
    assert read(output) == ({}, 1)


def test_folders_deep_inside_each_other_are_left_out_below_a_depth(tmp_path):
    path = tmp_path
    for _ in range(MAX_DEPTH + 5):
        path = path / "d"
        path.mkdir()
    (path / "lost").write_bytes(b"1")
    (tmp_path / "fine").write_bytes(b"1")
    assert read(tmp_path) == ({"fine": b"1"}, 1)
    assert list_open_below(tmp_path) == []


def test_a_huge_sparse_file_is_told_at_once_and_given_up_at_any_time(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    packer, index = Packer(str(tmp_path)), TarIndex(max_entries=10)
    index.feed(packer.read())
    assert index.size == 2**40
    packer.close()
    assert list_open_below(tmp_path) == []


def test_a_file_that_shrinks_or_grows_while_it_is_packed_breaks_nothing(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 2_000_000)
    packer = Packer(str(tmp_path))
    data = packer.read()
    for name in ("a", "b"):
        with (tmp_path / name).open("r+b") as file:
            file.truncate(600_000 if name == "a" else 3_000_000)
    while piece := packer.read():
        data += piece
    assert {len(content) for content in unpack(data).values()} <= {600_000, 2_000_000, 3_000_000}
    assert set(unpack(data)) == {"a", "b"}


async def pack(launcher, job):  # noqa: F811
    tar = await launcher.read_outputs(job)
    return unpack(b"".join([piece async for piece in tar.chunks])), tar.left_out


async def test_a_job_finds_its_folder_and_what_it_wrote_there_is_packed_then_removed(launcher, changes):  # noqa: F811
    script = (
        'mkdir "$KBATCH_OUTPUT_DIR/sub"; echo 1 > "$KBATCH_OUTPUT_DIR/sub/x"; ln -s / "$KBATCH_OUTPUT_DIR/l"'
    )
    job = make_script(script, keep_outputs=True)
    await run(launcher, changes, job, env={"KBATCH_OUTPUT_DIR": "/elsewhere", "PATH": os.environ["PATH"]})
    assert await pack(launcher, job) == ({"sub/x": b"1\n"}, 1)
    assert await pack(launcher, job) == ({"sub/x": b"1\n"}, 1)  # again, after a storage that failed
    await launcher.clean(job)
    assert await launcher.read_outputs(job) is None


async def test_a_folder_that_cannot_be_read_is_for_later(launcher, changes):  # noqa: F811
    job = make_script("true", keep_outputs=True)
    await run(launcher, changes, job)
    output = launcher._get_folder(job).output
    os.rename(output, output + ".away")
    os.symlink("/", output)
    tar = await launcher.read_outputs(job)
    with pytest.raises(LauncherUnavailable):
        await anext(tar.chunks)
    os.unlink(output)
