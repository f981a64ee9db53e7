"""Files and folders appear whole or not at all, with the rights of any other file, and refusals say what to do."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest

from himar_kernels import BuildError, InputError
from himar_kernels.shared.files import (
    new_file,
    new_folder,
    remove_unfinished,
    require_writable_file,
    require_writable_folder,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class BrokenError(Exception):
    pass


def test_a_file_is_there_when_it_is_whole_and_not_before(tmp_path):
    target = tmp_path / "a.bin"
    with new_file(target) as unfinished:
        unfinished.write_bytes(b"new")
        assert not target.exists()
        assert unfinished.parent.parent == tmp_path  # on the same disk, or it could not take the name in one move
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("failure", [BrokenError, KeyboardInterrupt])
def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path, failure):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(failure), new_file(target) as unfinished:
        unfinished.write_bytes(b"half")
        raise failure
    assert target.read_bytes() == b"old"
    with pytest.raises(failure), new_folder(tmp_path / "folder") as unfinished:
        (unfinished / "part").write_bytes(b"half")
        raise failure
    assert names(tmp_path) == ["a.bin"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        with new_file(tmp_path / "file") as unfinished, NamedTemporaryFile(dir=tmp_path, delete=False) as file:
            Path(file.name).replace(unfinished)  # as safetensors writes
        with new_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/file")
    for content in (b"first", b"second"):
        with new_file(tmp_path / "link") as unfinished:
            unfinished.write_bytes(content)
        assert (tmp_path / "disk" / "file").read_bytes() == content
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "disk") == ["file"]


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("absent/a.bin", "No such file or directory; create the folder that it goes into first"),
        ("file/a.bin", "Not a directory; choose a path below a folder"),
        ("folder", "Is a directory; a folder has that name, choose another"),
        ("n" * 300, "File name too long; choose a shorter name"),
        ("pipe", "it is not a plain file; choose another place"),
        ("circle", "its links go in a circle; choose another place"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_reason_and_what_to_do(tmp_path, place, text):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    before = names(tmp_path)
    with pytest.raises(BuildError) as refused, new_file(tmp_path / place, BuildError):
        pass
    assert str(refused.value) == f"{tmp_path / place} cannot be written: {text}."
    with pytest.raises(BuildError) as early:
        require_writable_file(tmp_path / place, BuildError)
    assert str(early.value) == str(refused.value)
    assert names(tmp_path) == before


def test_a_full_disk_is_named(tmp_path):
    text = "No space left on device; free some space or choose another disk"
    with pytest.raises(InputError, match=text), new_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def test_a_folder_that_exists_is_never_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="it exists already; choose another name"), new_folder(tmp_path / "empty"):
        pass
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(InputError, match="it exists already"), new_folder(tmp_path / "dangling"):
        pass
    with new_folder(tmp_path / "new") as unfinished:
        (unfinished / "below").mkdir()
        (unfinished / "below" / "file").write_bytes(b"1")
    assert (tmp_path / "new" / "below" / "file").read_bytes() == b"1"
    assert names(tmp_path) == ["dangling", "empty", "new"]


def test_what_a_killed_writer_left_can_be_removed_and_nothing_else_goes(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom himar_kernels.shared.files import new_file\n"
        "with new_file(Path(sys.argv[1])) as file:\n"
        "    (file.parent / 'of a library').write_bytes(b'')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    target = tmp_path / "w[1].bin"
    done = subprocess.run([sys.executable, "-c", code, target], check=False)
    assert done.returncode == -signal.SIGKILL
    others = [".w[1].bin.swp", ".w[1].binary", ".w1.bin.part", "w[1].bin"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    assert len(names(tmp_path)) == 5
    remove_unfinished(target)
    assert names(tmp_path) == sorted(others)
    remove_unfinished(tmp_path / "absent" / "file")


def test_a_place_is_tried_before_long_work_and_left_as_it_was(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    require_writable_folder(tmp_path / "a" / "b")
    require_writable_folder(tmp_path)
    for place, text in (("file", "Not a directory"), ("file/below", "Not a directory"), ("n" * 300 + "/a", "too long")):
        with pytest.raises(BuildError, match=f"cannot be written: .*{text}"):
            require_writable_folder(tmp_path / place, BuildError)
    with pytest.raises(InputError, match="cannot be written"):
        require_writable_folder(Path("/proc/himar"))
    assert names(tmp_path) == ["file"]


def test_a_name_that_is_none_of_utf_8_is_written_as_a_question_mark(tmp_path):
    write_text(tmp_path / "t", "caf\udce9")
    assert (tmp_path / "t").read_text() == "caf?"


def test_text_and_values_are_written_in_one_move_with_the_callers_error(tmp_path):
    write_text(tmp_path / "a.md", "dξ\n")
    write_json(tmp_path / "a.json", {"b": [1, None]})
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == "dξ\n"
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, None]}
    with pytest.raises(BuildError, match="create the folder that it goes into first"):
        write_json(tmp_path / "absent" / "a.json", {}, BuildError)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"b": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, None]}
    assert names(tmp_path) == ["a.json", "a.md"]
