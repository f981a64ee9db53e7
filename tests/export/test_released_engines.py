"""TensorRT-RTX's real builder at Hi-MAR-B's widths, random weights, in fp16, with its KL-16 decoder.

All blocks of a stack are alike, so there are few: `python -m benchmarks.gpu.engine_builds --config himar-b` builds
all of them.
"""

import onnx
import pytest

from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR, randomise
from himar.vae.autoencoder import AutoencoderKL, VaeConfig
from himar_export.families.hi_mar.components import components
from himar_export.make.assemble import add_graphs
from himar_export.make.engine_cache import external_bytes
from himar_export.make.engines import EngineTarget, build_engines
from himar_export.make.manifest import BundleWriter
from himar_export.tensorrt.options import EngineOptions

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.slow
MAX_BATCH = 64
DEPTHS = {"enc_depth": 2, "dec_depth": 3, "mlp_depth": 2, "dit_depth": 2}


def test_himar_b_builds_in_half_precision(tmp_path):
    """Every engine holds its weights in half: about two bytes each, with what the float32 islands and tables add."""
    config = resolve({**read_config("himar-b"), **DEPTHS}, {}, "himar-b")
    model = randomise(HiMAR(config), 0).eval().requires_grad_(False)
    parts = components(model, AutoencoderKL(VaeConfig()).eval().requires_grad_(False), MAX_BATCH)
    precisions = {part.name: "fp16" for part in parts}
    writer = BundleWriter(tmp_path, model, MAX_BATCH)
    add_graphs(writer, model, None, parts, precisions, lambda text, fraction: None)
    target = EngineTarget("tensorrt-rtx", tensorrt_rtx, EngineOptions(), None, None)
    entries = build_engines(target, tmp_path, parts, precisions, lambda text, fraction: None)
    half, single = {"matmul": 0, "attention": 0, "convolution": 0}, 0
    for part in parts:
        precision = entries[part.name]["precision"]
        for kind in half:
            half[kind] += precision.get(kind, {}).get("fp16", 0)
            single += precision.get(kind, {}).get("fp32", 0)
        # In float32 an engine would be twice its weights; kernels and prepared weights add up to a fifth.
        graph = onnx.load(tmp_path / f"{part.name}.onnx", load_external_data=False).graph
        weights = sum(len(external_bytes(tensor, tmp_path)) for tensor in graph.initializer)
        assert weights < (tmp_path / f"{part.name}.engine").stat().st_size < 1.25 * weights + 4e6
    # Per transformer five blocks of four matmuls, the last with its queries apart, per DiT block five, per MLP block
    # two and one for all modulations; one more for the modulation of each head's last layer.
    assert half["attention"] == 5 + 5 + 2
    assert half["matmul"] == (5 * 4 + 2) + (5 * 4 + 3) + (2 * 5 + 1) + (2 * 2 + 1 + 1)
    assert single == 2 + 2 + 2 + 2 + 2
