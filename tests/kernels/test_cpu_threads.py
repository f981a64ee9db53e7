"""The default number of CPU threads, on control groups as containers, pods and machines without either show them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from himar_kernels.cpu_threads import allowed_cpus, default_threads, omp_threads

V2 = "30 23 0:26 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
MACHINE = 64


def machine(root: Path, cgroup: str, mountinfo: str, files: Mapping[str, str]) -> Path:
    """Write a folder as / of a machine; files: below sys/fs/cgroup."""
    written = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo}
    written |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "files", "threads"),
    [
        pytest.param("0::/\n", V2, {"cpu.max": "200000 100000\n"}, 2, id="container"),
        pytest.param("0::/\n", V2, {"cpu.max": "150000 100000\n"}, 2, id="one and a half CPUs"),
        pytest.param("0::/\n", V2, {"cpu.max": "20000 100000\n"}, 1, id="a fifth of a CPU"),
        pytest.param("0::/\n", V2, {"cpu.max": "300000\n"}, 3, id="no period"),
        pytest.param("0::/\n", V2, {"cpu.max": "max 100000\n"}, MACHINE, id="no limit"),
        pytest.param("0::/\n", V2, {"cpu.max": "9900000 100000\n"}, MACHINE, id="more than there are"),
        pytest.param("0::/\n", V2, {}, MACHINE, id="root group"),
        pytest.param("0::/\n", V2, {"cpu.max": "nonsense"}, MACHINE, id="nonsense"),
        pytest.param("0::/\n", V2, {"cpu.max": "0 0\n"}, MACHINE, id="zero"),
        pytest.param(
            "0::/pods/pod1/box\n", V2,
            {"pods/cpu.max": "1000000 100000", "pods/pod1/cpu.max": "400000 100000", "pods/pod1/box/cpu.max": "max 1"},
            4, id="the pod's limit",
        ),
        pytest.param("0::/a/b\n", V2, {"a/b/cpu.max": "500000 100000"}, 5, id="nested"),
        pytest.param("0::/../other\n", V2, {"cpu.max": "300000 100000"}, 3, id="outside of the namespace"),
        pytest.param(
            "0::/docker/1f\n", V2.replace(" / /sys", " /docker/1f /sys"), {"cpu.max": "300000 100000"}, 3,
            id="mounted in part",
        ),
        pytest.param(
            "5:cpu,cpuacct:/\n1:name=systemd:/\n", V1,
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            3, id="version 1",
        ),
        pytest.param(
            "5:cpu,cpuacct:/docker/1f\n", V1.replace(" / /sys", " /docker/1f /sys"),
            {"cpu,cpuacct/cpu.cfs_quota_us": "100000\n", "cpu,cpuacct/cpu.cfs_period_us": "50000\n"},
            2, id="version 1 in a container",
        ),
        pytest.param(
            "5:cpu,cpuacct:/\n", V1,
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            MACHINE, id="version 1 without a limit",
        ),
        pytest.param(
            "1:cpu,cpuacct:/\n0::/\n", f"{V1}\n{V2.replace('/sys/fs/cgroup', '/sys/fs/cgroup/unified')}",
            {"cpu,cpuacct/cpu.cfs_quota_us": "700000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            7, id="both versions",
        ),
        pytest.param(
            "0::/\n", V2.replace("/sys/fs/cgroup", r"/sys/fs/cgroup/a\040b"), {"a b/cpu.max": "200000 100000"}, 2,
            id="a space in the mount's name",
        ),
        pytest.param("", "", {}, MACHINE, id="no control groups"),
        pytest.param("nonsense\n", "nonsense\n- \n", {}, MACHINE, id="unreadable"),
    ],
)  # fmt: skip
def test_quotas_limit_the_threads(
    tmp_path: Path, cgroup: str, mountinfo: str, files: Mapping[str, str], threads: int
) -> None:
    root = machine(tmp_path, cgroup, mountinfo, files)
    assert default_threads({}, root, MACHINE) == threads
    assert default_threads({"OMP_NUM_THREADS": "1"}, root, MACHINE) == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1), ("8", 8), (" 3 ", 3), ("+2", 2), ("04", 4), ("4,2", 4), ("4, 2,1", 4), ("9" * 20, 999999999),
        ("", None), ("0", None), ("-1", None), ("abc", None), ("2x", None), ("1.5", None), (",2", None), ("٣", None),
    ],
)  # fmt: skip
def test_omp_num_threads_is_read_as_openmp_reads_it(tmp_path: Path, text: str, number: int | None) -> None:
    assert omp_threads(text) == number
    assert default_threads({"OMP_NUM_THREADS": text}, tmp_path, MACHINE) == min(number or MACHINE, MACHINE)


def test_the_process_itself() -> None:
    cpus = allowed_cpus()
    assert 1 <= cpus <= (os.cpu_count() or 1)
    assert 1 <= default_threads() <= cpus
    assert default_threads({"OMP_NUM_THREADS": "1"}) == 1
