"""What local jobs leave in their output folder is packed, however hostile it is, and then removed."""

from __future__ import annotations

import os

import pytest

from kbatch_server.launchers.base import LauncherUnavailable
from kbatch_server.launchers.local.pack import MAX_DEPTH, PackedFolder, Packer, write_manifest
from kbatch_server.models.results import OmittedFile, OutputLimits
from kbatch_server.outputs.selection import read_omitted
from kbatch_server.outputs.tarindex import OMITTED_LIST, TarIndex
from tests.service.test_local_launcher import (  # noqa: F401
    Changes,
    as_root,
    changes,
    jobs_root,
    launcher,
    make_script,
    run,
)
from tests.support.descriptors import list_open_below
from tests.support.zips import make_zip

LIMITS = OutputLimits()


def make_packer(path, limits=LIMITS):
    return Packer([PackedFolder("outputs", str(path))], limits)


def read(packer):
    """Return what the tar of a packer has (see ``unpack``), and how many entries were left out."""
    data = b""
    while piece := packer.read():
        data += piece
    packer.close()
    return unpack(data), packer.left_out


def unpack(data, folders=("outputs", "workdir")):
    """Return the content of files, and where links lead, by path; the names of omitted ones under None."""
    index = TarIndex(max_entries=10**6)
    index.feed(data)
    index.finish()
    assert index.left_out == 0
    found = {file.path: data[file.offset :][: file.size] for file in index.files.values()}
    omitted = found.pop(OMITTED_LIST, None)
    found = {path.partition("/")[2]: content for path, content in (found | index.links).items()}
    return found | ({None: read_omitted(omitted.decode())} if omitted else {})


