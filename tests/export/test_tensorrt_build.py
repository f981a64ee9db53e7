"""TensorRT-RTX's real builder on every component we export, in every precision, and the proof of what it built."""

import logging
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from himar import load_checkpoint, load_vae
from himar_export.families.hi_mar.components import components
from himar_export.tensorrt.build import _configure, build_engine
from himar_export.tensorrt.network import layers, parse_network
from himar_export.tensorrt.options import EngineOptions
from himar_kernels import BuildError

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
MAX_BATCH = 64
NAMES = ("transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder")
# Operations of digits by kind: all of them, then the float32 islands among them in half precision.
PRODUCTS = {
    "transformer_low": ({"matmul": 27, "attention": 4}, {"matmul": 2}),
    "transformer_high": ({"matmul": 28, "attention": 4}, {"matmul": 2}),
    "mlp_head": ({"matmul": 19}, {"matmul": 2}),
    "dit_head": ({"matmul": 40, "attention": 3}, {"matmul": 2}),
    "vae_decoder": ({"convolution": 26, "attention": 1}, {"convolution": 1, "attention": 1}),
}
# In half precision the graphs are ONNX Runtime's, with one matmul for all modulations of a block or of the MLP head.
PACKED = {"mlp_head": 9, "dit_head": 24}


@pytest.fixture(scope="module")
def parts():
    model = load_checkpoint(WEIGHTS / "digits.safetensors")
    vae = load_vae(WEIGHTS / "digits-vae.safetensors")
    return {part.name: part for part in components(model, vae, MAX_BATCH)}


@pytest.fixture(scope="module")
def graphs(digits_bundle, digits_fp16_bundle, digits_bf16_bundle):
    """A folder of the digits model's graphs per precision."""
    return {"fp32": digits_bundle, "fp16": digits_fp16_bundle, "bf16": digits_bf16_bundle}


def build(graphs, parts, name, precision, asked=None, options=EngineOptions(), **arguments):  # noqa: B008
    file = graphs[precision] / f"{name}.onnx"
    return build_engine(tensorrt_rtx, file, parts[name], asked or precision, options, **arguments)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_component_builds_and_its_products_run_in_what_was_asked(graphs, parts, name, precision):
    built = build(graphs, parts, name, precision)
    assert len(built.data) > 100_000
    every, islands = PRODUCTS[name]
    if precision == "fp32":
        expected = {kind: {"fp32": number} for kind, number in every.items()}
    else:
        every = {**every, "matmul": PACKED.get(name, every["matmul"])} if "matmul" in every else every
        split = {
            kind: {precision: number - islands.get(kind, 0), "fp32": islands.get(kind, 0)}
            for kind, number in every.items()
        }
        expected = {kind: {p: n for p, n in counts.items() if n} for kind, counts in split.items()}
        assert len(built.table.islands) == sum(islands.values())
    assert built.table.counts == expected
    assert set(built.table.norms) == {"fp32"}
    assert built.table.source == "typed network"


def test_two_builds_are_equal(graphs, parts):
    assert build(graphs, parts, "mlp_head", "fp16").data == build(graphs, parts, "mlp_head", "fp16").data


def test_the_profile_covers_guidance(parts):
    """Guidance doubles the rows; an engine that was built without it fails at the largest batch only."""
    assert parts["dit_head"].profile["rows"] == (1, 2 * MAX_BATCH, 2 * MAX_BATCH)


@pytest.mark.parametrize(("asked", "given"), [("fp16", "fp32"), ("bf16", "fp16"), ("fp32", "fp16"), ("fp16", "bf16")])
@pytest.mark.parametrize("name", NAMES)
def test_a_graph_of_another_precision_is_refused(graphs, parts, name, asked, given):
    with pytest.raises(BuildError, match=rf"{name} was asked for in {asked}, but its .* runs in \w+ where \w+ belongs"):
        build(graphs, parts, name, given, asked)


