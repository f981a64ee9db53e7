"""What memory a process may still take, on machines with control groups of either version and without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from himar_kernels import InputError
from himar_runtime import Device
from himar_runtime.memory.available import VARIABLE, available_memory, host_limits
from tests.kernels.test_cpu_threads import V2, machine

V1 = "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
MEMINFO = "MemTotal:  16000000 kB\nMemAvailable:   8000000 kB\nSwapFree:    1000000 kB\n"
MACHINE = 9_000_000 * 1024
GB = 10**9


def host(root: Path, cgroup: str, mountinfo: str, files: Mapping[str, str], meminfo: str = MEMINFO) -> Path:
    machine(root, cgroup, mountinfo, files)
    (root / "proc/meminfo").write_text(meminfo)
    return root


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "files", "left"),
    [
        pytest.param("", "", {}, MACHINE, id="no groups"),
        pytest.param("0::/\n", V2, {"memory.max": "max\n", "memory.current": "5"}, MACHINE, id="no limit"),
        pytest.param(
            "0::/\n", V2, {"memory.max": f"{4 * GB}\n", "memory.current": f"{GB}\n", "memory.swap.max": "0\n"},
            3 * GB, id="version 2",
        ),
        pytest.param(
            "0::/\n", V2,
            {"memory.max": f"{4 * GB}", "memory.current": f"{GB}", "memory.stat": "anon 3\ninactive_file 500000000\n",
             "memory.swap.max": "0"},
            3_500_000_000, id="idle file pages",
        ),
        pytest.param(
            "0::/\n", V2,
            {"memory.max": f"{GB}", "memory.current": f"{GB}", "memory.swap.max": "300", "memory.swap.current": "100"},
            200, id="the group's swap",
        ),
        pytest.param(
            "0::/pod/box\n", V2,
            {"pod/memory.max": f"{2 * GB}", "pod/memory.current": "0", "pod/memory.swap.max": "0",
             "pod/box/memory.max": "max", "pod/box/memory.current": "0"},
            2 * GB, id="the pod's limit",
        ),
        pytest.param(
            "0::/\n", V2, {"memory.max": "5", "memory.current": f"{GB}", "memory.swap.max": "0"}, 0, id="over its limit"
        ),
        pytest.param(
            "4:memory:/\n", V1,
            {"memory/memory.limit_in_bytes": f"{GB}", "memory/memory.usage_in_bytes": "1000",
             "memory/memory.stat": "total_inactive_file 200\n"},
            GB - 800 + 1_000_000 * 1024, id="version 1",
        ),
        pytest.param(
            "4:memory:/\n", V1,
            {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "0"},
            MACHINE, id="version 1 without a limit",
        ),
        pytest.param("0::/\n", V2, {"memory.max": "much", "memory.current": "0"}, MACHINE, id="nonsense"),
    ],
)  # fmt: skip
def test_the_smallest_limit_counts(tmp_path, cgroup, mountinfo, files, left) -> None:
    assert min(each.bytes for each in host_limits(host(tmp_path, cgroup, mountinfo, files))) == left


def test_a_limit_of_the_address_space_counts(tmp_path) -> None:
    host(tmp_path, "", "", {})
    (tmp_path / "proc/self/limits").write_text(
        "Limit      Soft  Hard Units\nMax address space   4096000 unlimited bytes\n"
    )
    (tmp_path / "proc/self/status").write_text("Name:\tpython\nVmSize:\t    3000 kB\n")
    found = available_memory(Device("cpu"), tmp_path)
    assert found is not None and (found.bytes, found.of) == (4096000 - 3000 * 1024, "ulimit -v")


def test_nothing_is_known_of_a_system_without_proc(tmp_path) -> None:
    assert available_memory(Device("cpu"), tmp_path) is None


def test_this_machine_has_memory() -> None:
    found = available_memory(Device("cpu"))
    assert found is not None and 10**6 < found.bytes < 10**15


def test_the_variable_limits_and_switches_off(tmp_path, monkeypatch) -> None:
    host(tmp_path, "", "", {})
    monkeypatch.setenv(VARIABLE, "0.25")
    found = available_memory(Device("cpu"), tmp_path)
    assert found is not None and (found.bytes, found.of) == (250_000_000, VARIABLE)
    monkeypatch.setenv(VARIABLE, "none")
    assert available_memory(Device("cpu"), tmp_path) is None


@pytest.mark.parametrize("value", ["much", "-1", "1e9", "nan"])
def test_a_wrong_variable_is_refused(monkeypatch, value) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(InputError, match=f"^HIMAR_MEMORY_LIMIT is '{value}'; it must be the GB of memory to count on"):
        available_memory(Device("cpu"))