def test_plain_files_are_packed_under_names_of_any_length_and_characters(tmp_path):
    files = {"a.bin": os.urandom(700_000), "empty": b"", "ü/" + "x" * 200: b"1", "line\nbreak": b"2"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert read(make_packer(tmp_path)) == (files, 0)


def test_files_come_by_path_and_end_where_the_limits_are_with_the_rest_named(tmp_path):
    for name in ("d/x", "d-", "d.txt", "c", "a", "b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 10)
    found, _ = read(make_packer(tmp_path, OutputLimits(1000, 4)))
    omitted = found.pop(None)
    assert list(found) == ["a", "b", "c", "d-"]
    assert (omitted.files, omitted.size) == (2, 80)
    assert omitted.named == [OmittedFile("d.txt", 50), OmittedFile("d/x", 30)]
    found, _ = read(make_packer(tmp_path, OutputLimits(49, 10)))
    omitted = found.pop(None)
    assert list(found) == ["a", "b", "c"]
    assert [file.path for file in omitted.named] == ["d-", "d.txt", "d/x"]


def test_a_folder_with_more_than_can_be_kept_is_looked_at_up_to_a_limit(tmp_path):
    for number in range(300):
        (tmp_path / str(number)).touch()
    found, _ = read(make_packer(tmp_path, OutputLimits(1000, 5)))
    assert found.pop(None).files == 300 - 5
    assert sorted(found) == ["0", "1", "10", "100", "101"]


def test_links_take_no_place_of_files(tmp_path):
    for number in range(5):
        (tmp_path / f"a{number}").symlink_to("/etc/passwd")
        (tmp_path / f"b{number}").write_text("x")
    found, _ = read(make_packer(tmp_path, OutputLimits(1000, 5)))
    assert {name for name in found if name.startswith("b")} == {f"b{number}" for number in range(5)}
    assert None not in found


def write_all(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def test_what_is_new_or_changed_in_the_working_folder_is_packed_and_nothing_else(tmp_path):
    output, code, manifest = tmp_path / "output", tmp_path / "code", str(tmp_path / "manifest")
    output.mkdir()
    write_all(code, {"main.py": "1", "data/x.csv": "2", "data/y.csv": "3", ".git/config": "4"})
    (code / "link").symlink_to("data")
    for path in code.rglob("*"):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    write_manifest(str(code), manifest)
    (code / "data/y.csv").write_text("4")  # of the same size
    (code / "main.py").chmod(0o755)
    write_all(
        code, {"trial.csv": "5", "sub/fig.txt": "6", "both": "no", ".cache/x": "7", "__pycache__/m.pyc": "8"}
    )
    write_all(code, {"node_modules/x": "9", ".env": "10"})
    write_all(output, {"both": "yes", ".hidden": "yes"})
    (code / "new").symlink_to("trial.csv")
    folders = [PackedFolder("outputs", str(output)), PackedFolder("workdir", str(code), manifest)]
    found, left_out = read(Packer(folders, LIMITS))
    assert found == {
        ".hidden": b"yes",
        "both": b"yes",
        "data/y.csv": b"4",
        "new": "trial.csv",
        "sub/fig.txt": b"6",
        "trial.csv": b"5",
    }
    assert left_out == 0
    assert list_open_below(tmp_path) == []


def test_a_new_link_comes_with_what_it_leads_to_though_that_is_unchanged(tmp_path):
    output, code, manifest = tmp_path / "output", tmp_path / "code", str(tmp_path / "manifest")
    output.mkdir()
    write_all(
        code, {"data/x.csv": "1", "data/deep/y.csv": "2", "data/.hidden": "3", ".env": "4", "old.csv": "5"}
    )
    (code / "old").symlink_to(code / "data")
    (code / "data/out").symlink_to("/etc/passwd")
    write_manifest(str(code), manifest)
    write_all(code, {"data/new.csv": "6"})
    for name, target in {
        "best.csv": "data/x.csv",
        "chain.csv": "best.csv",
        "sub/up.csv": f"../old/../../{code.name}/old/deep/y.csv",
        "folder": code / "data",
        "fresh.csv": "data/new.csv",
        "hidden": ".env",
        "outside": "/etc/passwd",
        "round": "round",
    }.items():
        (code / name).parent.mkdir(exist_ok=True)
        (code / name).symlink_to(target)
    (output / "in-outputs.csv").symlink_to(code / "data/x.csv")
    folders = [PackedFolder("outputs", str(output)), PackedFolder("workdir", str(code), manifest)]
    found, left_out = read(Packer(folders, LIMITS))
    assert found == {
        "in-outputs.csv": b"1",
        "best.csv": b"1",
        "chain.csv": b"1",
        "data/new.csv": b"6",
        "folder": str(code / "data"),
        "folder/deep/y.csv": b"2",
        "folder/x.csv": b"1",
        "fresh.csv": "data/new.csv",
        "hidden": ".env",
        "outside": "/etc/passwd",
        "round": "round",
        "sub/up.csv": b"2",
    }
    assert left_out == 0
    assert list_open_below(tmp_path) == []
    found, _ = read(Packer(folders, OutputLimits(1000, 3)))
    assert (found.pop(None).files, sum(isinstance(each, bytes) for each in found.values())) == (4, 3)


def test_all_of_a_working_folder_without_code_is_new(tmp_path):
    write_manifest(str(tmp_path), str(tmp_path.parent / "manifest"))
    write_all(tmp_path, {"x": "1", ".hidden": "2"})
    folder = PackedFolder("workdir", str(tmp_path), str(tmp_path.parent / "manifest"))
    assert read(Packer([folder], LIMITS)) == ({"x": b"1"}, 0)


def test_nothing_is_followed_or_waited_for(tmp_path):
    secret, output = tmp_path / "secret", tmp_path / "output"
    output.mkdir()
    secret.write_bytes(b"the service's own")
    (output / "link").symlink_to(secret)
    (output / "folder").symlink_to(tmp_path)
    os.mkfifo(output / "fifo")
    (output / "fine").write_bytes(b"1")
    assert read(make_packer(output)) == (
        {"fine": b"1", "link": str(secret), "folder": str(tmp_path)},
        1,
    )
    (tmp_path / "output-link").symlink_to(output)
    with pytest.raises(OSError, match="output-link"):
        make_packer(tmp_path / "output-link").read()


@as_root
def test_a_hard_link_to_the_file_of_another_account_is_left_out(tmp_path):
    secret, output = tmp_path / "secret", tmp_path / "output"
    output.mkdir()
    secret.write_bytes(b"root's")
    os.link(secret, output / "mine")
    os.chown(output, 65534, 65534)
    assert read(make_packer(output)) == ({}, 1)


def test_folders_deep_inside_each_other_are_left_out_below_a_depth(tmp_path):
    path = tmp_path
    for _ in range(MAX_DEPTH + 5):
        path = path / "d"
        path.mkdir()
    (path / "lost").write_bytes(b"1")
    (tmp_path / "fine").write_bytes(b"1")
    assert read(make_packer(tmp_path)) == ({"fine": b"1"}, 1)
    assert list_open_below(tmp_path) == []


def test_a_huge_sparse_file_is_told_at_once_and_given_up_at_any_time(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    found, _ = read(make_packer(tmp_path))
    assert found[None].named == [OmittedFile("huge", 2**40)]
    packer, index = make_packer(tmp_path, OutputLimits(2**41, 10)), TarIndex(max_entries=10)
    index.feed(packer.read())
    assert index.least_size > 2**40
    packer.close()
    assert list_open_below(tmp_path) == []


def test_a_file_that_shrinks_or_grows_while_it_is_packed_breaks_nothing(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 2_000_000)
    packer = make_packer(tmp_path)
    data = packer.read()
    for name in ("a", "b"):
        with (tmp_path / name).open("r+b") as file:
            file.truncate(600_000 if name == "a" else 3_000_000)
    while piece := packer.read():
        data += piece
    assert {len(content) for content in unpack(data).values()} <= {600_000, 2_000_000, 3_000_000}
    assert set(unpack(data)) == {"a", "b"}


async def pack(launcher, job):  # noqa: F811
    tar = await launcher.read_outputs(job, LIMITS)
    return unpack(b"".join([piece async for piece in tar.chunks])), tar.left_out


async def test_a_job_finds_its_folder_and_what_it_wrote_there_is_packed_then_removed(launcher, changes):  # noqa: F811
    script = (
        'mkdir "$KBATCH_OUTPUT_DIR/sub"; echo 1 > "$KBATCH_OUTPUT_DIR/sub/x"; ln -s / "$KBATCH_OUTPUT_DIR/l"'
    )
    job = make_script(script, keep_outputs=True)
    await run(launcher, changes, job, env={"KBATCH_OUTPUT_DIR": "/elsewhere", "PATH": os.environ["PATH"]})
    for _ in range(2):  # again, after a storage that failed
        assert await pack(launcher, job) == ({"sub/x": b"1\n", "l": "/"}, 0)
    await launcher.clean(job)
    assert await launcher.read_outputs(job, LIMITS) is None


async def test_a_job_may_ask_for_what_is_new_in_its_working_folder(launcher, changes):  # noqa: F811
    code = make_zip({"main.sh": "echo 1 >new; echo 2 >sub/old; echo 3 >$KBATCH_OUTPUT_DIR/x", "sub/old": "1"})
    launcher.storage.objects["k"] = code
    job = make_script("sh main.sh", keep_outputs=True, collect="workdir", upload="u")
    await run(launcher, changes, job, code_key="k", env={"PATH": os.environ["PATH"]})
    assert await pack(launcher, job) == ({"new": b"1\n", "sub/old": b"2\n", "x": b"3\n"}, 0)
    await launcher.clean(job)
    assert not any(launcher._get_folder(job).has(name) for name in ("manifest", "code", "output"))


async def test_a_folder_that_cannot_be_read_is_for_later(launcher, changes):  # noqa: F811
    job = make_script("true", keep_outputs=True)
    await run(launcher, changes, job)
    output = launcher._get_folder(job).output
    os.rename(output, output + ".away")
    os.symlink("/", output)
    tar = await launcher.read_outputs(job, LIMITS)
    with pytest.raises(LauncherUnavailable):
        await anext(tar.chunks)
    os.unlink(output)
