"""Our operators that end in fp8, compiled for the CPU: e4m3 bit for bit, and their formulas."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper

from himar_export.graph.elementwise import DOMAIN, VERSION, add_functions
from himar_export.graph.linear import join_linear_layers
from tests.closeness import assert_each_near
from tests.kernels import operator_sessions

E4M3 = ml_dtypes.float8_e4m3fn
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
X, ROWS, ROW, PACKED, PACKED_ROW, STEP = "x", "rows", "row", "packed", "packed_row", "step"
NORM, MODULATION, GATE = [ROW, ROW], [PACKED, PACKED_ROW] * 2, [PACKED, PACKED_ROW]
OPERATORS = {
    "NormToFp8": [X, *NORM, STEP],
    "ModulatedNormToFp8": [X, *NORM, *MODULATION, STEP],
    "ResidualNormToFp8": [X, ROWS, "h_row", *NORM, STEP],
    "GatedResidualModulatedNormToFp8": [X, ROWS, "h_row", *GATE, *NORM, *MODULATION, STEP],
    "BiasGeluToFp8": [ROWS, "h_row", STEP],
    "BiasGeluTanhToFp8": [ROWS, "h_row", STEP],
    "BiasSiluToFp8": [ROWS, "h_row", STEP],
    "BiasSiluToFp8 of float32": [X, ROW, STEP],
}
"""Inputs of each; a row of half precision is "h_row", of float32 ROW."""
PLACES = {"gate_part": 0, "scale_part": 2, "shift_part": 1}
PARTS = 3
HALVES = (ROWS, "h_row", PACKED, PACKED_ROW)


def model_of(name: str, width: int) -> onnx.ModelProto:
    """An operator between float32 inputs and float32 outputs, and the function that defines it."""
    operator, nodes, inputs, given = name.split()[0], [], [], []
    for number, kind in enumerate(OPERATORS[name]):
        source = f"input{number}"
        inputs.append(helper.make_tensor_value_info(source, FLOAT, shape_of(kind, "m", width)))
        if kind in HALVES:
            nodes.append(helper.make_node("Cast", [source], [f"half{number}"], to=HALF))
            source = f"half{number}"
        given.append(source)
    attributes: dict[str, float | int] = {"epsilon": 1e-3} if "Norm" in name else {}
    wanted = {"gate_part": "Gated", "scale_part": "Modulated", "shift_part": "Modulated"}
    attributes |= {key: place for key, place in PLACES.items() if wanted[key] in name}
    made = ["total", "made"] if "Residual" in name else ["made"]
    nodes.append(helper.make_node(operator, given, made, domain=DOMAIN, **attributes))
    nodes.append(helper.make_node("Cast", ["made"], ["y"], to=FLOAT))
    outputs = [helper.make_tensor_value_info("y", FLOAT, ["m", width])]
    sets = [helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(helper.make_graph(nodes, operator, inputs, outputs), opset_imports=sets, ir_version=10)
    add_functions(model, torch.float16)
    onnx.checker.check_model(model)
    return model


def shape_of(kind: str, rows: int | str, width: int) -> tuple[int | str, ...]:
    if kind == STEP:
        return ()
    size = PARTS * width if kind in (PACKED, PACKED_ROW) else width
    return (rows, size) if kind in (X, ROWS, PACKED) else (size,)


def inputs_of(name: str, width: int, rows: int, step: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(width)
    return {
        f"input{i}": np.full((), step, np.float32)
        if kind == STEP
        else 2 * rng.standard_normal(shape_of(kind, rows, width), np.float32)  # type: ignore[arg-type]
        for i, kind in enumerate(OPERATORS[name])
    }


def run(model: onnx.ModelProto, library: Path | None, feed: dict[str, np.ndarray], provider: str = "CPU") -> np.ndarray:
    return operator_sessions.run(model, library, feed, provider)[0]


def in_double(name: str, feed: dict[str, np.ndarray]) -> np.ndarray:
    """The operator in float64 before its rounding to fp8, in units of the scale."""
    given = [
        torch.from_numpy(value).to(torch.float16 if kind in HALVES else torch.float32).double()
        for value, kind in zip(feed.values(), OPERATORS[name], strict=True)
    ]
    step = given.pop()

    def part(key: str) -> torch.Tensor:
        return (given.pop(0) + given.pop(0)).chunk(PARTS, dim=-1)[PLACES[key]]

    if name.startswith("Bias"):
        h = given[0] + given[1]
        if "Silu" in name:
            return (F.silu(h) / step).numpy()
        return (F.gelu(h, approximate="tanh" if "Tanh" in name else "none") / step).numpy()
    x = given.pop(0)
    if "Residual" in name:
        h = given.pop(0) + given.pop(0)
        x = x + part("gate_part") * h if "Gated" in name else x + h
    y = F.layer_norm(x, x.shape[-1:], given.pop(0), given.pop(0), 1e-3)
    if "Modulated" in name:
        y = y * part("scale_part") + part("shift_part")
    return (y / step).numpy()


@pytest.mark.parametrize("width", [8, 16, 40, 72, 13])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_gives_its_formula_rounded_once(cpu_library, name, width):
    """Within half a unit of the last of e4m3's four binary digits, or of its least number; the rest is float32's."""
    feed = inputs_of(name, width, 5, 2.0**-4)
    require_close(run(model_of(name, width), cpu_library, feed), name, feed)


def require_close(found: np.ndarray, name: str, feed: dict[str, np.ndarray]) -> None:
    exact = np.clip(in_double(name, feed), -448, 448)
    assert np.abs(exact).max() > 8
    allowed = np.maximum(np.abs(exact) * 2.0**-4, 2.0**-10) * (1 + 1e-4)
    assert np.all(np.abs(found - exact) <= allowed + 1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("name", OPERATORS)
def test_its_function_gives_the_same(cpu_library, name):
    """What a session without the library runs. Values next to the middle of two may go to either: a unit of 1/8."""
    feed, model = inputs_of(name, 72, 5, 2.0**-4), model_of(name, 72)
    fused, plain = run(model, cpu_library, feed), run(model, None, feed)
    assert np.mean(fused != plain) < 0.02
    assert_each_near(fused, plain, 0.15)


def rounded(values: np.ndarray, library: Path | None, step: float) -> np.ndarray:
    """A norm whose weight is 0 gives its bias."""
    feed = inputs_of("NormToFp8", values.size, 1, step)
    feed |= {"input1": np.zeros(values.size, np.float32), "input2": values.astype(np.float32)}
    return run(model_of("NormToFp8", values.size), library, feed)[0]


def patterns() -> dict[str, np.ndarray]:
    """Every half value, and float32 values of random bits and around the borders of e4m3's numbers."""
    every = np.arange(65_536, dtype=np.uint16).view(np.float16).astype(np.float32)
    bits = np.random.default_rng(0).integers(0, 2**32, 65_536, np.uint32).view(np.float32)
    numbers = np.arange(127, dtype=np.uint8).view(E4M3).astype(np.float32)
    middles = (numbers[1:] + numbers[:-1]) / 2
    near = np.concatenate([np.nextafter(middles, way) for way in (-np.inf, np.inf)] + [middles, numbers])
    far = np.float32([448, 463.99, 464, 464.01, 480, 1e30, 3.4e38, np.inf, np.nan])
    return {"halves": every, "random": bits, "borders": np.concatenate([near, -near, far, -far])}


