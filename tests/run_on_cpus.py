"""Run the numerical tests as other CPUs would, a table row per setting: `make test-cpus`, or this file with --help.

A setting chooses the kernels of every library that multiplies or adds up: PyTorch's own (ATEN_CPU_CAPABILITY), MKL's
(MKL_CBWR, on Intel's CPUs also MKL_ENABLE_INSTRUCTIONS), oneDNN's (ONEDNN_MAX_CPU_ISA), NumPy's (OPENBLAS_CORETYPE,
NPY_DISABLE_CPU_FEATURES), and how many threads PyTorch and ONNX Runtime take (OMP_NUM_THREADS). One more replaces
PyTorch's matmuls by another library's (numpy_matmuls.py). ONNX Runtime picks its kernels by the CPU alone.

Before a row's tests a few operations run under its setting. Where they crash, this CPU lacks the instructions; where
their results are another row's bit for bit, nothing would be learned: either is said and the tests are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
NUMERICAL = re.compile(r"closeness|array_equal|\.equal\(|relative_l2")
"""A test file that contains this compares results of float computations, and belongs to the suite."""

LEVELS = {
    "native": {},
    "sse": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4",
    },
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_CBWR": "AVX512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "OPENBLAS_CORETYPE": "SkylakeX",
    },
    "openblas": {"OPENBLAS_CORETYPE": "Nehalem"},
}
CHOSEN = {name for level in LEVELS.values() for name in level} | {"OMP_NUM_THREADS"}


@dataclass(frozen=True)
class Setting:
    """One row: a level's kernels on a number of threads."""

    level: str
    threads: int

    @property
    def name(self) -> str:
        """As `--only` takes it."""
        return f"{self.level}-{self.threads}"

    def environment(self) -> dict[str, str]:
        """Return the environment of its processes: this one's, without another setting's variables."""
        kept = {name: value for name, value in os.environ.items() if name not in CHOSEN}
        path = os.pathsep.join(filter(None, [str(TESTS.parent), kept.get("PYTHONPATH")]))  # for the plugin
        return {**kept, **LEVELS[self.level], "OMP_NUM_THREADS": str(self.threads), "PYTHONPATH": path}

    def plugins(self) -> tuple[str, ...]:
        """Return the plugins of pytest that it needs."""
        return ("tests.numpy_matmuls",) if self.level == "openblas" else ()


SETTINGS = {each.name: each for each in (Setting(level, threads) for level in LEVELS for threads in (1, 2))}


@dataclass(frozen=True)
class Outcome:
    """What pytest said, or why it did not run."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: tuple[str, ...] = ()
    closest: str = ""
    why: str = ""


def probe(setting: Setting) -> str:
    """Return a digest of what PyTorch and NumPy compute in this process, which has the setting's environment."""
    import numpy as np
    import torch

    for plugin in setting.plugins():
        importlib.import_module(plugin)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 384, generator=generator), torch.randn(384, 384, generator=generator)
    x, w = torch.randn(2, 16, 16, 16, generator=generator), torch.randn(8, 16, 3, 3, generator=generator)
    q = torch.randn(2, 4, 33, 32, generator=generator)
    functions = torch.nn.functional
    made = [a @ b, a[:3] @ b, a[:17] @ b, q @ q.transpose(2, 3), functions.conv2d(x, w), a.exp(), a.sum(1)]
    made += [functions.scaled_dot_product_attention(q, q, q), functions.gelu(a), functions.layer_norm(a, (384,))]
    arrays = [each.numpy() for each in made]
    arrays += [np.exp(a.numpy()), a.numpy() @ b.numpy(), np.linalg.svd(a.double().numpy())[1]]
    return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in arrays)).hexdigest()


def numerical_files() -> list[Path]:
    """Return the test files that compare results of float computations."""
    return [path for path in sorted(TESTS.rglob("test_*.py")) if NUMERICAL.search(path.read_text(encoding="utf-8"))]


