"""What CMake says of a GPU's parts when they are asked for and absent: with what was wrong and what to give."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "runtime" / "cpp"


def configure(**options: str | Path) -> str:
    """Run the part of the configuration that looks for a GPU's parts; return what it said, in one line."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake")
    defined = {"HIMAR_CUDA": "OFF", "HIMAR_TENSORRT": "OFF", "CMAKE_MODULE_PATH": SOURCES / "cmake"} | options
    command = [cmake, *(f"-D{name}={value}" for name, value in defined.items()), "-P", SOURCES / "cmake" / "gpu.cmake"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    return " ".join((done.stdout + done.stderr).split())


def headers(folder: Path, version: str) -> Path:
    (folder / "include").mkdir(parents=True)
    (folder / "include" / "NvInferRuntime.h").touch()
    (folder / "include" / "NvInferVersion.h").write_text(version)
    return folder


def test_kernels_that_are_asked_for_need_nvcc() -> None:
    said = configure(HIMAR_CUDA="ON", HIMAR_NVCC="")
    assert "HIMAR_CUDA is ON, but nvcc was not found in $CUDA_HOME, on the PATH or in /usr/local/cuda; install" in said
    assert "configure with -DHIMAR_CUDA=OFF for a library that runs on the CPU." in said


@pytest.mark.parametrize("option", ["HIMAR_CUDA", "HIMAR_TENSORRT"])
def test_a_value_that_is_none(option: str) -> None:
    assert f"{option} is 'maybe'; it must be ON, OFF or AUTO." in configure(**{option: "maybe"})


def test_tensorrt_that_is_asked_for_needs_its_headers(tmp_path: Path) -> None:
    said = configure(
        HIMAR_TENSORRT="ON", TensorRT_INCLUDE_DIR="TensorRT_INCLUDE_DIR-NOTFOUND", HIMAR_CUDA_INCLUDE=tmp_path
    )
    if "headers of" in said:
        pytest.skip("this machine has TensorRT's headers where they are looked for")
    assert "Could NOT find TensorRT (missing: TensorRT_INCLUDE_DIR)" in said
    assert "HIMAR_TENSORRT is ON: give the folder that holds TensorRT's include with -DHIMAR_TENSORRT_ROOT=DIR" in said


@pytest.mark.parametrize(
    ("version", "what"),
    [
        (
            "#define TRT_MAJOR_RTX 1\n#define TRT_MINOR_RTX 7\n",
            "of TensorRT-RTX, whose engines himar's C++ runtime does",
        ),
        (
            "#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 6\n#define NV_TENSORRT_PATCH 1\n",
            "of TensorRT 8.6.1,",
        ),
        (
            "#define TRT_MAJOR_ENTERPRISE 12\n#define TRT_MINOR_ENTERPRISE 0\n#define TRT_PATCH_ENTERPRISE 0\n",
            "12.0.0,",
        ),
    ],
)
def test_headers_of_another_tensorrt_are_refused(tmp_path: Path, version: str, what: str) -> None:
    said = configure(HIMAR_TENSORRT="ON", HIMAR_TENSORRT_ROOT=headers(tmp_path / "root", version))
    assert what in said
    assert "give those of TensorRT 10.1 or later, or 11, with -DHIMAR_TENSORRT_ROOT=DIR." in said
