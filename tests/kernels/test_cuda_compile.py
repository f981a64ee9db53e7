"""The kernels must compile for every GPU that users have, ahead of time and at run time, without a warning."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess

import pytest

from himar_kernels import BuildError
from himar_kernels.build import cuda as cuda_compile
from himar_kernels.build import nvcc
from himar_kernels.build.sources import (
    ARCHITECTURES,
    COMPILE_OPTIONS,
    KERNEL_NAMES,
    compiled_directory,
    cubin_name,
    find_cubin,
    main_source,
    source_directory,
    source_hash,
)
from himar_kernels.shared.console import run_cli

try:
    NVCC = nvcc.find_nvcc()
except BuildError:
    NVCC = None
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc")
needs_nvrtc = pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="needs cuda-python and NVRTC")


def test_entries_and_names_agree():
    text = (source_directory() / "entries.cuh").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^HIMAR_KERNEL\((\w+)", text, re.MULTILINE)) == KERNEL_NAMES


def test_a_change_of_any_device_source_changes_the_hash(monkeypatch, tmp_path):
    copy = shutil.copytree(source_directory(), tmp_path / "cuda")
    monkeypatch.setattr("himar_kernels.build.sources.source_directory", lambda: copy)
    before = source_hash()
    assert re.fullmatch("[0-9a-f]{16}", before)
    hashes = {before}
    for path in sorted([*copy.glob("*.cuh"), *copy.glob("*.cu")]):
        path.write_text(path.read_text() + "\n")
        hashes.add(source_hash())
    assert len(hashes) == 1 + len([*copy.glob("*.cuh"), *copy.glob("*.cu")])
    (copy / "host.cpp").write_text("")  # of the tests only
    assert source_hash() in hashes


@pytest.mark.parametrize(
    ("present", "capability", "found"),
    [
        (["80", "90a"], (9, 0), "90a"),
        (["90"], (9, 0), "90"),
        (["80", "90a"], (8, 6), "80"),  # a later minor version of the same major one
        (["80", "89"], (8, 9), "89"),
        (["89"], (8, 6), None),
        (["100"], (10, 3), "100"),
        (["80"], (7, 5), None),
        (["90a"], (9, 1), None),  # "a" is for its own capability only
        ([], (9, 0), None),
    ],
)
def test_the_compiled_kernels_that_a_gpu_can_run_are_found(tmp_path, present, capability, found):
    for architecture in present:
        (tmp_path / cubin_name(architecture)).touch()
    (tmp_path / f"himar-kernels-{'0' * 16}-sm_90a.cubin").touch()  # of other sources
    path = find_cubin(tmp_path, capability)
    assert path == (None if found is None else tmp_path / cubin_name(found))


@needs_nvcc
def test_nvcc_compiles_all_architectures_without_a_warning(tmp_path, capsys):
    assert run_cli(cuda_compile.command, ["--out", str(tmp_path / "made")]) == 0
    captured = capsys.readouterr()
    for architecture in ARCHITECTURES:
        if f"sm_{architecture} skipped" not in captured.err:
            cubin = (tmp_path / "made" / cubin_name(architecture)).read_bytes()
            assert cubin[:4] == b"\x7fELF"
            assert all(name.encode() in cubin for name in KERNEL_NAMES)
    assert (tmp_path / "made" / cubin_name("90a")).exists()
    assert {path.suffix for path in (tmp_path / "made").iterdir()} == {".cubin"}


@pytest.fixture(scope="module")
def hopper(tmp_path_factory) -> tuple[str, dict[str, str]]:
    """What ptxas says of the kernels for sm_90a, and the PTX of each."""
    if NVCC is None:
        pytest.skip("needs nvcc")
    folder = tmp_path_factory.mktemp("hopper")
    command = [NVCC, *COMPILE_OPTIONS, "-O3", "-cubin", "-Xptxas", "-v", "-arch=sm_90a", "--keep", "--keep-dir", folder]
    done = subprocess.run(
        [*command, main_source(), "-o", folder / "kernels.cubin"], capture_output=True, text=True, check=True
    )
    entries = re.findall(r"\.entry (\w+)\((.*?\n}\n)", (folder / "kernels.ptx").read_text(), re.DOTALL)
    return done.stderr, dict(entries)


def test_no_kernel_spills_registers_or_takes_so_many_that_blocks_wait(hopper):
    report, _ = hopper
    entries = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        report,
        re.DOTALL,
    )
    assert {name for name, *_ in entries} == set(KERNEL_NAMES)
    for name, stack, stores, loads, registers in entries:
        assert (stack, stores, loads) == ("0", "0", "0"), name
        assert int(registers) <= 64, f"{name} uses {registers} registers: fewer than 1024 threads fit on a processor"


@pytest.mark.parametrize(
    ("name", "loads", "stores"),
    [
        ("himar_reveal_low", 1, 2),
        ("himar_start_low", 1, 1),
        ("himar_mlp_step", 4, 3),
        ("himar_mlp_solve", 4, 4),
        ("himar_start_high", 2, 2),
        ("himar_dit_step", 5, 2),
        ("himar_dit_solve", 6, 3),
        ("himar_check_finite", 1, 0),
        ("himar_pack", 3, 0),
    ],
)
def test_memory_is_read_and_written_sixteen_bytes_at_a_time(hopper, name, loads, stores):
    """The least of each that the kernel's arrays need; the compiler may copy loops and so make more."""
    ptx = hopper[1][name]
    assert len(re.findall(r"ld\.global\S*\.v4", ptx)) >= loads
    assert len(re.findall(r"st\.global\S*\.v4", ptx)) >= stores


