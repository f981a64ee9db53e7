"""What an engine's inspector says, read as a proof. Its reports here follow TensorRT's documented format."""

import json

import pytest

from himar_export.tensorrt.precision import inspected_table, require_inspected
from himar_kernels import BuildError


def layer(kind: str, name: str, *types: str, tactic: str = "") -> dict:
    inputs = [{"Name": f"t{i}", "Dimensions": [2, 64], "Format/Datatype": text} for i, text in enumerate(types)]
    return {"Name": name, "LayerType": kind, "Inputs": inputs, "Outputs": [], "TacticName": tactic}


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
    require_inspected(table, "dit_head", "fp16")


def test_an_engine_that_lowered_nothing_is_refused():
    """What others saw: half precision asked for, exit code 0, a float32 engine."""
    lowered = json.loads(json.dumps(REPORT).replace(HALF, SINGLE).replace('"Half"', '"Float"').replace("FP16", "FP32"))
    with pytest.raises(BuildError, match=r"dit_head was asked for in fp16, but the matmuls .* run in fp32, so it"):
        require_inspected(inspected_table(json.dumps(lowered)), "dit_head", "fp16")


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_an_engine_in_another_half_than_asked_is_refused(asked):
    with pytest.raises(BuildError, match=f"asked for in {asked}, but .* run in fp16, fp32"):
        require_inspected(inspected_table(json.dumps(REPORT)), "mlp_head", asked)


def test_a_report_without_types_proves_nothing():
    names_only = json.dumps({"Layers": ["__myl_MatMulAdd_myl0_3", "node_conv2d_1"]})
    with pytest.raises(BuildError, match="run in no type that its inspector names"):
        require_inspected(inspected_table(names_only), "mlp_head", "fp16")