def rewritten(graphs, tmp_path, name, change) -> dict[str, Path]:
    """Write the fp16 graph of a component with a change, beside a link to its weights."""
    (tmp_path / "weights.bin").symlink_to(graphs["fp16"] / "weights.bin")
    model = onnx.load(graphs["fp16"] / f"{name}.onnx", load_external_data=False)
    change(model.graph)
    onnx.save(model, tmp_path / f"{name}.onnx")
    return {"fp16": tmp_path}


def test_one_product_in_float32_among_halves_is_refused_by_name(graphs, parts, tmp_path):
    """The failure that others let pass: most of the engine is half, one slow matmul is not."""

    def raise_one(graph):
        node = next(n for n in graph.node if n.op_type == "MatMul" and n.input[1] == "blocks.1.first.weight")
        before = [helper.make_node("Cast", [n], [f"{n}_fp32"], to=TensorProto.FLOAT) for n in node.input]
        after = helper.make_node("Cast", [f"{node.output[0]}_fp32"], [node.output[0]], to=TensorProto.FLOAT16)
        matmul = helper.make_node("MatMul", [c.output[0] for c in before], [after.input[0]], name=node.name)
        nodes = [e for n in graph.node for e in ([*before, matmul, after] if n == node else [n])]
        nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(nodes)
        del graph.value_info[:]

    changed = rewritten(graphs, tmp_path, "mlp_head", raise_one)
    with pytest.raises(
        BuildError, match=r"mlp_head was asked for in fp16, but its matmul \S*node_matmul\S* runs in fp32"
    ):
        build(changed, parts, "mlp_head", "fp16")


def test_an_island_that_lost_its_float32_is_refused(graphs, parts):
    islands = ("final.linear.", "input_proj.", "blocks.0.first.")
    strict = {**parts, "mlp_head": replace(parts["mlp_head"], islands=islands)}
    with pytest.raises(BuildError, match=r"its matmul blocks\.0\.first\.weight runs in fp16 where fp32 belongs"):
        build(graphs, strict, "mlp_head", "fp16")


def test_a_half_attention_stays_one_kernel_and_a_float32_one_may_not(graphs, small_rtx_bundle):
    """Decomposed, its softmax would run in half precision; float32 has no fused kernel."""
    for folder, decomposable in ((small_rtx_bundle, False), (graphs["fp32"], True)):
        parsed = parse_network(tensorrt_rtx, folder / "dit_head.onnx")
        found = []
        for layer in layers(parsed.network):
            if layer.type == tensorrt_rtx.LayerType.ATTENTION_OUTPUT:
                layer.__class__ = tensorrt_rtx.IAttentionOutputLayer
                found.append(layer.attention.decomposable)
        assert found
        assert set(found) == {decomposable}


def test_a_graph_that_tensorrt_cannot_read_says_where_and_why(graphs, parts, tmp_path):
    def break_one(graph):
        next(n for n in graph.node if n.op_type == "MatMul").op_type = "NoSuchOperator"

    changed = rewritten(graphs, tmp_path, "mlp_head", break_one)
    with pytest.raises(
        BuildError, match=r"tensorrt_rtx [\d.]+ cannot read mlp_head\.onnx at node_matmul: .*Plugin not found"
    ):
        build(changed, parts, "mlp_head", "fp16")


@pytest.mark.parametrize("opset", [22, 24, 99])
def test_another_opset_is_refused_though_the_parser_takes_any(graphs, parts, tmp_path, opset):
    changed = rewritten(graphs, tmp_path, "mlp_head", lambda graph: None)
    model = onnx.load(tmp_path / "mlp_head.onnx", load_external_data=False)
    next(entry for entry in model.opset_import if not entry.domain).version = opset
    onnx.save(model, tmp_path / "mlp_head.onnx")
    with pytest.raises(BuildError, match=rf"^mlp_head\.onnx is of opset {opset}, and .* built only from opset 23"):
        build(changed, parts, "mlp_head", "fp16")