@pytest.mark.parametrize("step", [1.0, 2.0**-14, 2.0**5])
@pytest.mark.parametrize("kind", ["halves", "random", "borders"])
def test_values_are_rounded_as_quantize_linear_rounds_and_saturate(cpu_library, kind, step):
    values = patterns()[kind]
    found = rounded(values, cpu_library, step)
    np.testing.assert_array_equal(found, rounded(values, None, step))
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = np.clip(values / np.float32(step), -448, 448).astype(E4M3).astype(np.float32)
    wanted[~np.isfinite(values)] = np.nan  # e4m3 has no infinity, and the largest value would hide one
    np.testing.assert_array_equal(found, wanted)
    assert np.signbit(found[np.isfinite(values) & (values < 0)]).all()


def test_a_scale_of_more_than_one_value_is_refused_by_number(cpu_library):
    model, feed = model_of("BiasSiluToFp8", 8), inputs_of("BiasSiluToFp8", 8, 2, 1.0)
    feed["input2"] = np.ones(8, np.float32)
    model.graph.input[2].type.tensor_type.shape.dim.add().dim_value = 8
    with pytest.raises(Exception, match=r"input 2 of BiasSiluToFp8 is \(8\), which does not fit .*; build the bundle"):
        run(model, cpu_library, feed)


