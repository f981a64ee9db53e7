"""The table of settings: the golden numbers hold under another CPU's kernels, and what is not run is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import run_on_cpus
from tests.run_on_cpus import LEVELS, SETTINGS, Outcome, Setting, numerical_files, run_all

TESTS = Path(__file__).parent
HIMAR = TESTS / "himar"


@pytest.mark.parametrize("name", ["sse-1", "openblas-2"])
def test_golden_components_and_losses_hold_with_the_oldest_kernels_and_another_library(name):
    files = [HIMAR / file for file in ("test_golden.py", "test_losses.py", "test_variants.py")]
    chosen = "test_transformer or test_mlp_head or test_dit_head or by_hand or (samples and dit-both)"
    found = run_on_cpus.run(SETTINGS[name], files, ["-n", "0", "--noconftest", "-k", chosen])
    assert (found.passed, found.failed, found.skipped) == (14, 0, 0), found.failures
    assert "%" in found.closest and "tests/himar/test_" in found.closest


def test_a_failure_is_counted_named_and_the_exit_code(tmp_path, capsys):
    file = tmp_path / "test_numbers.py"
    file.write_text(
        f"import os, sys\nsys.path.insert(0, {str(TESTS.parent)!r})\nfrom tests.closeness import assert_near\n\n"
        "def test_near(): assert_near([1.0, 1.000001], [1.0, 1.0], 1e-5)\n\n"
        "def test_far(): assert_near([1.0, 2.0], [1.0, 1.0], 1e-5)\n\n"
        "def test_threads(): assert os.environ['OMP_NUM_THREADS'] == '2'\n"
    )
    assert run_on_cpus.main([str(file), "--only", "native-2", "--", "-n", "0"]) == 1
    _, row, failure = capsys.readouterr().out.splitlines()
    assert row.split()[:5] == ["native-2", "2", "1", "0", "7%"]
    assert "test_numbers::test_far: AssertionError: values 7.07e-01 (relative L2) from those expected" in failure


def test_what_this_cpu_lacks_or_computes_alike_is_said_and_not_run(monkeypatch, capsys):
    said = {"sse-1": (0, "a"), "avx2-1": (0, "a"), "avx512-1": (-4, ""), "sse-2": (0, "a")}

    def answer(command, env, **_):
        name = next(n for n, s in SETTINGS.items() if s.environment() == env)
        return subprocess.CompletedProcess(command, *said[name])

    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setattr(run_on_cpus, "run", lambda setting, paths, more: Outcome(passed=3))
    found = dict(run_all([SETTINGS[name] for name in said], [], []))
    whys = {setting.name: outcome.why for setting, outcome in found.items()}
    assert whys["avx512-1"] == "this CPU lacks its instructions"
    assert whys["avx2-1"] == "computes as sse-1 here, bit for bit"
    assert (whys["sse-1"], whys["sse-2"]) == ("", "")  # threads also divide what the probe doesn't run
    assert run_on_cpus.main(["--only", "avx512-1"]) == 1
    assert "avx512-1      not run: this CPU lacks its instructions" in capsys.readouterr().out


def test_a_setting_has_its_own_variables_and_no_others(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AVX")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    native, oldest = (Setting(level, 2).environment() for level in ("native", "sse"))
    assert "MKL_CBWR" not in native and native["OMP_NUM_THREADS"] == "2"
    assert LEVELS["sse"].items() <= oldest.items()
    assert (
        Setting("openblas", 1).plugins() == ("tests.numpy_matmuls",) and not native.keys() & LEVELS["openblas"].keys()
    )


def test_the_suite_is_every_file_that_compares_floats_and_a_plugin_replaces_every_product():
    names = {path.name for path in numerical_files()}
    assert {"test_golden.py", "test_losses.py", "test_int8.py", "test_same_image.py", "test_train_state.py"} <= names
    assert "test_console.py" not in names
    code = (
        "import torch; a, b, c = torch.randn(9, 5), torch.randn(5, 3), torch.randn(3); h = a.half(), b.half();"
        "sums = lambda: [torch.addmm(c, a, b), torch.addmm(c, a, b, beta=2)];"
        "made = lambda: [a @ b, a[:2] @ b, *sums(), a[None] @ b[None], h[0] @ h[1]];"
        "before = made(); import tests.numpy_matmuls as other;"
        "near = [torch.testing.assert_close(x, y) for x, y in zip(made(), before)];"
        "calls = []; other._matmul = lambda x, y: calls.append(1) or x @ y; made();"
        "assert len(calls) == 3, calls"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=TESTS.parent)
