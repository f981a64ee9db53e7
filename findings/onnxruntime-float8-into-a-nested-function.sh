#!/bin/sh
# ONNX Runtime 1.31.0, CPU: a model-local function whose float8 (e4m3fn) input is read by another model-local function
#   alone is refused when the model is loaded, as by 1.32.0; in float16, or with an Identity between, it runs.
# Expected: the model is valid (opset 23, the checker passes it), functions are inlined and their operators take float8,
#   so it runs as the inner function does where the graph calls that itself.
# Seen: INVALID_GRAPH, "Type 'tensor(float8e4m3fn)' of input parameter (eight) of operator (Outer) … is invalid": an input
#   that only another function reads seems to get a list of types that float8 is not among.
# Way round: Identity between the outer function's input and the inner function.
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

OWN = "own"
SETS = [helper.make_opsetid("", 23), helper.make_opsetid(OWN, 1)]
x = np.arange(8, dtype=np.float32) / 3


def function(name, nodes):
    return helper.make_function(OWN, name, ["x"], ["y"], nodes, SETS)


def model(kind, operator, between):
    inner = function("Inner", [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)])
    given = "same" if between else "x"
    nodes = [helper.make_node("Inner", [given], ["y"], domain=OWN)]
    if between:
        nodes.insert(0, helper.make_node("Identity", ["x"], ["same"]))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["eight"], to=kind),
            helper.make_node(operator, ["eight"], ["y"], domain=OWN),
        ],
        "nested",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])],
    )
    made = helper.make_model(graph, functions=[inner, function("Outer", nodes)], opset_imports=SETS, ir_version=11)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def run(kind, operator="Outer", between=False):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model(kind, operator, between), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


FLOAT8 = TensorProto.FLOAT8E4M3FN
rounded = run(FLOAT8, "Inner")
np.testing.assert_allclose(rounded, x, rtol=2.0**-4)
np.testing.assert_array_equal(run(FLOAT8, between=True), rounded)
np.testing.assert_allclose(run(TensorProto.FLOAT16), x, rtol=2.0**-11)
try:
    np.testing.assert_array_equal(run(FLOAT8), rounded)
    print(f"onnxruntime {ort.__version__}: runs")
    refused = False
except Exception as error:
    print(f"onnxruntime {ort.__version__}: {error}")
    refused = "float8e4m3fn" in str(error) and "(Outer)" in str(error)
sys.exit(not refused)
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.0
"$folder/venv/bin/python" "$folder/run.py"
