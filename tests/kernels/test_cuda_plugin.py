"""The TensorRT plugin must build from TensorRT's public headers, refuse what does not fit, and step as NumPy does."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from himar_kernels import BuildError
from himar_kernels.build.nvcc import find_nvcc
from himar_kernels.build.sources import COMPILE_OPTIONS, source_directory
from himar_kernels.families.hi_mar import Chain, chain_table, dit_reverse_step, mlp_reverse_step

PLUGIN = Path(__file__).parents[2] / "examples" / "tensorrt_plugin"
HEADERS = [os.environ.get("HIMAR_TENSORRT_INCLUDE", ""), "/usr/include/x86_64-linux-gnu", "/usr/include"]
HEADERS += ["/usr/include/aarch64-linux-gnu", "/usr/local/tensorrt/include"]
COMPILER = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), "c++")
WARNINGS = ["-Wall", "-Wextra", "-Werror"]


@pytest.fixture(scope="module")
def includes() -> list[str]:
    """Options that find TensorRT's and CUDA's headers."""
    found = next((folder for folder in HEADERS if folder and (Path(folder) / "NvInfer.h").exists()), None)
    if found is None:
        pytest.skip("needs TensorRT's headers: set HIMAR_TENSORRT_INCLUDE to the folder that holds NvInfer.h")
    try:
        nvcc = find_nvcc()
    except BuildError as error:
        pytest.skip(str(error))
    homes = [nvcc.resolve().parents[1], Path("/usr/local/cuda")]
    cuda = next((home / "include" for home in homes if (home / "include" / "cuda_runtime_api.h").exists()), None)
    if cuda is None:
        pytest.skip("needs the CUDA runtime's headers, cuda_runtime_api.h")
    return ["-isystem", found, "-isystem", str(cuda), "-I", str(source_directory())]


@pytest.fixture(scope="module")
def library(includes, tmp_path_factory) -> Path:
    """The plugin's shared library, built as CMakeLists.txt builds it."""
    folder = tmp_path_factory.mktemp("plugin-library")
    objects = []
    for source in sorted(PLUGIN.glob("*.cpp")):
        objects.append(folder / f"{source.stem}.o")
        options = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", *WARNINGS, *includes]
        subprocess.run([COMPILER, *options, "-c", source, "-o", objects[-1]], check=True)
    made = folder / "libhimar_reverse_step.so"
    options = [*COMPILE_OPTIONS, "-arch=sm_90a", "-Werror", "all-warnings", "-Xcompiler", "-fPIC", "-shared"]
    options += ["-I", str(source_directory())]
    kernel = PLUGIN / "reverse_step_launch.cu"
    subprocess.run([find_nvcc(), *options, kernel, *objects, "-o", made], check=True)
    return made


def test_the_plugin_does_what_tensorrt_asks_of_it(library, includes, tmp_path):
    driver, source = tmp_path / "driver", Path(__file__).parent / "plugin_driver.cpp"
    subprocess.run([COMPILER, "-std=c++17", *WARNINGS, *includes, source, "-o", driver, "-ldl"], check=True)
    done = subprocess.run([driver, library], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


REGISTRY = """
import importlib, sys
import numpy as np
trt = importlib.import_module(sys.argv[1])
registry = trt.get_plugin_registry()
assert registry.load_library(sys.argv[2]) is not None
creator = registry.get_creator("HimarReverseStep", "1", "himar")
def create(head, halves):
    fields = [
        trt.PluginField("head", np.frombuffer(head, np.uint8), trt.PluginFieldType.CHAR),
        trt.PluginField("halves", np.array([halves], np.int32), trt.PluginFieldType.INT32),
    ]
    return creator.create_plugin("step", trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD)
plugin = create(b"mlp", 2)
assert all(plugin.get_capability_interface(kind) is not None for kind in trt.PluginCapabilityType.__members__.values())
assert create(b"vae", 2) is None and create(b"dit", 3) is None
"""


@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_rtx", "tensorrt_lean"])
def test_tensorrt_s_own_registry_loads_the_library(library, module):
    """In a process of its own: a registry keeps what it has loaded."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}")
    done = subprocess.run([sys.executable, "-c", REGISTRY, module, library], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


HOST = """
#include "{plugin}/reverse_step.cuh"
extern "C" void reverse_step(float* next, const float* x, const float* prediction, const float* noise,
                             const float* parameters, himar::u32 rows, himar::u32 halves, himar::u32 channels,
                             himar::u32 learned_variance) {{
    for (himar::u32 index = 0; index < 3; ++index) {{
        himar::HostBlock block(index, 3, 5);
        himar::reverse_step(block, next, x, prediction, noise,
                            reinterpret_cast<const himar::StepParameters*>(parameters), rows, halves, channels,
                            learned_variance != 0);
    }}
}}
"""


@pytest.fixture(scope="module")
def reverse_step(tmp_path_factory):
    """The plugin's kernel body compiled for the host."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "host.cpp").write_text(HOST.format(plugin=PLUGIN))
    options = ["-std=c++17", "-O2", "-ffp-contract=off", *WARNINGS, "-fPIC", "-shared", "-I", str(source_directory())]
    subprocess.run([COMPILER, *options, str(folder / "host.cpp"), "-o", str(folder / "host.so")], check=True)
    function = ctypes.CDLL(str(folder / "host.so")).reverse_step
    function.restype = None
    return function


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (7, 16), (30, 17)])
@pytest.mark.parametrize("head", ["mlp", "dit"])
@pytest.mark.parametrize("k", [9, 1, 0])
def test_the_plugin_s_step_is_numpy_s(reverse_step, assert_close, head, rows, channels, halves, k):
    rng = np.random.default_rng([rows, channels, halves, k])
    chain = Chain.build(10)
    outputs = 2 * channels if head == "mlp" else channels
    x, noise = (rng.normal(size=(rows, channels)).astype(np.float32) for _ in range(2))
    prediction = rng.normal(size=(halves * rows, outputs)).astype(np.float32)
    guidance, temperature = (2.5 if halves == 2 else 1.0), (0.75 if k else 0.0)
    parameters = np.concatenate([chain_table(chain)[k], np.array([guidance, temperature], np.float32)])
    following = np.full_like(x, np.nan)
    arrays = [array.ctypes.data_as(ctypes.c_void_p) for array in (following, x, prediction, noise, parameters)]
    reverse_step(*arrays, *(ctypes.c_uint32(size) for size in (rows, halves, channels, head == "mlp")))
    step = mlp_reverse_step if head == "mlp" else dit_reverse_step
    assert_close(following, step(chain, k, x, prediction, guidance, noise, temperature))
