"""Publishing by rename: complete or absent, one writer at a time, and nothing left behind by the dead."""

import os
import signal
import subprocess
import sys
import time

import pytest

from chargaff.errors import InputError
from chargaff.io.atomic import (
    output_errors,
    publish,
    read_manifest,
    remove_stale_parts,
    write_atomically,
    write_manifest,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path):
    with publish(tmp_path / "new/folder/x.txt") as part:
        part.write_text("hello")
        assert not (tmp_path / "new/folder/x.txt").exists()
    assert (tmp_path / "new/folder/x.txt").read_text() == "hello"
    assert names(tmp_path / "new/folder") == ["x.txt"]


def test_a_folder_appears_when_the_block_ends_and_can_replace_another(tmp_path):
    for content in ("one", "two"):
        with publish(tmp_path / "out", overwrite=True) as part:
            part.mkdir()
            (part / content).write_text(content)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["two"]


def build_half(path, error):
    with publish(path, overwrite=True) as part:
        part.mkdir()
        (part / "half").write_text("x")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_appears_when_the_block_fails(tmp_path, error):
    (tmp_path / "kept").write_text("old")
    for name in ("fresh", "kept"):
        with pytest.raises(error):
            build_half(tmp_path / name, error)
    assert names(tmp_path) == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(InputError, match="is a folder, and the output is a file"),
        publish(tmp_path / "out", overwrite=True) as part,
    ):
        part.write_text("x")
    assert names(tmp_path) == ["out"]


def test_an_existing_destination_is_kept_unless_overwriting(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(InputError, match="exists already"), publish(tmp_path / "x") as part:
        part.write_text("new")
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_a_destination_has_one_writer_at_a_time(tmp_path):
    with publish(tmp_path / "x") as part:
        part.write_text("first")
        words = rf"is being written by another process \(number {os.getpid()}\)"
        with pytest.raises(InputError, match=words), publish(tmp_path / "x"):
            raise AssertionError("not reached")
    assert (tmp_path / "x").read_text() == "first"


def test_what_a_killed_process_left_is_no_lock_and_is_removed(tmp_path):
    code = (
        "import sys, time; from chargaff.io.atomic import publish\n"
        "with publish(sys.argv[1]) as part:\n"
        "    part.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path / "x"], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    with pytest.raises(InputError, match=rf"number {child.pid}"), publish(tmp_path / "x"):
        raise AssertionError("not reached")
    assert remove_stale_parts(tmp_path) == []
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert names(tmp_path) == [".x.lock", ".x.part"]
    assert remove_stale_parts(tmp_path) == [tmp_path / ".x.part"]
    with publish(tmp_path / "x") as part:
        part.write_text("whole")
    assert names(tmp_path) == ["x"]


def test_many_processes_racing_for_one_output_leave_one_whole_file(tmp_path):
    code = (
        "import sys; from chargaff.io.atomic import publish; from chargaff.errors import InputError\n"
        "wins = 0\n"
        "for _ in range(60):\n"
        "    try:\n"
        "        with publish(sys.argv[1], overwrite=True) as part: part.write_text(sys.argv[2] * 5000); wins += 1\n"
        "    except InputError as error: assert 'another process' in str(error), error\n"
        "print(wins)"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "x", letter], stdout=subprocess.PIPE, text=True)
        for letter in "ab"
    ]
    deadline = time.monotonic() + 60
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        if (tmp_path / "x").exists():
            assert (tmp_path / "x").read_text() in ("a" * 5000, "b" * 5000)
    assert [child.wait() for child in children] == [0, 0]
    assert sum(int(child.communicate()[0]) for child in children) > 0
    assert names(tmp_path) == ["x"]


def test_small_files_are_replaced_whole(tmp_path):
    write_atomically(tmp_path / "x", "one")
    write_atomically(tmp_path / "x", b"two")
    assert (tmp_path / "x").read_text() == "two"
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~current_umask()
    with pytest.raises(InputError, match=r"no/x: cannot be written \(No such file or directory\)"):
        write_atomically(tmp_path / "no/x", "one")


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_manifest_marks_a_folder_complete(tmp_path):
    assert read_manifest(tmp_path, "done.json") is None
    write_manifest(tmp_path, "done.json", {"b": [1], "a": None})
    assert read_manifest(tmp_path, "done.json") == {"a": None, "b": [1]}
    for damage, words in (("{", "cannot be read"), ("[]", "no JSON object")):
        (tmp_path / "done.json").write_text(damage)
        with pytest.raises(InputError, match=words):
            read_manifest(tmp_path, "done.json")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (28, r"^out\.npy: cannot be written \(.*\); free some space or choose a path on another disk"),
        (13, r"Permission denied\)$"),
    ],
)
def test_operating_system_errors_name_the_output(number, words):
    with pytest.raises(InputError, match=words), output_errors("out.npy"):
        raise OSError(number, os.strerror(number))