@needs_nvrtc
def test_nvrtc_compiles_the_same_source_without_a_gpu():
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(std="c++17", fma=False, arch="sm_90a", include_path=str(source_directory()), no_cache=True)
    code = Program(main_source().read_text(encoding="utf-8"), "c++", options).compile("cubin").code
    assert all(name.encode() in code for name in KERNEL_NAMES)


def test_without_nvcc_the_message_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(nvcc.shutil, "which", lambda *arguments, **named: None)
    assert run_cli(cuda_compile.command, ["--out", str(tmp_path / "made")]) == 1
    assert "nvcc was not found" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_the_default_folder_is_the_package_s(monkeypatch):
    folders = []

    def record(out, architectures):
        folders.append((out, architectures))
        return cuda_compile.Compiled((), ())

    monkeypatch.setattr(cuda_compile, "compile_ahead", record)
    assert run_cli(cuda_compile.command, ["--arch", "90a, 80"]) == 0
    assert folders == [(compiled_directory(), ["90a", "80"])]


@needs_nvcc
def test_an_architecture_that_nvcc_does_not_know_is_skipped_and_named(monkeypatch, tmp_path, capsys):
    def touch(nvcc, architecture, folder):
        path = folder / cubin_name(architecture)
        path.touch()
        return path

    monkeypatch.setattr(cuda_compile, "_compile", touch)
    assert run_cli(cuda_compile.command, ["--out", str(tmp_path / "made"), "--arch", "10,90a"]) == 0
    assert "sm_10 skipped" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "made").iterdir()] == [cubin_name("90a")]
    with pytest.raises(BuildError, match="knows none of the architectures 10; it knows"):
        cuda_compile.compile_ahead(tmp_path / "none", ["10"])
    assert not (tmp_path / "none").exists()


@needs_nvcc
def test_sources_that_do_not_compile_leave_nothing_behind(monkeypatch, tmp_path):
    broken = tmp_path / "kernels.cu"
    broken.write_text('extern "C" __global__ void himar_pack() { int unused; }')
    monkeypatch.setattr(cuda_compile, "main_source", lambda: broken)
    with pytest.raises(BuildError, match=r"does not compile the kernels for sm_90a: .*unused"):
        cuda_compile.compile_ahead(tmp_path / "made", ["90a"])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("makes", ["", "touch"])
def test_a_compiler_that_makes_nothing_is_named(tmp_path, makes):
    nvcc = tmp_path / "nvcc"
    listing = 'if [ "$1" = --list-gpu-code ]; then echo sm_90; exit; fi'
    nvcc.write_text(f'#!/bin/sh\n{listing}\nfor last; do :; done\n{makes or "true"} "$last"\n')
    nvcc.chmod(0o755)
    with pytest.raises(BuildError, match=r"^nvcc compiled the kernels for sm_90a to 0 bytes that hold no kernels\.$"):
        cuda_compile._compile(nvcc, "90a", tmp_path)


@needs_nvcc
def test_a_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_compile, "_compile", lambda nvcc, architecture, folder: folder / "never read")
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="cannot be written to"):
        cuda_compile.compile_ahead(tmp_path / "file", ["90a"])


@pytest.mark.parametrize("text", ["x", "90aa", ""])
def test_a_word_that_is_no_architecture_is_wrong_usage(tmp_path, capsys, text):
    assert run_cli(cuda_compile.command, ["--out", str(tmp_path), "--arch", text]) == 2
    assert "not an architecture" in capsys.readouterr().err