def run_all(settings: list[Setting], paths: list[Path], more: list[str]) -> Iterator[tuple[Setting, Outcome]]:
    """Run the tests of some files under each setting; `more` are further arguments of pytest."""
    seen: dict[tuple[str, int], str] = {}
    for setting in settings:
        command = [sys.executable, "-m", "tests.run_on_cpus", "--probe", setting.name]
        done = subprocess.run(command, env=setting.environment(), capture_output=True, text=True, check=False)
        if done.returncode < 0:
            yield setting, Outcome(why="this CPU lacks its instructions")
            continue
        if done.returncode > 0:
            raise SystemExit(f"{setting.name}: the probe failed:\n{done.stderr}")
        alike = (done.stdout, setting.threads)  # more threads also divide what the probe doesn't run
        if alike in seen:
            yield setting, Outcome(why=f"computes as {seen[alike]} here, bit for bit")
            continue
        seen[alike] = setting.name
        yield setting, run(setting, paths, more)


def run(setting: Setting, paths: list[Path], more: list[str]) -> Outcome:
    """Run the tests under one setting."""
    with tempfile.TemporaryDirectory() as folder:
        report, margins = Path(folder) / "report.xml", Path(folder) / "margins"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", str(report)]
        command += [*(f"-p{plugin}" for plugin in setting.plugins()), *more, *map(str, paths)]
        environment = {**setting.environment(), "HIMAR_TEST_MARGINS": str(margins)}
        done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{setting.name}: pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return outcome(report, margins)


def outcome(report: Path, margins: Path) -> Outcome:
    """Read pytest's report, and the comparison that used most of its limit and passed."""
    counts, failures = {"passed": 0, "failed": 0, "skipped": 0}, []
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            counts["failed"] += 1
            said = next(child for child in case if child.tag in ("failure", "error")).get("message", "")
            failures.append(f"{case.get('classname')}::{case.get('name')}: {' '.join(said.split())[:300]}")
        else:
            counts["skipped" if "skipped" in kinds else "passed"] += 1
    lines = margins.read_text(encoding="utf-8").splitlines() if margins.exists() else []
    shares = [(float(share), test) for share, _, test in (line.partition(" ") for line in lines)]
    share, test = max((each for each in shares if each[0] <= 1), default=(0.0, ""))
    return Outcome(**counts, failures=tuple(failures), closest=f"{share:.0%} {test}" if test else "")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code: 1 where a test failed, or where no setting could run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="What follows -- goes to pytest.")
    parser.add_argument("paths", nargs="*", type=Path, help="test files or folders, by default all numerical ones")
    parser.add_argument("--only", action="append", choices=SETTINGS, help="a setting; may be given several times")
    parser.add_argument("--list", action="store_true", help="say which settings and files there are, and end")
    parser.add_argument("--probe", choices=SETTINGS, help=argparse.SUPPRESS)
    given = list(sys.argv[1:] if arguments is None else arguments)
    here, more = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    options = parser.parse_args(here)
    if options.probe:
        print(probe(SETTINGS[options.probe]))
        return 0
    settings = [SETTINGS[name] for name in options.only or SETTINGS]
    paths = options.paths or numerical_files()
    if options.list:
        for setting in settings:
            print(setting.name, *(f"{name}={value}" for name, value in LEVELS[setting.level].items()))
        print(*paths, sep="\n")
        return 0
    outcomes = []
    print(f"{'setting':<12}{'passed':>8}{'failed':>8}{'skipped':>9}  the comparison nearest to its limit", flush=True)
    for setting, found in run_all(settings, paths, more):
        outcomes.append(found)
        counts = "".join(
            f"{count:>{width}}" for count, width in ((found.passed, 8), (found.failed, 8), (found.skipped, 9))
        )
        print(
            f"{setting.name:<12}{f'  not run: {found.why}' if found.why else f'{counts}  {found.closest}'}", flush=True
        )
        for failure in found.failures:
            print(f"    {failure}", flush=True)
    return int(any(found.failed for found in outcomes) or not any(found.passed for found in outcomes))


if __name__ == "__main__":
    sys.exit(main())
