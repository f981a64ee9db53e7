"""int8 with scales fixed at the build: the formula in integers, ranges, a scale per timestep, NaN, rows and threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from himar_export.graph import quantise
from himar_export.graph.fixed_scales import LEVELS, MARGIN, fixed_scale, timed_scale
from himar_export.graph.observed import Observations, Range, observe
from himar_export.graph.quantise import observed_values, quantise_matmuls, quantise_weight
from himar_export.make.build import BuildRequest, build
from himar_kernels import BuildError, VerificationError
from himar_runtime import Pipeline
from tests.closeness import assert_each_near, assert_near

RNG = np.random.default_rng(6)
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
WIDTH, OUT = 48, 20


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def product(weight: np.ndarray, bias: np.ndarray) -> ir.Model:
    """y = x·W + b."""
    return graph(["x -> MatMul w -> p", "p -> Add b -> q", "q -> Identity -> y"], {"w": weight, "b": bias})


def modulated(table: np.ndarray, weights: dict[str, np.ndarray]) -> ir.Model:
    """h = SiLU(table[t] + z); y = (x · (h·A + a) + (h·B + b))·C."""
    lines = [
        "table -> Gather t -> row", "row -> Add z -> c", "c -> Sigmoid -> s", "c -> Mul s -> h",
        "h -> MatMul A -> hA", "hA -> Add a -> scale", "h -> MatMul B -> hB", "hB -> Add b -> shift",
        "x -> Mul scale -> xs", "xs -> Add shift -> m", "m -> MatMul C -> q", "q -> Identity -> y",
    ]  # fmt: skip
    return graph(lines, {"table": table, **weights}, ("x", "z"))


def graph(lines: list[str], arrays: dict[str, np.ndarray], inputs: tuple[str, ...] = ("x",)) -> ir.Model:
    nodes = []
    for line in lines:
        first, operator, result = line.split(" -> ")
        kind, *more = operator.split()
        nodes.append(onnx.helper.make_node(kind, [first, *more], [result]))
    values = [onnx.helper.make_tensor_value_info(name, FLOAT, ["rows", WIDTH]) for name in inputs]
    if "table" in arrays:
        values.append(onnx.helper.make_tensor_value_info("t", INT64, [1]))
    made = onnx.helper.make_graph(
        nodes,
        "graph",
        values,
        [onnx.helper.make_tensor_value_info("y", FLOAT, ["rows", OUT])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def session(model: ir.Model, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def seen(model: ir.Model, *calls: dict[str, np.ndarray]) -> dict[str, Range]:
    """Run a copy of a graph that observes itself."""
    copy = ir.from_proto(ir.to_proto(model))
    observe(copy, observed_values(copy, ()))
    running, found = session(copy), Observations()
    names = [output.name for output in running.get_outputs()]
    for call in calls:
        found.add(dict(zip(names, running.run(None, call), strict=True)))
    return found.ranges()


def of(values: np.ndarray) -> Range:
    return Range(values.min(axis=0), values.max(axis=0), (values**2).mean(axis=0))


def test_what_is_observed_are_the_ranges_of_all_calls():
    model, calls = product(normal(WIDTH, OUT), normal(OUT)), [normal(5, WIDTH), 2 * normal(5, WIDTH)]
    found = seen(model, *({"x": x} for x in calls))
    assert list(found) == ["x"]
    expected = of(np.concatenate(calls))
    assert np.array_equal(found["x"].low, expected.low)
    assert np.array_equal(found["x"].high, expected.high)
    assert_each_near(found["x"].square, expected.square, 1e-6)


def test_products_are_the_formulas_integers_with_the_bias_and_saturate_beyond_the_range():
    weight, bias, x = normal(WIDTH, OUT), normal(OUT), normal(30, WIDTH)
    model, scale = product(weight, bias), fixed_scale(of(x), np.ones(WIDTH, np.float32))
    assert quantise_matmuls(model, (), {"x": of(x)}) == 1
    assert [node.op_type for node in model.graph][-5:] == [
        "QuantizeLinear", "MatMulIntegerToFloat", "Identity", "Reshape", "Add",
    ]  # fmt: skip
    integers, outputs = quantise_weight(weight)
    running, wide = session(model), np.concatenate([x, 3 * x])
    q = np.clip(np.rint(wide / scale.step[0]) + scale.zero, 0, LEVELS).astype(np.int64) - scale.zero
    expected = (q @ integers.astype(np.int64)) * (outputs.astype(np.float64) * scale.step[0]) + bias
    assert_each_near(running.run(None, {"x": wide})[0], expected, 1e-5)
    assert_near(running.run(None, {"x": x})[0], x @ weight + bias, 0.02)
    assert np.abs(q[:30]).max() < np.abs(q[30:]).max()
    assert np.float32(LEVELS) * scale.step[0] == pytest.approx(MARGIN * (x.max() - x.min()))


def test_an_input_that_was_always_zero_gives_the_bias():
    model, bias, zeros = product(normal(WIDTH, OUT), normal(OUT)), normal(OUT), np.zeros((3, WIDTH), np.float32)
    model.graph.initializers["b"].const_value = ir.tensor(bias, name="b")
    quantise_matmuls(model, (), {"x": of(zeros)})
    assert np.array_equal(session(model).run(None, {"x": zeros})[0], np.tile(bias, (3, 1)))


def example() -> tuple[ir.Model, dict[str, np.ndarray]]:
    """A modulated matmul whose channels differ a thousand times, and an input of it at timestep 2."""
    spread = np.geomspace(0.03, 30, WIDTH).astype(np.float32)
    weights = {"A": normal(WIDTH, WIDTH) * spread, "a": spread, "B": normal(WIDTH, WIDTH) * spread, "b": normal(WIDTH)}
    table = np.stack([normal(WIDTH), 5 * normal(WIDTH), 0.2 * normal(WIDTH)])
    model = modulated(table, {**weights, "C": normal(WIDTH, OUT) / spread[:, None]})
    return model, {"x": normal(40, WIDTH), "z": normal(40, WIDTH), "t": np.array([2])}


def test_channels_and_timesteps_that_differ_keep_their_digits(monkeypatch):
    model, inputs = example()
    plain = ir.from_proto(ir.to_proto(model))
    exact, found = session(model).run(None, inputs)[0], seen(model, inputs)
    assert set(found) == {"h", "z", "m"}
    assert quantise_matmuls(model, (), found) == 3
    steps = next(value for name, value in model.graph.initializers.items() if name.endswith(".steps"))
    assert steps.const_value is not None
    assert steps.const_value.numpy().argmax() == 1
    moved = session(model).run(None, inputs)[0]
    assert_near(moved, exact, 0.03)
    monkeypatch.setattr(quantise, "chosen_factors", lambda *_: None)
    quantise_matmuls(plain, (), found)
    coarse = session(plain).run(None, inputs)[0]
    assert np.linalg.norm(moved - exact) < 0.5 * np.linalg.norm(coarse - exact)


@pytest.mark.parametrize("timestep", [0, 1, 2])
def test_a_timesteps_scale_covers_what_its_silu_gives(timestep):
    table, z = np.stack([normal(WIDTH), 5 * normal(WIDTH), np.full(WIDTH, -9, np.float32)]), normal(200, WIDTH)
    m = np.exp(normal(WIDTH)).astype(np.float32)
    scale, c = timed_scale(table, of(z), m), table[timestep] + z
    values = c / (1 + np.exp(-c)) / m
    q = np.rint(values / scale.step[timestep]) + scale.zero
    assert q.min() >= 0
    assert q.max() <= LEVELS
    assert len(scale.step) == 3


def test_rows_depend_neither_on_each_other_nor_on_threads():
    model, inputs = example()
    quantise_matmuls(model, (), seen(model, inputs))
    together = session(model).run(None, inputs)[0]
    for rows in (slice(0, 1), slice(7, 20)):
        some = {name: value if name == "t" else value[rows] for name, value in inputs.items()}
        assert np.array_equal(session(model).run(None, some)[0], together[rows])
    for threads in (2, 3):
        assert np.array_equal(session(model, threads).run(None, inputs)[0], together)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_stays_so_and_leaves_others_alone(value):
    model, inputs = example()
    quantise_matmuls(model, (), seen(model, inputs))
    running = session(model)
    usual = running.run(None, inputs)[0]
    for name in ("x", "z"):
        spoilt = inputs[name].copy()
        spoilt[3, 5] = value
        y = running.run(None, {**inputs, name: spoilt})[0]
        assert np.isnan(y[3]).all()
        assert np.array_equal(np.delete(y, 3, axis=0), np.delete(usual, 3, axis=0))


def test_a_range_that_is_missing_is_said():
    model = product(normal(WIDTH, OUT), normal(OUT))
    with pytest.raises(BuildError, match=r"nothing was observed of 'x' in graph; please report this"):
        quantise_matmuls(model, (), {"other": of(normal(2, WIDTH))})


def operators(bundle: Path, component: str) -> list[str]:
    return [node.op_type for node in onnx.load(bundle / f"{component}.onnx", load_external_data=False).graph.node]


def test_transformers_and_dit_heads_have_fixed_scales_and_mlp_heads_scales_of_rows(digits_int8_bundle):
    for component in ("transformer_low", "transformer_high", "dit_head"):
        assert "ReduceMax" not in operators(digits_int8_bundle, component)
        assert "MatMulIntegerToFloat" in operators(digits_int8_bundle, component)
    assert "ReduceMax" in operators(digits_int8_bundle, "mlp_head")


def test_images_are_the_same_in_any_batch_and_number_of_threads(digits_int8_bundle):
    labels, changes = [3, 1, 4], {"low_steps": 2, "high_steps": 1, "sampling": "fast"}
    first, *others = (
        Pipeline.load(digits_int8_bundle, threads=threads).generate(labels, seed=4, **changes).latents
        for threads in (1, 2, 3)
    )
    assert all(np.array_equal(first, other) for other in others)
    alone = Pipeline.load(digits_int8_bundle, threads=2).generate(labels[2:], seed=4, first_index=2, **changes)
    assert np.array_equal(alone.latents[0], first[2])


def test_builds_observe_the_same_and_leave_nothing_behind(tmp_path, small_checkpoint, monkeypatch):
    checkpoint = small_checkpoint(tmp_path / "m.safetensors", 1)
    for name in ("a", "b"):
        build(BuildRequest(checkpoint, tmp_path / name, precision="int8"))
    for file in ("dit_head.onnx", "transformer_low.onnx", "weights.bin"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()

    def fail(*_: object) -> None:
        raise VerificationError("stopped")

    monkeypatch.setattr("himar_export.make.calibrate.ObservingEngine", fail)
    with pytest.raises(VerificationError, match="stopped"):
        build(BuildRequest(checkpoint, tmp_path / "c", precision="int8"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "m.safetensors"]
