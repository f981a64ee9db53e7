"""Runs the tests that need a GPU: pytest's by file, results kept as they come, and the C++ runtime's."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.process import ROOT, Figures
from benchmarks.gpu.record import UNFINISHED
from benchmarks.gpu.within import run_within

_OURS = "tests/benchmarks/test_gpu_hour.py"
"""An hour does not run hours."""
_PYTEST = (sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider")
_NO_MORE = {"PYTEST_ADDOPTS": ""}
"""Environment: a user's options would change what is read here."""
_ENDED = (0, 1, 5)
"""pytest's exit codes of a run that came to its end: all passed, some failed, nothing to run."""
_MARGIN = 15.0
"""Seconds before a piece's own end at which a run of tests is stopped, so that what it printed is kept."""


def found_tests(figures: Figures, log: str, folders: Sequence[str]) -> None:
    """Find the files with tests that need a GPU, how many each has. RuntimeError where pytest cannot collect."""
    if not figures.lacks("files"):
        return
    outcome = run_within([*_PYTEST, "--collect-only", "-qq", *folders], Path(log), _time(figures), ROOT, _NO_MORE)
    text = _read(log)
    if outcome["exit_code"] not in _ENDED:
        raise RuntimeError(f"pytest could not collect the tests: {outcome}; {log} says why")
    files = {name: int(count) for name, count in re.findall(r"^(\S+\.py): (\d+)$", text, re.MULTILINE)}
    files.pop(_OURS, None)
    figures.keep("files", files)


def tests(figures: Figures, log: str, file: str) -> bool:
    """Run one file's tests; False where they were cut off. What has ended by then is kept."""
    outcome = run_within([*_PYTEST, "-v", file], Path(log), _time(figures), ROOT, _NO_MORE)
    whole = outcome["exit_code"] in _ENDED
    found = {**outcome, **pytest_outcome(_read(log))}
    figures.keep("tests", found if whole else {UNFINISHED: True, **found})
    return whole or outcome["exit_code"] is not None


def pytest_outcome(text: str) -> dict[str, Any]:
    """Return what `pytest -v` printed: its last line, how many passed, and the others with their reasons.

    A run that was cut off has no summary, but a line for each test that ended.
    """
    lines = text.strip().splitlines()
    ended = [line for line in lines if re.search(r"::.* (FAILED|ERROR|SKIPPED)\b", line)]
    summary = [line for line in lines if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
    passed = sum(bool(re.search(r"::.* PASSED\b", line)) for line in lines)
    return {"summary": lines[-1] if lines else "", "passed": passed, "not_passed": summary or ended}


def cpp_tests(figures: Figures, log: str, build: str) -> None:
    """Run `himar_gpu_tests` of a build folder on bundles written for it. RuntimeError where they cannot be written."""
    if not figures.lacks("tests"):
        return
    path = Path(log)
    bundles = path.with_suffix(".bundles").absolute()
    write = [sys.executable, str(ROOT / "runtime" / "cpp" / "tests" / "write_bundles.py"), str(bundles)]
    written = run_within(write, path, _time(figures), ROOT)
    if written["exit_code"] != 0:
        raise RuntimeError(f"the bundles of the C++ tests could not be written: {written}; {log} says why")
    program = str(Path(build).absolute() / "tests" / "gpu" / "himar_gpu_tests")
    environment = {**cpp_environment(path.parent), "HIMAR_TEST_BUNDLES": str(bundles)}
    outcome = run_within([program], path, _time(figures), ROOT, environment)
    lines = _read(log).strip().splitlines()
    said = [line for line in lines if line.startswith("[doctest]")] or lines[-1:]
    skipped = outcome["exit_code"] == 77  # by the program itself, where there is no GPU
    figures.keep("tests", {**outcome, "skipped": skipped, "said": said, "passed": outcome["exit_code"] == 0})


def cpp_environment(folder: Path) -> dict[str, str]:
    """Return variables with which C++ programs find what Python's do: ONNX Runtime, CUDA's libraries, our operators.

    The programs were linked against `libonnxruntime.so.1`, and look for its CUDA provider beside it: `folder` gets
    links of that name and of the wheel's.
    """
    import onnxruntime

    from himar_kernels.build.fused_library import VARIABLE, find_library

    wheel = Path(onnxruntime.__file__).parent / "capi"
    links = folder / "onnxruntime"
    links.mkdir(exist_ok=True)
    for library in wheel.glob("*.so*"):
        for name in {library.name, re.sub(r"(?<=\.so)\.(\d+)\..*", r".\1", library.name)}:
            if not (links / name).is_symlink():
                (links / name).symlink_to(library)
    nvidia = sorted(str(each) for each in (wheel.parents[1] / "nvidia").glob("*/lib"))
    paths = [str(links.absolute()), *nvidia, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    library = find_library()
    own: Mapping[str, str] = {} if library is None else {VARIABLE: str(library)}
    return {"LD_LIBRARY_PATH": ":".join(paths), **own}


def _time(figures: Figures) -> float:
    return max(0.0, figures.seconds_left() - _MARGIN)


def _read(log: str) -> str:
    return Path(log).read_text(encoding="utf-8", errors="replace")