def linear_model(depth: int, width: int) -> onnx.ModelProto:
    """LinearFp8 of float32 values that are rounded to fp8 before it."""
    inputs = [
        helper.make_tensor_value_info(name, FLOAT, shape)
        for name, shape in (("x", ["m", depth]), ("weight", [width, depth]), ("step", []), ("weight_step", []))
    ]
    one = helper.make_tensor("one", FLOAT, [], [1.0])
    quantise = [
        helper.make_node("QuantizeLinear", [name, "one"], [f"{name}8"], output_dtype=TensorProto.FLOAT8E4M3FN)
        for name in ("x", "weight")
    ]
    node = helper.make_node("LinearFp8", ["x8", "weight8", "step", "weight_step"], ["h"], domain=DOMAIN)
    nodes = [*quantise, node, helper.make_node("Cast", ["h"], ["y"], to=FLOAT)]
    outputs = [helper.make_tensor_value_info("y", FLOAT, ["m", width])]
    sets = [helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, VERSION)]
    graph = helper.make_graph(nodes, "linear", inputs, outputs, [one])
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    add_functions(model, torch.float16)
    return model


def linear_inputs(rows: int, depth: int, width: int) -> dict[str, np.ndarray]:
    """Values that are fp8 already, of all sizes, so that nothing but the sum and its result is rounded."""
    rng = np.random.default_rng(depth)
    drawn = {"x": rng.standard_normal((rows, depth)) * 20, "weight": rng.standard_normal((width, depth)) * 2}
    values = {name: np.float32(each).astype(E4M3).astype(np.float32) for name, each in drawn.items()}
    steps = {"step": np.full((), 2.0**-5, np.float32), "weight_step": np.full((), 2.0**-7, np.float32)}
    return {**values, **steps}


def require_linear(found: np.ndarray, feed: dict[str, np.ndarray], loss: float) -> None:
    """Half an ulp of half from the exact product, and `loss` of the sum of its terms' sizes."""
    unit = float(feed["step"]) * float(feed["weight_step"])
    x, weight = feed["x"].astype(np.float64), feed["weight"].astype(np.float64)
    exact, sizes = (x @ weight.T) * unit, (np.abs(x) @ np.abs(weight).T) * unit
    assert np.all(np.abs(found - exact) <= 2.0**-11 * np.abs(exact) + loss * sizes)


@pytest.mark.parametrize("size", [(5, 16, 32), (3, 512, 48), (1, 13, 7), (2, 3, 1)])
@pytest.mark.parametrize("library", ["operator", "function"])
def test_a_linear_layer_of_fp8_gives_its_product(cpu_library, size, library):
    feed = linear_inputs(*size)
    found = run(linear_model(*size[1:]), cpu_library if library == "operator" else None, feed)
    require_linear(found, feed, 2.0**-20)


def test_no_rows_are_no_product(cpu_library):
    assert run(linear_model(16, 32), cpu_library, linear_inputs(0, 16, 32)).shape == (0, 32)


def test_not_a_number_spoils_its_row_alone(cpu_library):
    feed = linear_inputs(3, 16, 32)
    usual = run(linear_model(16, 32), cpu_library, feed)
    feed["x"][1, 4] = np.nan
    found = run(linear_model(16, 32), cpu_library, feed)
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[[0, 2]], usual[[0, 2]])