def test_a_padding_of_keys_is_refused_though_the_parser_takes_it(graphs, tmp_path):
    def pad(graph):
        node = next(n for n in graph.node if n.op_type == "Attention")
        node.input.extend([""] * (6 - len(node.input)) + ["lengths"])
        graph.input.append(helper.make_tensor_value_info("lengths", TensorProto.INT64, [1]))

    rewritten({"fp16": graphs["fp32"]}, tmp_path, "dit_head", pad)
    with pytest.raises(BuildError, match=r"dit_head\.onnx has an Attention '.+' with nonpad_kv_seqlen, which"):
        parse_network(tensorrt_rtx, tmp_path / "dit_head.onnx")


def test_a_build_that_fails_gives_tensorrts_own_reason(graphs, parts, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(BuildError, match=r"cannot build mlp_head in fp16.*workspace"):
        build(graphs, parts, "mlp_head", "fp16", options=EngineOptions(workspace=1 << 20))
    assert not caplog.records  # its reason is in the exception, not on the screen as well


def test_progress_grows_to_the_end(graphs, parts):
    seen: list[float] = []
    build(graphs, parts, "transformer_low", "fp32", progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert any(0 < fraction < 1 for fraction in seen)


class StopNowError(Exception):
    """What a caller raises to cancel."""


def test_a_build_that_is_cancelled_stops_in_the_builder(graphs, parts, monkeypatch):
    answers: list[bool] = []
    real = tensorrt_rtx.IProgressMonitor

    def stop(fraction: float) -> None:
        if fraction > 0:
            raise StopNowError

    from himar_export.tensorrt import build as tensorrt_build

    make = tensorrt_build.make_monitor

    def watched(library):
        monitor = make(library)
        assert isinstance(monitor, real)
        step = monitor.step_complete
        monitor.step_complete = lambda name, number: answers.append(step(name, number)) or answers[-1]
        return monitor

    monkeypatch.setattr(tensorrt_build, "make_monitor", watched)
    with pytest.raises(StopNowError):
        build(graphs, parts, "transformer_low", "fp32", progress=stop)
    assert answers[-1] is False  # TensorRT was told to stop, and asked no more


def configured(graphs, parts, options):
    parsed = parse_network(tensorrt_rtx, graphs["fp16"] / "mlp_head.onnx")
    config, _ = _configure(parsed, parts["mlp_head"], options, None)
    return config


def test_options_reach_the_builder(graphs, parts):
    flags = tensorrt_rtx.BuilderFlag
    plain = configured(graphs, parts, EngineOptions())
    assert not plain.get_flag(flags.TF32)
    assert not plain.get_flag(flags.REFIT_INDIVIDUAL)
    assert plain.builder_optimization_level == 3
    assert plain.num_optimization_profiles == 1

    options = EngineOptions(
        optimization_level=5, workspace=1 << 28, version_compatible=True, refittable=True, gpus=("sm_86", "sm_120")
    )
    config = configured(graphs, parts, options)
    for flag in (flags.VERSION_COMPATIBLE, flags.REFIT_INDIVIDUAL):
        assert config.get_flag(flag)
    assert config.builder_optimization_level == 5
    assert config.get_memory_pool_limit(tensorrt_rtx.MemoryPoolType.WORKSPACE) == 1 << 28
    capabilities = [config.get_compute_capability(index).name for index in range(config.num_compute_capabilities)]
    assert capabilities == ["SM86", "SM120"]


def test_an_engine_for_one_gpu_generation_is_another_engine(graphs, parts):
    plain = build(graphs, parts, "mlp_head", "fp16")
    one = build(graphs, parts, "mlp_head", "fp16", options=EngineOptions(gpus=("sm_89",)))
    assert one.data != plain.data


def test_every_weight_is_replaceable_in_a_refittable_engine_and_no_constant(graphs, parts):
    parsed = parse_network(tensorrt_rtx, graphs["fp16"] / "vae_decoder.onnx")
    _configure(parsed, parts["vae_decoder"], EngineOptions(refittable=True), None)
    names = [tensor.name for tensor in parsed.graph.graph.initializer]
    marked = {name for name in names if parsed.network.are_weights_marked_refittable(name)}
    assert marked == {name for name in names if not name.startswith("val_")}
    assert len(marked) > 80
