"""Linear layers as operators for ONNX Runtime: compiled for the CPU, and on a GPU, they give what they define."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from himar_export.graph.elementwise import DOMAIN, VERSION, add_functions
from himar_export.graph.linear import join_linear_layers
from himar_kernels.build.fused_library import find_library, source_directory
from tests.closeness import assert_each_near

HALVES = {"fp16": (TensorProto.FLOAT16, torch.float16), "bf16": (TensorProto.BFLOAT16, torch.bfloat16)}
ENDS = {"Linear": "Add", "LinearGeluTanh": "BiasGeluTanh", "LinearResidual": "Residual"}
SIZES = [(1, 8, 8), (5, 16, 24), (37, 72, 40), (3, 13, 17), (2, 7, 1)]  # rows, depth, width


def separate(name: str, precision: str, depth: int, width: int) -> onnx.ModelProto:
    """A matmul and what follows it, as they are before they are joined; x and the stream are float32 inputs."""
    half, dtype = HALVES[precision]
    rng = np.random.default_rng(depth * width)
    weights = [rng.standard_normal((depth, width)) / np.sqrt(depth), rng.standard_normal(width)]
    kept = []
    for label, value in zip(("weight", "bias"), weights, strict=True):
        content = torch.from_numpy(value).to(dtype).view(torch.uint16).numpy().tobytes()
        kept.append(helper.make_tensor(label, half, value.shape, content, raw=True))
    values = ["product", "bias"]
    end = ENDS[name]
    domain = "" if end == "Add" else DOMAIN
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=half),
        helper.make_node("MatMul", ["half", "weight"], ["product"]),
        helper.make_node(end, [*(["total"] if end == "Residual" else []), *values], ["made"], domain=domain),
        helper.make_node("Cast", ["made"], ["y"], to=TensorProto.FLOAT),
    ]
    wide = [("x", depth), *([("total", width)] if end == "Residual" else [])]
    inputs = [helper.make_tensor_value_info(label, TensorProto.FLOAT, ["r", "m", size]) for label, size in wide]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["r", "m", width])]
    sets = [helper.make_opsetid("", 23), *([helper.make_opsetid(DOMAIN, VERSION)] if domain else [])]
    graph = helper.make_graph(nodes, name, inputs, outputs, kept)
    return helper.make_model(graph, opset_imports=sets, ir_version=10)


def model_of(name: str, precision: str, depth: int, width: int) -> onnx.ModelProto:
    model = separate(name, precision, depth, width)
    join_linear_layers(model, HALVES[precision][1])
    add_functions(model, HALVES[precision][1])
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node if node.domain == DOMAIN] == [name]
    return model


def feed_of(model: onnx.ModelProto, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    sizes = {value.name: value.type.tensor_type.shape.dim[-1].dim_value for value in model.graph.input}
    return {name: 2 * rng.standard_normal((1, rows, size), np.float32) for name, size in sizes.items()}


def session_of(model: onnx.ModelProto, library: Path | None, provider: Any = "CPUExecutionProvider") -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])


def operators(session: Any) -> set[str]:
    return {node.op_type for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()}


def run(model: onnx.ModelProto, library: Path, feed: dict[str, np.ndarray], provider: Any = "CPUExecutionProvider"):
    session = session_of(model, library, provider)
    assert model.graph.name in operators(session)
    return session.run(None, feed)[0]


def require_close(
    found: np.ndarray, model: onnx.ModelProto, precision: str, feed: dict, sums: float, gelu: float
) -> None:
    """Half results lie within half a unit of their last place, float ones are those of float32.

    sums: error of a float32 sum, as a share of the sum of its terms' sizes; gelu: of GELU, as a share of its argument.
    """
    dtype = HALVES[precision][1]
    weight, bias = (
        torch.frombuffer(bytearray(tensor.raw_data), dtype=dtype).double().numpy().reshape(tuple(tensor.dims))
        for tensor in model.graph.initializer
    )
    x = torch.from_numpy(feed["x"]).to(dtype).double().numpy()
    h = x @ weight + bias
    terms = np.abs(x) @ np.abs(weight) + np.abs(bias)
    name = model.graph.name
    expected = h + feed["total"].astype(np.float64) if name == "LinearResidual" else h
    unit = 2.0**-20 if name == "LinearResidual" else 2.0**-11 if precision == "fp16" else 2.0**-8
    limit = sums * terms + 2.0**-24
    if name == "LinearGeluTanh":
        expected = torch.nn.functional.gelu(torch.from_numpy(h), approximate="tanh").numpy()
        limit = 1.2 * limit + gelu * np.abs(h)
    assert np.all(np.abs(found - expected) <= unit * np.abs(expected) + limit)


@pytest.mark.parametrize("separately", [False, True], ids=["whole", "separate"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("name", ENDS)
def test_a_linear_layer_gives_its_formula(cpu_library, monkeypatch, name, precision, size, separately):
    """Also in two passes, of which the first rounds a product to half precision."""
    monkeypatch.setenv("HIMAR_LINEAR", "separate" if separately else "")
    rows, depth, width = size
    model = model_of(name, precision, depth, width)
    feed = feed_of(model, rows)
    rounded = (2.0**-11 if precision == "fp16" else 2.0**-8) if separately and name != "LinearResidual" else 0.0
    require_close(run(model, cpu_library, feed), model, precision, feed, 2e-6 + rounded, 1e-6)


@pytest.mark.parametrize("name", ENDS)
def test_a_session_without_linear_layers_runs_what_they_were_made_of(cpu_library, monkeypatch, name):
    """The same numbers bit for bit as before the joining, with the operators that are between matmuls or without."""
    model, before = model_of(name, "fp16", 72, 40), separate(name, "fp16", 72, 40)
    add_functions(before, torch.float16)
    feed = feed_of(model, 5)
    fused = run(model, cpu_library, feed)
    monkeypatch.setenv("HIMAR_LINEAR", "0")
    for library in (cpu_library, None):
        session = session_of(model, library)
        ran = operators(session)
        assert name not in ran and (ENDS[name] in ran) == (library is not None or name == "Linear")
        (found,) = session.run(None, feed)
        np.testing.assert_array_equal(found, session_of(before, library).run(None, feed)[0])
        assert_each_near(found, fused, 2e-3)


def test_no_rows_are_no_work(cpu_library):
    model = model_of("LinearResidual", "fp16", 8, 24)
    assert run(model, cpu_library, feed_of(model, 0)).shape == (1, 0, 24)


@pytest.mark.parametrize(("name", "value", "sentence"), [
    ("HIMAR_LINEAR", "off", r"HIMAR_LINEAR is 'off'; it must be 0, 1 or separate"),
    ("HIMAR_LINEAR_TUNE", "yes", r"HIMAR_LINEAR_TUNE is 'yes'; it must be 1 to time algorithms, or 0"),
])  # fmt: skip
def test_a_variable_that_says_nothing_is_refused(cpu_library, monkeypatch, name, value, sentence):
    monkeypatch.setenv(name, value)
    with pytest.raises(Exception, match=sentence):
        session_of(model_of("Linear", "fp16", 8, 8), cpu_library)


def test_inputs_of_other_shapes_are_refused_by_number(cpu_library):
    model = model_of("LinearResidual", "fp16", 8, 16)
    feed = feed_of(model, 4)
    feed["total"] = feed["total"][:, :3]
    with pytest.raises(Exception, match=r"input 3 of LinearResidual is \(1, 3, 16\), which does not fit the first"):
        run(model, cpu_library, feed)
    feed = feed_of(model, 4)
    feed["x"] = feed["x"][..., :5]
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[-1].dim_param = f"{value.name} width"
    with pytest.raises(
        Exception, match=r"input 1 of LinearResidual is \(8, 16\), which does not fit the first, \(1, 4, 5\)"
    ):
        run(model, cpu_library, feed)


@pytest.mark.parametrize("change", ["another reader", "a result", "weights that are computed", "a bias for one value"])
def test_a_product_that_is_needed_otherwise_stays_alone(change):
    model = separate("Linear", "fp16", 8, 16)
    if change == "another reader":
        model.graph.node.append(helper.make_node("Identity", ["product"], ["copy"]))
    elif change == "a result":
        model.graph.output.append(helper.make_tensor_value_info("product", TensorProto.FLOAT16, ["r", "m", 16]))
    elif change == "weights that are computed":
        model.graph.node[1].input[1] = "elsewhere"
    else:
        model.graph.initializer[1].dims[0] = 1
    before = list(model.graph.node)
    join_linear_layers(model, torch.float16)
    assert list(model.graph.node) == before and not model.functions


def test_a_residual_that_its_norm_follows_stays_theirs():
    """As many bytes move either way; see `linear`."""
    model = separate("LinearResidual", "fp16", 8, 16)
    model.graph.node[2].op_type = "ResidualNormToHalf"
    model.graph.node[2].input.extend(["w", "b"])
    before = list(model.graph.node)
    join_linear_layers(model, torch.float16)
    assert list(model.graph.node) == before


def cuda() -> tuple[Path, str]:
    library = find_library()
    if library is None or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the operators are not compiled (make cuda), or ONNX Runtime has no CUDA here")
    onnxruntime.preload_dlls()
    return library, "CUDAExecutionProvider"


GPU_SIZES = [(2048, 512, 2048), (256, 768, 3072), (37, 3072, 768), (1, 768, 768), (37, 72, 40), (3, 13, 17)]


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["whole", "separate", "tuned"])
@pytest.mark.parametrize("size", GPU_SIZES, ids=str)
@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("name", ENDS)
def test_a_linear_layer_on_a_gpu_gives_its_formula(monkeypatch, name, precision, size, way):
    """Twice, and equal bit for bit. cuBLASLt's tanh may be the GPU's own, 2^-11 from exact."""
    library, provider = cuda()
    monkeypatch.setenv("HIMAR_LINEAR", "separate" if way == "separate" else "")
    monkeypatch.setenv("HIMAR_LINEAR_TUNE", "1" if way == "tuned" else "")
    rows, depth, width = size
    model = model_of(name, precision, depth, width)
    feed = feed_of(model, rows)
    rounded = (2.0**-11 if precision == "fp16" else 2.0**-8) if way == "separate" else 0.0
    first, again = (run(model, library, feed, provider) for _ in range(2))
    require_close(first, model, precision, feed, 4e-6 + rounded, 3e-4)
    np.testing.assert_array_equal(first, again)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ENDS)
def test_a_recorded_linear_layer_gives_what_it_gives_otherwise(name):
    """With other inputs at the same addresses, as a CUDA graph is replayed."""
    library, provider = cuda()
    model = model_of(name, "fp16", 512, 2048)
    recorded = session_of(model, library, (provider, {"enable_cuda_graph": "1"}))
    feeds = [feed_of(model, rows) for rows in (256, 256)]
    feeds[1] = {key: -0.5 * value for key, value in feeds[1].items()}
    binding = recorded.io_binding()
    held = {key: onnxruntime.OrtValue.ortvalue_from_numpy(value, "cuda", 0) for key, value in feeds[0].items()}
    made = onnxruntime.OrtValue.ortvalue_from_shape_and_type((1, 256, 2048), np.float32, "cuda", 0)
    for key, value in held.items():
        binding.bind_ortvalue_input(key, value)
    binding.bind_ortvalue_output("y", made)
    plain = session_of(model, library, provider)
    for feed in (feeds[0], feeds[0], feeds[1], feeds[0]):
        for key, value in feed.items():
            held[key].update_inplace(value)
        recorded.run_with_iobinding(binding)
        np.testing.assert_array_equal(made.numpy(), plain.run(None, feed)[0])


def compiled(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "program.cpp").write_text(f'#include "cublas_lt.cuh"\n{text}')
    compiler = shutil.which("c++") or shutil.which("g++")
    assert compiler, "this test needs a C++17 compiler"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", str(source_directory())]
    command = [compiler, *flags, str(tmp_path / "program.cpp"), "-o", str(tmp_path / "program"), "-ldl"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(("library", "sentence"), [
    ("libno-such-cublas.so.1", "neither libno-such-cublas.so.1 can be loaded (libno-such-cublas.so.1: cannot open"),
    ("libdl.so.2", "the cuBLASLt that is loaded has no cublasLtCreate; install that of CUDA 12 or 13"),
])  # fmt: skip
def test_a_cublaslt_that_is_missing_or_another_librarys_is_named(tmp_path, library, sentence):
    program = """
