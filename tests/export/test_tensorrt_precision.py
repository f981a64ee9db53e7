"""What an engine's inspector says, read as a proof. Its reports here follow TensorRT's documented format."""

import json

import pytest
from onnx import TensorProto, helper

from himar_export.tensorrt.inspector import inspected_table, require_inspected, wanted_matmuls
from himar_kernels import BuildError


def layer(kind: str, name: str, *types: str, tactic: str = "", nodes: tuple[str, ...] = ()) -> dict:
    inputs = [{"Name": f"t{i}", "Dimensions": [2, 64], "Format/Datatype": text} for i, text in enumerate(types)]
    made_of = "\u001e".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {
        "Name": name, "LayerType": kind, "Inputs": inputs, "Outputs": [], "TacticName": tactic, "Metadata": made_of,
    }  # fmt: skip


HALF, SINGLE = "Row major linear FP16 format", "Row major linear FP32"
REPORT = {
    "Layers": [
        layer("gemm", "__myl_MatMulAdd_myl0_3", HALF, HALF, tactic="sm90_xmma_gemm_f16f16_f16f32"),
        layer("gemm", "__myl_MatMulAdd_myl0_9", "Half", "Half"),
        layer("kgen", "_gemm_mha_v2_0x1", HALF, HALF, HALF),
        layer("CaskConvolution", "node_conv2d_1", "Channel major FP16 format where channel % 8 == 0"),
        layer("gemm", "__myl_MatMulAdd_myl0_20", SINGLE, SINGLE),
        layer("kgen", "__myl_AddMeanSub_myl0_4", SINGLE),
        layer("Gather", "gather", "Row major Int64 format"),
    ],
    "Bindings": [],
}


def test_kernels_with_products_are_counted_by_the_types_of_their_inputs():
    table = inspected_table(json.dumps(REPORT))
    assert table.counts == {"gemm": {"fp16": 2, "fp32": 1}, "kgen": {"fp16": 1}, "CaskConvolution": {"fp16": 1}}
    assert table.to_dict()["source"] == "engine inspector"
    require_inspected(json.dumps(REPORT), "dit_head", "fp16")


def test_an_engine_that_lowered_nothing_is_refused():
    """What others saw: half precision asked for, exit code 0, a float32 engine."""
    lowered = json.loads(json.dumps(REPORT).replace(HALF, SINGLE).replace('"Half"', '"Float"').replace("FP16", "FP32"))
    with pytest.raises(BuildError, match=r"dit_head was asked for in fp16, but the matmuls .* run in fp32, so it"):
        require_inspected(json.dumps(lowered), "dit_head", "fp16")


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_an_engine_in_another_half_than_asked_is_refused(asked):
    with pytest.raises(BuildError, match=f"asked for in {asked}, but .* run in fp16, fp32"):
        require_inspected(json.dumps(REPORT), "mlp_head", asked)


def test_a_report_without_types_proves_nothing():
    names_only = json.dumps({"Layers": ["__myl_MatMulAdd_myl0_3", "node_conv2d_1"]})
    with pytest.raises(BuildError, match="run in no type that its inspector names"):
        require_inspected(names_only, "mlp_head", "fp16")


EIGHTH, TACTIC = "FP8", "sm89_xmma_gemm_e4m3f16_e4m3f32_f32_tn_n_tilesize64x64x64"
FP8_REPORT = {
    "Layers": [
        layer("kgen", "__myl_CastQuan_myl0_1", SINGLE, nodes=("quantize",)),
        layer("gemm", "__myl_Fc_myl0_2", EIGHTH, HALF, "Float", nodes=("quantize", "first", "bias")),
        layer("gemm", "__myl_Fc_myl0_3", HALF, tactic=TACTIC, nodes=("second",)),
        layer("gemm", "__myl_Fc_myl0_4", HALF, HALF, nodes=("proj",)),
        layer("gemm", "__myl_Fc_myl0_5", SINGLE, nodes=("last",)),
        layer("kgen", "__myl_MatMulReduce_myl0_6", SINGLE, nodes=("second",)),
    ]
}


