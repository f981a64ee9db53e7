"""TensorRT's engines as far as they go without a GPU: who may run them, damaged files, calls that exist."""

from __future__ import annotations

import ast
import importlib
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from himar_kernels import EngineError
from himar_runtime import ComponentSpec, TensorSpec
from himar_runtime.bundle.schema import BackendInfo
from himar_runtime.engines.tensorrt.engine import check_fit, load_engine_file
from himar_runtime.engines.tensorrt.library import library_logger

ENGINES = Path(__file__).parents[2] / "runtime" / "himar_runtime" / "engines" / "tensorrt"
BUILT = BackendInfo("tensorrt", "11.4.0.106", None)
FULL = SimpleNamespace(__name__="tensorrt", __version__="11.4.0.106")
NEWER = SimpleNamespace(__name__="tensorrt", __version__="11.5.1")
LEAN = SimpleNamespace(__name__="tensorrt_lean", __version__="11.4.0.106")


@pytest.mark.parametrize(
    ("built", "library"),
    [
        (BUILT, FULL),
        (replace(BUILT, compute_capability="9.0"), FULL),
        (replace(BUILT, compute_capabilities=("8.9", "9.0")), FULL),
        (replace(BUILT, least_compute_capability="8.0"), FULL),
        (replace(BUILT, version_compatible=True), NEWER),
        (replace(BUILT, version_compatible=True), LEAN),
    ],
)
def test_engines_that_fit_are_loaded(built: BackendInfo, library) -> None:
    check_fit("dit_head", built, library, (9, 0))


@pytest.mark.parametrize(
    ("built", "library", "text"),
    [
        (BUILT, NEWER, r"dit_head needs tensorrt 11\.4\.0\.106, which built it, but tensorrt 11\.5\.1 is installed"),
        (BUILT, LEAN, r"but tensorrt_lean 11\.4\.0\.106 is installed here; .* --version-compatible"),
        (replace(BUILT, compute_capability="8.9"), FULL, r"compute capability 8\.9 alone, but this one has 9\.0"),
        (replace(BUILT, compute_capabilities=("8.6", "8.9")), FULL, r"capabilities 8\.6, 8\.9, but this one has 9\.0"),
        (replace(BUILT, least_compute_capability="10.0"), FULL, r"10\.0 and later, but this one has 9\.0; build"),
    ],
)
def test_another_gpu_or_version_is_refused_with_both(built: BackendInfo, library, text: str) -> None:
    with pytest.raises(EngineError, match=text):
        check_fit("dit_head", built, library, (9, 0))


SPEC = ComponentSpec(
    "dit_head", "dit_head.onnx", "fp32",
    (TensorSpec("x", "float32", ("rows", 4)),), (TensorSpec("y", "float32", ("rows", 4)),),
    {"rows": (1, 2, 4)}, "tensorrt-rtx", "dit_head.engine",
)  # fmt: skip


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="checks what is said without a GPU")
def test_a_refused_engine_file_comes_with_the_librarys_reason(tmp_path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'himar[tensorrt-rtx]'")
    builder = trt.Builder(library_logger(trt))
    network = builder.create_network(0)
    layer = network.add_identity(network.add_input("x", trt.float32, (-1, 4)))
    layer.get_output(0).name = "y"
    network.mark_output(layer.get_output(0))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", (1, 4), (2, 4), (4, 4))
    config.add_optimization_profile(profile)
    path = tmp_path / "dit_head.engine"
    for content in (bytes(builder.build_serialized_network(network, config)), b"no engine"):
        path.write_bytes(content)
        with pytest.raises(EngineError, match=r"dit_head\.engine does not load with tensorrt_rtx .*: .*Error Code.*"):
            load_engine_file(path, SPEC, BackendInfo("tensorrt-rtx", trt.__version__, None), trt, (9, 0))


# Names that hold objects of TensorRT in the runtime's files, and their classes.
HOLDS = {
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "runtime": "Runtime",
    "config": "IRuntimeConfig",
    "_cache": "IRuntimeCache",
}


def _uses(file: str) -> set[tuple[str | None, str]]:
    """(class, member) of every use of TensorRT in a file; the class is None for the module's own members.

    A member that the code asks for with hasattr before it uses it is not among them.
    """
    found, asked = set(), set()
    for node in ast.walk(ast.parse((ENGINES / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
            asked.add(node.args[1].value)
        if isinstance(node, ast.Attribute):
            base = node.value
            name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else None
            if name in HOLDS:
                found.add((HOLDS[name], node.attr))
            elif name in ("library", "_library"):
                found.add((None, node.attr))
    return {(owner, member) for owner, member in found if member not in asked}


@pytest.mark.parametrize(
    ("library", "files"),
    [
        ("tensorrt_rtx", ("engine.py", "jit.py")),
        ("tensorrt_lean", ("engine.py",)),
    ],
)
def test_the_runtime_calls_only_what_the_library_has(library: str, files: tuple[str, ...]) -> None:
    trt = pytest.importorskip(library, reason=f"needs {library}")
    uses = set().union(*(_uses(file) for file in files))
    assert len(uses) >= 10
    for owner, member in uses:
        target = trt if owner is None else getattr(trt, owner)
        assert hasattr(target, member), f"{library} has no {owner or ''}.{member}"
    assert importlib.import_module(library).ExecutionContextAllocationStrategy.USER_MANAGED
