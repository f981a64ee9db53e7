#!/bin/sh
# ONNX Runtime 1.31.0, CPU: float8 (e4m3fn) QuantizeLinear and DequantizeLinear run by themselves, but a MatMul or
#   Gemm whose two inputs come out of such pairs is refused when the model is loaded.
# Expected: the model is valid (opset 23, the checker passes it), each of its operators runs, so it runs, in float32
#   between the pairs; this is how fp8 is written for other builders, and how it is emulated on a CPU.
# Seen: an optimisation for 8-bit integers takes the pairs for integers and makes of each product an operator that knows no
#   float8: INVALID_GRAPH, "Type 'tensor(float8e4m3fn)' of input parameter (xq) of operator (MatMulIntegerToFloat) … is
#   invalid", or (QGemm). With session.disable_quant_qdq = 1 the same model runs and gives the product of the rounded
#   values exactly. 1.32.0 runs it as it is.
#   Products of float16 run in 1.24 to 1.32 as they are; 1.23 has no QuantizeLinear of opset 23 on a CPU.
# Way round: 1.32.0, that session option, float16, or no pair right before the product.
# Exits 0 while this is so, 1 once it changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/run.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

FLOAT8 = TensorProto.FLOAT8E4M3FN
x = np.arange(8, dtype=np.float32).reshape(2, 4) / 3
weight = [float(value % 7 - 3) for value in range(12)]


def model(product):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
    ]
    if product:
        nodes.append(helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wd"]))
        nodes.append(helper.make_node(product, ["xd", "wd"], ["y"]))
    else:
        nodes[-1].output[0] = "y"
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "pairs",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3 if product else 4])],
            [
                helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5]),
                helper.make_tensor("zero", FLOAT8, [], [0.0]),
                helper.make_tensor("w", FLOAT8, [4, 3], weight),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=11,
    )
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def run(product, without_pairs):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", str(int(without_pairs)))
    session = ort.InferenceSession(model(product), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


rounded = run(None, False)
refused = 0
for product in ("MatMul", "Gemm"):
    expected = rounded @ (np.array(weight, np.float32).reshape(4, 3) / 2)
    np.testing.assert_array_equal(run(product, True), expected)
    try:
        np.testing.assert_array_equal(run(product, False), expected)
        print(f"onnxruntime {ort.__version__}, {product}: runs")
    except Exception as error:
        refused += "float8e4m3fn" in str(error)
        print(f"onnxruntime {ort.__version__}, {product}: {error}")
sys.exit(refused != 2)
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.0
"$folder/venv/bin/python" "$folder/run.py"
