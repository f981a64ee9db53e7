"""The progress line of a terminal: whatever writes to stderr meanwhile gets a line of its own above it."""

import os
import pty
import re
import subprocess
import sys

import pytest

HIMAR = """
from himar.cli.progress import image_progress
with image_progress("images") as on_images:
    def step(done):
        on_images(done, 8)
    work(step)
"""
EXPORT = """
from himar_export.cli.progress import progress_bar
with progress_bar(False) as advance:
    work(lambda done: advance("images", done / 8))
"""
WORK = """
import os, subprocess, sys, time, warnings
def work(step):
    for done in range(9):
        step(done)
        time.sleep(0.12)
        if done == 2:
            os.write(2, b"a C library speaks\\n")
        if done == 4:
            warnings.warn("Python warns")
            print("and prints", file=sys.stderr)
        if done == 6:
            subprocess.run(["sh", "-c", "echo a child speaks >&2"])
"""


def screen(output: bytes) -> list[str]:
    """Return the lines that a terminal shows after this output."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", output.decode()):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.startswith("\x1b["):
            number = int(re.sub("[^0-9]", "", part) or 1)
            if part.endswith("A"):
                row = max(0, row - number)
            elif part.endswith("K"):
                lines[row] = ""
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


def shown(code: str, **streams: object) -> list[str]:
    """Run code in a process whose stderr is a terminal, and return what that shows in the end."""
    mine, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, **streams)
    os.close(theirs)
    output = b""
    while True:
        try:
            part = os.read(mine, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        output += part
    os.close(mine)
    assert child.wait() == 0, output.decode()
    return screen(output)


@pytest.mark.parametrize("command", [HIMAR, EXPORT], ids=["himar", "himar-export"])
def test_what_libraries_write_stands_above_the_line(command):
    lines = shown(WORK + command + 'print("last", file=sys.stderr)', stdout=subprocess.DEVNULL)
    for said in ("a C library speaks", "and prints", "a child speaks", "last"):
        assert lines.count(said) == 1
    assert [line for line in lines if line.endswith("UserWarning: Python warns")]
    assert not [line for line in lines if "━" in line and re.search("speaks|warns|prints|last", line)]


def test_what_a_command_prints_goes_to_its_own_stdout(tmp_path):
    with (tmp_path / "out").open("wb") as out:
        lines = shown(WORK + HIMAR.replace("    work(step)", "    work(step); print('a result')"), stdout=out)
    assert (tmp_path / "out").read_text() == "a result\n"
    assert not [line for line in lines if "a result" in line]


def test_stderr_is_given_back_when_the_work_fails():
    code = WORK + HIMAR.replace("work(step)", "step(1); os.write(2, b'before\\n'); raise SystemExit(0)")
    code = "import atexit, os; atexit.register(lambda: os.write(2, b'after\\n'))\n" + code
    lines = shown(code, stdout=subprocess.DEVNULL)
    assert lines.index("before") < lines.index("after")


def test_without_a_terminal_nothing_is_changed():
    code = WORK + HIMAR.replace("work(step)", "step(1); os.write(2, b'plain\\n')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "plain\n" in done.stderr
    assert "\x1b" not in done.stderr
