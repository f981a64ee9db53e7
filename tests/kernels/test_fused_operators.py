"""Our operators for ONNX Runtime: compiled for the CPU, and on a GPU, they give what their functions define."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from himar_export.graph.elementwise import DOMAIN, VERSION, add_functions, join_sums_and_norms
from himar_kernels import BuildError, EngineError
from himar_kernels.build.fused import compile_for_cpu, compile_for_cuda
from himar_kernels.build.fused_library import VARIABLE, find_library, library_path
from tests.closeness import assert_each_near
from tests.kernels.operator_sessions import run

X, ROWS, ROW = "x", "rows", "row"  # the float32 stream or parameters of a norm; values of matmuls; a bias
PACKED, PACKED_ROW = "packed", "packed row"  # values and biases of matmuls that make several parts
NORM, GATE, MODULATION = ["weight", "weight"], [PACKED, PACKED_ROW], [PACKED, PACKED_ROW, PACKED, PACKED_ROW]
PARTS = 3
PLACES = {"gate_part": 1, "scale_part": 2, "shift_part": 0}

# Of each operator: its inputs, and the types of its outputs.
OPERATORS = {
    "NormToHalf": ([X, *NORM], ["half"]),
    "NormToBfloat16": ([X, *NORM], ["half"]),
    "ModulatedNorm": ([X, *NORM, *MODULATION], ["half"]),
    "ModulatedNormToFloat": ([X, *NORM, *MODULATION], ["float"]),
    "Residual": ([X, ROWS, ROW], ["float"]),
    "GatedResidual": ([X, ROWS, ROW, *GATE], ["float"]),
    "ResidualNormToHalf": ([X, ROWS, ROW, *NORM], ["float", "half"]),
    "ResidualNormToBfloat16": ([X, ROWS, ROW, *NORM], ["float", "half"]),
    "GatedResidualModulatedNorm": ([X, ROWS, ROW, *GATE, *NORM, *MODULATION], ["float", "half"]),
    "GatedResidualModulatedNormToFloat": ([X, ROWS, ROW, *GATE, *NORM, *MODULATION], ["float", "float"]),
    "BiasGelu": ([ROWS, ROW], ["half"]),
    "BiasGeluTanh": ([ROWS, ROW], ["half"]),
    "BiasSilu": ([ROWS, ROW], ["half"]),
    "BiasSiluToHalf": ([X, "weight"], ["half"]),
    "BiasSiluToBfloat16": ([X, "weight"], ["half"]),
}
HALVES = {"fp16": (TensorProto.FLOAT16, torch.float16), "bf16": (TensorProto.BFLOAT16, torch.bfloat16)}
CASES = [
    (name, precision)
    for name in OPERATORS
    for precision in HALVES
    if not name.endswith("ToBfloat16" if precision == "fp16" else "ToHalf")
]


def shapes_of(name: str, rows: int | str, width: int) -> list[tuple[int | str, ...]]:
    """The shapes of an operator's inputs."""
    widths = {PACKED: PARTS * width, PACKED_ROW: PARTS * width}
    sizes = [(kind, widths.get(kind, width)) for kind in OPERATORS[name][0]]
    return [(rows, size) if kind in (X, ROWS, PACKED) else (size,) for kind, size in sizes]