def test_a_weight_of_another_depth_is_refused_by_number(cpu_library):
    feed, model = linear_inputs(3, 16, 32), linear_model(16, 32)
    feed["weight"] = feed["weight"][:, :8]
    del model.functions[:]
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 8
    with pytest.raises(Exception, match=r"input 1 of LinearFp8 is \(32, 8\), which does not fit the first, \(3, 16\)"):
        run(model, cpu_library, feed)


def gelu_model(depth: int, width: int, joined: bool = True) -> onnx.ModelProto:
    """LinearFp8 and the GELU in fp8 that follows it: one operator where they are joined."""
    model = linear_model(depth, width)
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info("bias", FLOAT, [width]))
    graph.initializer.append(helper.make_tensor("made_step", FLOAT, [], [MADE_STEP]))
    gelu = helper.make_node("BiasGeluTanhToFp8", ["h", "half_bias", "made_step"], ["made"], domain=DOMAIN)
    graph.node[-1].input[0] = "made"
    graph.node.insert(len(graph.node) - 1, helper.make_node("Cast", ["bias"], ["half_bias"], to=HALF))
    graph.node.insert(len(graph.node) - 1, gelu)
    del model.functions[:]
    if joined:
        join_linear_layers(model, torch.float16)
        assert [node.op_type for node in graph.node if node.domain] == ["LinearGeluTanhFp8"]
    add_functions(model, torch.float16)
    onnx.checker.check_model(model)
    return model


MADE_STEP = 2.0**-6


def gelu_inputs(rows: int, depth: int, width: int) -> dict[str, np.ndarray]:
    feed = linear_inputs(rows, depth, width)
    feed["step"] = np.full((), 2.0**-5 / depth**0.5, np.float32)
    return feed | {"bias": np.random.default_rng(width).standard_normal(width, np.float32)}


def require_gelu(found: np.ndarray, feed: dict[str, np.ndarray], loss: float, gelu: float = 1e-6) -> None:
    """Half a unit of e4m3 from the formula, `loss` of the sum of its terms' sizes, and `gelu` of its argument."""
    unit = float(feed["step"]) * float(feed["weight_step"])
    x, weight = feed["x"].astype(np.float64), feed["weight"].astype(np.float64)
    bias = feed["bias"].astype(np.float16).astype(np.float64)
    h, sizes = (x @ weight.T) * unit + bias, (np.abs(x) @ np.abs(weight).T) * unit + np.abs(bias)
    exact = np.clip(F.gelu(torch.from_numpy(h), approximate="tanh").numpy() / MADE_STEP, -448, 448)
    allowed = np.maximum(np.abs(exact) * 2.0**-4, 2.0**-10) * (1 + 1e-4)
    assert np.abs(exact).max() > 8
    assert np.all(np.abs(found - exact) <= allowed + (1.2 * loss * sizes + gelu * np.abs(h)) / MADE_STEP)


@pytest.mark.parametrize("way", ["", "separate"])
@pytest.mark.parametrize("size", [(5, 16, 32), (3, 512, 48), (1, 13, 7), (37, 48, 1)])
def test_a_linear_layer_with_gelu_gives_its_formula_in_fp8(cpu_library, monkeypatch, size, way):
    """In one pass it rounds once, in two the product to half precision before."""
    monkeypatch.setenv("HIMAR_LINEAR", way)
    feed = gelu_inputs(*size)
    found = run(gelu_model(*size[1:]), cpu_library, feed)
    require_gelu(found, feed, 2.0**-20 + (2.0**-11 if way else 0.0))


def test_a_session_without_linear_layers_runs_product_and_gelu(cpu_library, monkeypatch):
    """The same numbers bit for bit as before they were joined."""
    model, before, feed = gelu_model(72, 40), gelu_model(72, 40, joined=False), gelu_inputs(5, 72, 40)
    monkeypatch.setenv("HIMAR_LINEAR", "0")
    for library in (cpu_library, None):
        options = onnxruntime.SessionOptions()
        if library is not None:
            options.register_custom_ops_library(str(library))
        found, wanted = (
            onnxruntime.InferenceSession(each.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
                None, feed
            )[0]
            for each in (model, before)
        )
        np.testing.assert_array_equal(found, wanted)
        require_gelu(found, feed, 2.0**-10)


