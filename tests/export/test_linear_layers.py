"""Which matmuls of a half-precision bundle are one operator with what follows them."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest

NONE = {"Linear": 0, "LinearGeluTanh": 0, "LinearResidual": 0}


def linear_layers(path) -> dict[str, int]:
    kinds = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    assert not kinds["BiasGeluTanh"] and not kinds["Residual"]  # all of them follow a matmul of weights
    return {kind: kinds[kind] for kind in NONE}


@pytest.mark.parametrize("fixture", ["digits_fp16_bundle", "digits_bf16_bundle"])
def test_layers_are_one_operator_where_it_moves_fewer_bytes(request, fixture):
    """Queries and feed-forwards of the DiT head's three blocks; queries of four, last sums, embeddings."""
    bundle = request.getfixturevalue(fixture)
    found = {name: linear_layers(bundle / f"{name}.onnx") for name in ("dit_head", "mlp_head", "transformer_low")}
    assert found == {
        "dit_head": NONE | {"Linear": 3, "LinearGeluTanh": 3},
        "mlp_head": NONE,
        "transformer_low": NONE | {"Linear": 4 + 1, "LinearResidual": 2},
    }
    high = linear_layers(bundle / "transformer_high.onnx")
    assert high == NONE | {"Linear": 4 + 2, "LinearResidual": 2}


def test_float32_graphs_have_none(digits_bundle):
    for path in digits_bundle.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        assert not any(node.domain == "himar" for node in model.graph.node) and not model.functions, path.name