def fp8_graph():
    """Of two matmuls in fp8, one of attention, and an island."""
    names = {"first": "blocks.0.fc1.weight", "second": "blocks.0.fc2.weight", "proj": "blocks.0.proj.weight"}
    nodes = [helper.make_node("MatMul", ["x", "final.linear.weight"], ["y"], name="last")]
    stored = [helper.make_tensor("final.linear.weight", TensorProto.FLOAT, [16, 16], [0.0] * 256)]
    for node, weight in names.items():
        in_fp8 = "fc" in weight
        read = f"{weight}_of_fp8" if in_fp8 else weight
        kind, name = (TensorProto.FLOAT8E4M3FN, f"{weight}.fp8") if in_fp8 else (TensorProto.FLOAT16, weight)
        stored.append(helper.make_tensor(name, kind, [16, 16], [0.0] * 256))
        if in_fp8:
            nodes.append(helper.make_node("DequantizeLinear", [name, "step"], [read]))
        nodes.append(helper.make_node("MatMul", ["x", read], [f"{node}_y"], name=node))
    return helper.make_graph(nodes, "graph", [], [], stored)


def wanted() -> dict:
    return wanted_matmuls(fp8_graph(), ("final.linear.",), "fp8")


def test_every_matmul_of_a_component_in_fp8_is_looked_for_by_name():
    assert {node: (each.name, each.precision) for node, each in wanted().items()} == {
        "last": ("final.linear.weight", "fp32"),
        "first": ("blocks.0.fc1.weight", "fp8"),
        "second": ("blocks.0.fc2.weight", "fp8"),
        "proj": ("blocks.0.proj.weight", "fp16"),
    }
    table = inspected_table(json.dumps(FP8_REPORT))
    assert table.counts == {"gemm": {"fp8": 2, "fp16": 1, "fp32": 1}, "kgen": {"fp32": 1}}
    require_inspected(json.dumps(FP8_REPORT), "dit_head", "fp8", wanted())


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (TACTIC, "", r"matmul blocks\.0\.fc2\.weight runs in fp16 in the built engine where fp8 belongs"),
        ('"FP8"', '"Half"', r"matmul blocks\.0\.fc1\.weight runs in fp16, fp32 in the built engine where fp8 belongs"),
        ("Layer: proj", "Layer: quantize", None),
        ("Layer: first", "Layer: proj", r"matmul blocks\.0\.proj\.weight runs in fp8 .* where fp16 belongs"),
        ("[ONNX Layer: ", "[", None),
    ],
)
def test_a_matmul_that_the_builder_did_not_run_in_its_precision_is_refused_by_name(old, new, text):
    """Half of the kernels in fp8 would pass for an engine in fp8; what is not named is counted alone."""
    report = json.dumps(FP8_REPORT)
    changed = report.replace(old, new)
    assert changed != report
    if new == "Layer: proj":  # fc1's kernel alone has it then
        changed = changed.replace('"Metadata": "[ONNX Layer: proj]"', '"Metadata": ""')
    if text is None:
        require_inspected(changed, "dit_head", "fp8", wanted())
    else:
        with pytest.raises(BuildError, match=rf"^dit_head was asked for in fp8, but its {text}, .*=fp16, and please"):
            require_inspected(changed, "dit_head", "fp8", wanted())


def test_an_engine_without_a_kernel_of_fp8_is_refused():
    report = json.dumps(FP8_REPORT).replace(TACTIC, "").replace('"FP8"', '"Half"').replace("[ONNX Layer: ", "[")
    with pytest.raises(
        BuildError, match=r"^dit_head was asked for in fp8, but the matmuls .* run in fp16, fp32, so it"
    ):
        require_inspected(report, "dit_head", "fp8", wanted())


def test_a_kernel_of_fp8_in_an_engine_of_half_precision_is_refused():
    with pytest.raises(BuildError, match=r"^dit_head was asked for in fp16, but the matmuls .* run in fp16, fp32, fp8"):
        require_inspected(json.dumps(FP8_REPORT), "dit_head", "fp16")


@pytest.mark.parametrize("spelling", ["FP8", "E4M3", "Row major FP8 format", "FP8E4M3", "fp8_e4m3", "Float8E4M3FN"])
def test_the_spellings_of_fp8_are_known(spelling):
    report = json.dumps({"Layers": [layer("gemm", "__myl_Fc_myl0_2", spelling, HALF)]})
    assert inspected_table(report).counts == {"gemm": {"fp8": 1}}