def test_a_product_in_fp8_that_is_read_otherwise_stays_alone():
    model = gelu_model(16, 32, joined=False)
    model.graph.node.append(helper.make_node("Identity", ["h"], ["copy"]))
    before = [node.op_type for node in model.graph.node]
    join_linear_layers(model, torch.float16)
    assert [node.op_type for node in model.graph.node] == before


@pytest.mark.parametrize("name", ["dit_head", "transformer_low"])
def test_a_component_with_the_operators_is_the_component_with_their_functions(cpu_library, digits_fp8_bundle, name):
    rng, found = np.random.default_rng(0), []
    for library in (cpu_library, None):
        options = onnxruntime.SessionOptions()
        if library is not None:
            options.register_custom_ops_library(str(library))
        file = digits_fp8_bundle / f"{name}.onnx"
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        if not found:
            feed = {each.name: component_input(rng, each) for each in session.get_inputs()}
        found.append(session.run(None, feed)[-1])
    assert np.linalg.norm(found[0] - found[1]) < 0.02 * np.linalg.norm(found[1])


def component_input(rng: np.random.Generator, spec: onnxruntime.NodeArg) -> np.ndarray:
    shape = [size if isinstance(size, int) else 3 for size in spec.shape]
    if spec.type == "tensor(int64)":
        return np.full(shape, 5, np.int64)
    return rng.standard_normal(shape, np.float32)


def fp8_library() -> Path:
    """The library for CUDA, on a GPU whose matmuls take fp8; else the test is skipped with the reason."""
    from himar_kernels.build.fused_library import find_library
    from himar_runtime import Device
    from himar_runtime.queue.cuda.driver import compute_capability

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    if (library := find_library()) is None:
        pytest.skip("needs our operators, compiled: make cuda")
    if (found := compute_capability(Device("cuda", 0))) < (8, 9):
        pytest.skip(f"fp8 needs a GPU of compute capability 8.9, and this is {found[0]}.{found[1]}")
    onnxruntime.preload_dlls()
    return library


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_on_a_gpu_gives_its_formula(name):
    library, feed = fp8_library(), inputs_of(name, 512, 300, 2.0**-4)
    require_close(run(model_of(name, 512), library, feed, "CUDA"), name, feed)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["halves", "random", "borders"])
def test_a_gpu_rounds_as_the_cpu_does(kind):
    values, library = patterns()[kind][None], fp8_library()
    feed = inputs_of("NormToFp8", values.size, 1, 1.0)
    feed |= {"input1": np.zeros(values.size, np.float32), "input2": values[0]}
    found = run(model_of("NormToFp8", values.size), library, feed, "CUDA")[0]
    np.testing.assert_array_equal(found, rounded(values[0], None, 1.0))


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(1, 64, 96), (300, 512, 3072), (65536, 512, 2048), (300, 2048, 512)])
def test_a_linear_layer_of_fp8_on_a_gpu_gives_its_product(size):
    """Twice, and equal bit for bit. Tensor cores keep fewer digits of a sum than float32 has."""
    library, feed = fp8_library(), linear_inputs(*size)
    first, again = (run(linear_model(*size[1:]), library, feed, "CUDA") for _ in range(2))
    require_linear(first, feed, 2.0**-13)
    np.testing.assert_array_equal(first, again)


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["", "separate"])
@pytest.mark.parametrize("size", [(1, 64, 96), (300, 512, 2048), (65536, 512, 2048)])
def test_a_linear_layer_with_gelu_on_a_gpu_gives_its_formula(monkeypatch, size, way):
    """Twice, and equal bit for bit. cuBLASLt's tanh may be the GPU's own, 2^-11 from exact."""
    monkeypatch.setenv("HIMAR_LINEAR", way)
    library, feed = fp8_library(), gelu_inputs(*size)
    first, again = (run(gelu_model(*size[1:]), library, feed, "CUDA") for _ in range(2))
    require_gelu(first, feed, 2.0**-13 + (2.0**-11 if way else 0.0), 3e-4)
    np.testing.assert_array_equal(first, again)