def model_of(name: str, precision: str, width: int, places: dict[str, int] = PLACES) -> onnx.ModelProto:
    """An operator between float32 inputs and float32 outputs, and the function that defines it."""
    kinds, made = OPERATORS[name]
    half, dtype = HALVES[precision]
    nodes, inputs, given = [], [], []
    for number, (kind, shape) in enumerate(zip(kinds, shapes_of(name, "m", width), strict=True)):
        source = f"input{number}"
        inputs.append(helper.make_tensor_value_info(source, TensorProto.FLOAT, shape))
        if kind not in (X, "weight"):
            nodes.append(helper.make_node("Cast", [source], [f"half{number}"], to=half))
            source = f"half{number}"
        given.append(source)
    attributes = {"epsilon": 1e-3} if "Norm" in name else {}
    wanted = {"gate_part": "Gated", "scale_part": "Modulated", "shift_part": "Modulated"}
    attributes |= {key: place for key, place in places.items() if wanted[key] in name}
    made_names = [f"made{i}" for i in range(len(made))]
    nodes.append(helper.make_node(name, given, made_names, domain=DOMAIN, **attributes))
    nodes += [helper.make_node("Cast", [each], [f"y{i}"], to=TensorProto.FLOAT) for i, each in enumerate(made_names)]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["m", width]) for i in range(len(made))]
    sets = [helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(helper.make_graph(nodes, name, inputs, outputs), opset_imports=sets, ir_version=10)
    add_functions(model, dtype)
    onnx.checker.check_model(model)
    assert [function.name for function in model.functions] == [name]
    return model


def inputs_of(name: str, width: int, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(width)
    shapes = shapes_of(name, rows, width)
    return {f"input{i}": 2 * rng.standard_normal(shape, np.float32) for i, shape in enumerate(shapes)}


def in_double(name: str, precision: str, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The operator in float64, of inputs rounded to half precision."""
    dtype = HALVES[precision][1]
    kinds = OPERATORS[name][0]
    given = [torch.from_numpy(value) for value in feed.values()]
    given = [g.double() if k in (X, "weight") else g.to(dtype).double() for g, k in zip(given, kinds, strict=True)]
    if name.startswith("Bias"):
        h = given[0] + given[1]
        function = torch.nn.functional.silu if name.startswith("BiasSilu") else torch.nn.functional.gelu
        return [(function(h, approximate="tanh") if name == "BiasGeluTanh" else function(h)).numpy()]

    def next_part(key: str) -> torch.Tensor:
        """Values and bias that come next, of the part that is meant."""
        both = given.pop(0) + given.pop(0)
        return both.chunk(PARTS, dim=-1)[PLACES[key]]

    made, x = [], given.pop(0)
    if "Residual" in name:
        h = given.pop(0) + given.pop(0)
        x = x + next_part("gate_part") * h if name.startswith("Gated") else x + h
        made.append(x.numpy())
    if "Norm" in name:
        y = torch.nn.functional.layer_norm(x, x.shape[-1:], given.pop(0), given.pop(0), 1e-3)
        if "Modulated" in name:
            y = y * next_part("scale_part") + next_part("shift_part")
        made.append(y.numpy())
    return made


def require_close(found: list, name: str, precision: str, feed: dict[str, np.ndarray]) -> None:
    """Half results lie within half a unit of their last place, and float results are those of float32."""
    for values, expected, kind in zip(found, in_double(name, precision, feed), OPERATORS[name][1], strict=True):
        unit = (2.0**-11 if precision == "fp16" else 2.0**-8) if kind == "half" else 2.0**-20
        assert np.all(np.abs(values - expected) <= unit * np.abs(expected) + 4e-6 * np.abs(expected).max())


@pytest.mark.parametrize("width", [8, 16, 24, 32, 40, 72, 13])
@pytest.mark.parametrize(("name", "precision"), CASES)
def test_an_operator_gives_its_formula(cpu_library, name, precision, width):
    """Rows of one to five vectors, of more than registers keep, and those that are read value by value."""
    feed = inputs_of(name, width, 5)
    require_close(run(model_of(name, precision, width), cpu_library, feed), name, precision, feed)


@pytest.mark.parametrize("name", [name for name, precision in CASES if precision == "fp16"])
def test_an_operators_function_gives_the_same(cpu_library, name):
    """What a session without the library runs, which rounds to half precision in between."""
    feed, model = inputs_of(name, 72, 5), model_of(name, "fp16", 72)
    for fused, plain in zip(run(model, cpu_library, feed), run(model, None, feed), strict=True):
        assert_each_near(fused, plain, 4e-3)


@pytest.mark.parametrize("name", ["dit_head", "mlp_head"])
def test_a_head_with_the_operators_is_the_head_with_their_functions(cpu_library, digits_fp16_bundle, name):
    """Every node reads its own parts of what the packed matmuls make."""
    rng, found = np.random.default_rng(0), []
    for library in (cpu_library, None):
        options = onnxruntime.SessionOptions()
        if library is not None:
            options.register_custom_ops_library(str(library))
        file = digits_fp16_bundle / f"{name}.onnx"
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        if not found:
            feed = {
                each.name: np.array([500])
                if each.name == "timestep"
                else rng.standard_normal([size if isinstance(size, int) else 3 for size in each.shape], np.float32)
                for each in session.get_inputs()
            }
        found += session.run(None, feed)
    assert_each_near(found[0], found[1], 3e-3)


@pytest.mark.parametrize(
    "value", [0.0, 6e-8, 3e-5, 6.1e-5, 1.0009765625, 2049.0, 65519.0, 65520.0, 1e6, np.inf, np.nan]
)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("precision", HALVES)
def test_values_are_rounded_as_numpy_and_torch_round(cpu_library, value, sign, precision):
    """A norm whose weight is 0 gives its bias: zero, subnormal, tied, largest, infinite, and not a number."""
    name = "NormToHalf" if precision == "fp16" else "NormToBfloat16"
    feed = inputs_of(name, 8, 2) | {"input1": np.zeros(8, np.float32), "input2": np.full(8, sign * value, np.float32)}
    (found,) = run(model_of(name, precision, 8), cpu_library, feed)
    wanted = torch.full((2, 8), sign * value).to(HALVES[precision][1]).float().numpy()
    np.testing.assert_array_equal(found, wanted)


def test_no_rows_are_no_work(cpu_library):
    feed = inputs_of("BiasSilu", 8, 0)
    assert run(model_of("BiasSilu", "fp16", 8), cpu_library, feed)[0].shape == (0, 8)


def test_inputs_of_other_shapes_are_refused_by_number(cpu_library):
    feed = inputs_of("Residual", 8, 4)
    feed["input1"] = feed["input1"][:3]
    with pytest.raises(Exception, match=r"input 1 of Residual is \(3, 8\), which does not fit the first, \(4, 8\)"):
        run(model_of("Residual", "fp16", 8), cpu_library, feed)


@pytest.mark.parametrize(("key", "place"), [("gate_part", 3), ("gate_part", -1), ("scale_part", 3)])
def test_a_part_that_is_not_there_is_refused_by_number(cpu_library, key, place):
    name = "GatedResidualModulatedNorm"
    model, feed = model_of(name, "fp16", 8, {**PLACES, key: place}), inputs_of(name, 8, 4)
    number = 3 if key == "gate_part" else 7
    with pytest.raises(Exception, match=rf"input {number} of {name} is \(4, 24\), .*\(4, 8\), and part {place}; build"):
        run(model, cpu_library, feed)


@pytest.mark.parametrize(
    ("number", "shape", "message"),
    [(3, (4, 20), r"\(4, 20\), which does not fit the first, \(4, 8\), and part 1"),
     (3, (3, 24), r"\(3, 24\), which does not fit the first"), (4, (8,), r"\(8\), which does not fit input 3")],
)  # fmt: skip
def test_parts_of_other_shapes_are_refused_by_number(cpu_library, number, shape, message):
    feed = inputs_of("GatedResidual", 8, 4) | {f"input{number}": np.zeros(shape, np.float32)}
    model = model_of("GatedResidual", "fp16", 8)
    for value, size in zip(model.graph.input[number].type.tensor_type.shape.dim, shape, strict=True):
        value.dim_value = size
    with pytest.raises(Exception, match=f"input {number} of GatedResidual is {message}"):
        run(model, cpu_library, feed)


def test_nodes_of_earlier_bundles_whose_modulations_are_whole_run_as_before(cpu_library):
    """They have no attributes that name parts, and as many inputs."""
    name = "GatedResidualModulatedNorm"
    model, feed = model_of(name, "fp16", 8, {}), inputs_of(name, 8, 4)
    del model.functions[:]
    for number in (3, 4, 7, 8, 9, 10):
        feed[f"input{number}"] = np.ascontiguousarray(feed[f"input{number}"][..., :8])
        model.graph.input[number].type.tensor_type.shape.dim[-1].dim_value = 8
    found = run(model, cpu_library, feed)
    packed = {
        key: np.tile(value, PARTS) if int(key[5:]) in (3, 4, 7, 8, 9, 10) else value for key, value in feed.items()
    }
    require_close(found, name, "fp16", packed)


def node(name: str, inputs: list[str], output: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(name, inputs, [output], domain=DOMAIN, **attributes)


def graph_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", [], []))


def test_a_sum_and_its_norm_become_one_operator() -> None:
    """In the norm's place, where its modulation is known; the sum still goes where it went."""
    modulation = ["w", "b", "scale", "s0", "shift", "t0"]
    model = graph_of(
        node("ModulatedNorm", ["x", *modulation], "first"),
        node("GatedResidual", ["x", "h", "h0", "gate", "g0"], "sum", gate_part=2),
        helper.make_node("MatMul", ["condition", "weights"], ["scale"]),
        node("ModulatedNorm", ["sum", *modulation], "normal", scale_part=1, shift_part=0),
        node("GatedResidual", ["sum", "k", "k0", "gate", "g0"], "last"),
        node("ModulatedNormToFloat", ["last", *modulation], "end"),
    )
    join_sums_and_norms(model)
    found = [(each.op_type, list(each.output)) for each in model.graph.node]
    assert found == [
        ("ModulatedNorm", ["first"]),
        ("MatMul", ["scale"]),
        ("GatedResidualModulatedNorm", ["sum", "normal"]),
        ("GatedResidualModulatedNormToFloat", ["last", "end"]),
    ]
    assert list(model.graph.node[2].input) == ["x", "h", "h0", "gate", "g0", *modulation]
    parts = {each.name: each.i for each in model.graph.node[2].attribute}
    assert parts == {"gate_part": 2, "scale_part": 1, "shift_part": 0}


def test_a_sum_that_is_needed_before_its_norm_or_has_another_stays_alone() -> None:
    early = helper.make_node("Identity", ["sum"], ["copy"])
    total = node("Residual", ["x", "h", "h0"], "sum")
    for nodes in ((total, early, node("NormToHalf", ["sum", "w", "b"], "y")),
                  (total, node("ModulatedNorm", ["sum", "w", "b", "s", "s0", "t", "t0"], "y"))):  # fmt: skip
        model = graph_of(*nodes)
        join_sums_and_norms(model)
        assert list(model.graph.node) == list(nodes)


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 512, 768, 1024, 1280, 2048, 13])
@pytest.mark.parametrize(("name", "precision"), CASES)
def test_an_operator_on_a_gpu_gives_its_formula(name, precision, width):
    library = find_library()
    if library is None or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the operators are not compiled (make cuda), or ONNX Runtime has no CUDA here")
    onnxruntime.preload_dlls()
    feed = inputs_of(name, width, 37)
    require_close(run(model_of(name, precision, width), library, feed, "CUDA"), name, precision, feed)


def test_the_library_is_found_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert find_library() == (library_path() if library_path().exists() else None)
    monkeypatch.setenv(VARIABLE, "")
    assert find_library() is None
    file = tmp_path / "mine.so"
    monkeypatch.setenv(VARIABLE, str(file))
    with pytest.raises(EngineError, match=r"mine\.so', which is not a file; unset it"):
        find_library()
    file.touch()
    assert find_library() == file


def test_without_headers_nothing_is_compiled(tmp_path):
    with pytest.raises(BuildError, match=r"holds no onnxruntime_cxx_api\.h"):
        compile_for_cuda(tmp_path, tmp_path / "library.so")
    assert not (tmp_path / "library.so").exists()


@pytest.mark.slow
def test_nvcc_compiles_the_library_and_it_can_be_registered(include, tmp_path):
    """Loading it needs no GPU; its operators are those of CUDA, so that a session on the CPU runs the functions."""
    if not shutil.which("nvcc"):
        pytest.skip("there is no nvcc here")
    assert compile_for_cuda(include, tmp_path / "library.so", ["90a"]) == ()
    onnxruntime.SessionOptions().register_custom_ops_library(str(tmp_path / "library.so"))


def test_an_unknown_architecture_is_named(include, tmp_path):
    if not shutil.which("nvcc"):
        pytest.skip("there is no nvcc here")
    with pytest.raises(BuildError, match="knows none of the architectures 7"):
        compile_for_cuda(include, tmp_path / "library.so", ["7"])


def test_a_compiler_that_is_not_there_and_a_place_that_cannot_be_made_are_named(include, tmp_path):
    with pytest.raises(BuildError, match="the compiler no-such-compiler cannot be run"):
        compile_for_cpu("no-such-compiler", include, tmp_path / "a" / "library.so")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    compiler = shutil.which("true")
    with pytest.raises(BuildError, match=r"file/b cannot be made \(.*choose another --out"):
        compile_for_cpu(compiler, include, tmp_path / "file" / "b" / "library.so")
