"""Entries of a cache: one process makes each, none is removed while it is used, the least recently used go first."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from himar_kernels import EngineError
from himar_runtime.engines.ort import entries

pytest.importorskip("fcntl")

KEYS = [str(digit) * 32 for digit in range(4)]


def _entry(root: Path, key: str, used: float) -> Path:
    """Write an entry of 1,000 bytes that was last used at a time."""
    folder = root / key
    folder.mkdir(parents=True)
    (folder / "entry.json").write_text("x" * 100)
    (folder / "weights.bin").write_bytes(bytes(900))
    os.utime(folder / "entry.json", (used, used))
    return folder


@pytest.mark.parametrize(("most", "left"), [(10_000, 4), (4000, 4), (3999, 3), (2000, 2), (0, 0)])
def test_the_least_recently_used_go_until_the_rest_fits(tmp_path, caplog, most, left) -> None:
    caplog.set_level(logging.INFO)
    for used, key in zip((30, 10, 40, 20), KEYS, strict=True):
        _entry(tmp_path, key, used)
    entries.remove_oldest(tmp_path, most)
    in_order = [KEYS[place] for place in (2, 0, 3, 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(in_order[:left])
    assert caplog.text.count(f"which was used least recently, to keep at most {most} bytes") == 4 - left


def test_one_that_a_process_uses_stays(tmp_path) -> None:
    used, unused = (_entry(tmp_path, key, 5) for key in KEYS[:2])
    program = "import sys; from pathlib import Path; from himar_runtime.engines.ort.entries import use"
    program += "; held = use(Path(sys.argv[1])); print(held is not None, flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(used)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "True\n"
    entries.remove_oldest(tmp_path, 0)
    assert used.is_dir() and not unused.exists()
    process.kill()
    process.communicate()
    entries.remove_oldest(tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_use_notes_the_time_and_finds_nothing_where_there_is_nothing(tmp_path) -> None:
    folder = _entry(tmp_path, KEYS[0], 5)
    held = entries.use(folder)
    assert held is not None
    assert time.time() - (folder / "entry.json").stat().st_mtime < 60
    os.close(held)
    assert entries.use(tmp_path / KEYS[1]) is None


def test_what_killed_processes_left_goes(tmp_path) -> None:
    kept = _entry(tmp_path, KEYS[0], 5)
    (tmp_path / f".{KEYS[0]}.0123abcd").mkdir()
    (tmp_path / f".{KEYS[1]}.0123abcd").mkdir()
    others = [tmp_path / ".hidden", tmp_path / "somebody's"]
    for path in others:
        path.mkdir()
    with entries.making(tmp_path / KEYS[1]):  # whose maker lives
        entries.remove_oldest(tmp_path, 1000)
        left = {path.name for path in tmp_path.iterdir() if path.is_dir()}
        assert left == {kept.name, f".{KEYS[1]}.0123abcd", *(path.name for path in others)}
    entries.remove_oldest(tmp_path, 1000)
    assert {path.name for path in tmp_path.iterdir()} == {kept.name, *(path.name for path in others)}


def test_who_comes_second_waits_and_says_so_when_it_is_too_long(tmp_path) -> None:
    with entries.making(tmp_path / KEYS[0]):
        second = entries.making(tmp_path / KEYS[0], wait=0.1)
        with pytest.raises(EngineError, match=r"^another process has been at it for 0\.1 s$"):
            second.__enter__()
        waited = threading.Thread(target=lambda: entries.making(tmp_path / KEYS[0]).__enter__())
        waited.start()
    waited.join(timeout=30)
    assert not waited.is_alive()


def test_a_folder_that_is_none_is_left_alone(tmp_path) -> None:
    entries.remove_oldest(tmp_path / "none", 0)
    assert not list(tmp_path.iterdir())
