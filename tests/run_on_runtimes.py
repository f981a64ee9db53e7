"""Runs the tests of the engines on other versions of the libraries that export and run them, and prints a table.

    python -m tests.run_on_runtimes [ROW ...] [--keep FOLDER]

The ranges in pyproject.toml are promises: their oldest versions have to work, and the newest ones satisfy them by
themselves some day. Every row is a virtual environment of its own on top of this one, with some packages in other
versions; it is thrown away afterwards. Needs a package index; takes a few minutes per row. Exits 1 where a test fails.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

RUNTIME = ("onnxruntime",)
EXPORTER = ("onnx", "onnx-ir", "onnxscript")
ENGINES = ("test_golden_engines.py", "test_sharp_attention.py", "test_onnx.py", "test_precision.py", "test_int8.py")
RUNTIME_TESTS = ("tests/runtime", *(f"tests/export/{name}" for name in ENGINES))
EXPORTER_TESTS = (*(f"tests/export/{name}" for name in ENGINES), "tests/export/test_variants.py")
LEFT_OUT = ("tests/runtime/service", "tests/runtime/cpp")


@dataclass(frozen=True)
class Row:
    """packages: those in another version; which: oldest, pinned or newest; tests: what runs on them."""

    packages: tuple[str, ...]
    which: str
    tests: tuple[str, ...]


ROWS = {
    "onnxruntime-oldest": Row(RUNTIME, "oldest", RUNTIME_TESTS),
    "onnxruntime-pinned": Row(RUNTIME, "pinned", RUNTIME_TESTS),
    "onnxruntime-newest": Row(RUNTIME, "newest", RUNTIME_TESTS),
    "onnx-oldest": Row(EXPORTER, "oldest", EXPORTER_TESTS),
    "onnx-newest": Row(EXPORTER, "newest", EXPORTER_TESTS),
}


@dataclass(frozen=True)
class Outcome:
    """versions: as installed; failed: names of tests; seconds: of the tests alone."""

    versions: str
    passed: int
    skipped: int
    failed: tuple[str, ...]
    seconds: float


def oldest(package: str, pyproject: str) -> str:
    """Return the lower bound of a package's range."""
    project = tomllib.loads(pyproject)["project"]
    ranges = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    found = next((match[1] for each in ranges if (match := re.match(rf"{re.escape(package)}>=([0-9.]+)", each))), None)
    if found is None:
        raise SystemExit(f"pyproject.toml has no lower bound of {package}.")
    return found


def pinned(package: str, constraints: str) -> str:
    """Return the version in constraints.txt."""
    found = re.search(rf"^{re.escape(package)}==(\S+)$", constraints, re.MULTILINE)
    if found is None:
        raise SystemExit(f"constraints.txt does not pin {package}.")
    return found[1]


def requirements(row: Row) -> list[str]:
    """Return what pip is asked for."""
    if row.which == "newest":
        return list(row.packages)
    if row.which == "oldest":
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        return [f"{package}=={oldest(package, text)}" for package in row.packages]
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return [f"{package}=={pinned(package, text)}" for package in row.packages]


def make_environment(folder: Path, wanted: Sequence[str]) -> Path:
    """Make a virtual environment on top of the one that runs this; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    below = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in below]  # so that its own .pth files count too
    (site / "below.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # What these need is taken from below where it will do.
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", *wanted], check=True)
    return python


def run_row(name: str, folder: Path) -> Outcome:
    """Run a row's tests in a new environment in `folder`."""
    row = ROWS[name]
    python = make_environment(folder / name, requirements(row))
    read = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    done = subprocess.run([python, "-c", read, *row.packages], capture_output=True, text=True, check=True)
    report = folder / f"{name}.xml"
    left_out = [f"--ignore={path}" for path in LEFT_OUT]
    start = time.perf_counter()
    subprocess.run([python, "-m", "pytest", "-q", f"--junitxml={report}", *left_out, *row.tests], cwd=ROOT)
    seconds = time.perf_counter() - start
    return read_report(report, done.stdout.strip(), seconds)


def read_report(report: Path, versions: str, seconds: float) -> Outcome:
    """Count the tests in pytest's report; one that is missing counts as failed."""
    if not report.is_file():
        return Outcome(versions, 0, 0, ("no test ran",), seconds)
    cases = list(ElementTree.parse(report).iter("testcase"))
    kinds = [{child.tag for child in case} for case in cases]
    failed = tuple(
        f"{case.get('classname')}::{case.get('name')}"
        for case, kind in zip(cases, kinds, strict=True)
        if kind & {"failure", "error"}
    )
    skipped = sum("skipped" in kind for kind in kinds)
    return Outcome(versions, len(cases) - skipped - len(failed), skipped, failed or (() if cases else ("no test ran",)),
                   seconds)  # fmt: skip


def table(outcomes: dict[str, Outcome]) -> str:
    """Return the outcomes in Markdown, and the failed tests below."""
    lines = ["| row | versions | passed | failed | skipped | seconds |", "|---|---|---|---|---|---|"]
    for name, each in outcomes.items():
        counts = f"{each.passed} | {len(each.failed)} | {each.skipped} | {each.seconds:.0f}"
        lines.append(f"| {name} | {each.versions} | {counts} |")
    return "\n".join([*lines, *(f"{name}: {test}" for name, each in outcomes.items() for test in each.failed)])


def main() -> int:
    """Run the rows that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all if none is given")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the environments there")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.rows if name not in ROWS]
    if unknown:
        parser.error(f"{unknown[0]!r} is not a row; there are {', '.join(ROWS)}")
    with tempfile.TemporaryDirectory(prefix="himar-runtimes-") as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        outcomes = {name: run_row(name, folder) for name in arguments.rows or ROWS}
    print(table(outcomes))
    return 1 if any(each.failed for each in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