#include <cstdio>
int main(int, char** arguments) {
    try {
        himar::fused::lt::Library library({arguments[1]});
    } catch (const std::exception& error) {
        std::puts(error.what());
    }
}
"""
    done = compiled(tmp_path, program)
    assert done.returncode == 0, done.stderr
    said = subprocess.run([tmp_path / "program", library], capture_output=True, text=True, check=True).stdout
    assert sentence in said and "set HIMAR_LINEAR to 0" in said


HEADER_PROGRAM = """
#include <cublasLt.h>
namespace lt = himar::fused::lt;
static_assert(lt::kFloat32 == CUDA_R_32F && lt::kFloat16 == CUDA_R_16F && lt::kBfloat16 == CUDA_R_16BF);
static_assert(lt::kInFloat32 == CUBLAS_COMPUTE_32F && CUBLAS_STATUS_SUCCESS == 0 && CUBLAS_STATUS_NOT_SUPPORTED == 15);
static_assert(lt::kNothing == CUBLASLT_EPILOGUE_DEFAULT && lt::kBias == CUBLASLT_EPILOGUE_BIAS);
static_assert(lt::kGeluBias == CUBLASLT_EPILOGUE_GELU_BIAS && lt::kEpilogue == CUBLASLT_MATMUL_DESC_EPILOGUE);
static_assert(lt::kBiasPointer == CUBLASLT_MATMUL_DESC_BIAS_POINTER && lt::kTurnA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(lt::kScaleOfA == CUBLASLT_MATMUL_DESC_A_SCALE_POINTER && lt::kE4m3 == CUDA_R_8F_E4M3);
static_assert(lt::kScaleOfB == CUBLASLT_MATMUL_DESC_B_SCALE_POINTER && CUBLAS_OP_T == 1);
static_assert(lt::kScaleOfD == CUBLASLT_MATMUL_DESC_D_SCALE_POINTER);
static_assert(lt::kBiasType == CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE && sizeof(lt::Type) == sizeof(std::int32_t));
static_assert(lt::kMostWorkspace == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(lt::kAlignmentOfA == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(lt::kAlignmentOfB == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(lt::kAlignmentOfC == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(lt::kAlignmentOfD == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(sizeof(lt::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(lt::Found) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(lt::Found, workspace) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(lt::Found, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));

// Types of arguments by size and kind: what a call passes.
template <class... A>
struct Kinds {};
template <class A>
using Kind = std::conditional_t<std::is_pointer_v<A>, void*, std::conditional_t<std::is_enum_v<A>, int, A>>;
template <class R, class... A>
Kinds<Kind<R>, Kind<A>...> kinds(R (*)(A...));
#define SAME(member, function) \\
    static_assert(std::is_same_v<decltype(kinds(std::declval<lt::Library>().member)), decltype(kinds(&function))>)
SAME(create, cublasLtCreate);
SAME(matmul, cublasLtMatmul);
SAME(algorithms, cublasLtMatmulAlgoGetHeuristic);
SAME(make_description, cublasLtMatmulDescCreate);
SAME(destroy_description, cublasLtMatmulDescDestroy);
SAME(set, cublasLtMatmulDescSetAttribute);
SAME(make_layout, cublasLtMatrixLayoutCreate);
SAME(destroy_layout, cublasLtMatrixLayoutDestroy);
SAME(make_preference, cublasLtMatmulPreferenceCreate);
SAME(destroy_preference, cublasLtMatmulPreferenceDestroy);
SAME(prefer, cublasLtMatmulPreferenceSetAttribute);
SAME(words_of, cublasLtGetStatusString);
int main() {}
"""


def test_what_is_said_of_cublaslt_is_what_its_header_says(tmp_path):
    """Where nvcc finds one, or in the folder $CUBLAS_INCLUDE, as the package nvidia-cublas has it."""
    if not (nvcc := shutil.which("nvcc")):
        pytest.skip("there is no nvcc here")
    program = tmp_path / "program.cpp"
    program.write_text(f'#include "cublas_lt.cuh"\n{HEADER_PROGRAM}')
    folders = [source_directory(), *filter(None, [os.environ.get("CUBLAS_INCLUDE")])]
    command = [nvcc, "-std=c++17", "-x", "c++", "-c", *(f"-I{each}" for each in folders), str(program)]
    done = subprocess.run([*command, "-o", str(tmp_path / "program.o")], capture_output=True, text=True)
    if "cublasLt.h: No such file" in done.stderr:
        pytest.skip("there is no header of cuBLASLt here")
    assert done.returncode == 0, done.stderr
