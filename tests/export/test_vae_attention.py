"""A VAE decoder with attention at its levels, or with none at all: its graph gives the eager decoder's image."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from himar.config import read_config, resolve
from himar.model import HiMAR
from himar.vae import AutoencoderKL, VaeConfig
from himar_export.components import components
from himar_export.cost_decoder import DecoderSizes, exported_decoder
from himar_export.onnx_export import to_onnx
from himar_export.weights import weight_file

SIZES = {"ch": 32, "ch_mult": (1, 2), "z_channels": 4, "num_res_blocks": 1, "attention_levels": ()}
KINDS = {
    "levels": VaeConfig(**SIZES, decoder_attention_levels=(1,)),
    "none": VaeConfig(**SIZES, mid_attention=False),
}


@pytest.mark.parametrize(
    ("kind", "attentions", "precision", "limit"),
    [("levels", 3, "fp32", 1e-5), ("levels", 3, "fp16", 5e-3), ("none", 0, "fp32", 1e-5)],
)
def test_the_exported_decoder_gives_the_eager_image(tmp_path, kind, attentions, precision, limit):
    torch.manual_seed(0)
    vae = AutoencoderKL(KINDS[kind]).eval().requires_grad_(False)
    model = HiMAR(resolve(read_config("digits"), {}))
    decoder = next(part for part in components(model, vae, 2) if part.name == "vae_decoder")
    weights = weight_file(tmp_path)
    graph = to_onnx(decoder, precision, weights)
    weights.stream.close()
    assert sum(node.op_type == "Attention" for node in graph.graph.node) == attentions
    onnx.save(graph, tmp_path / "vae_decoder.onnx")
    sizes = exported_decoder(tmp_path / "vae_decoder.onnx")
    assert sizes == DecoderSizes((32, 64), 2, 4, 3, KINDS[kind].decoder_attention_levels, kind == "levels")
    session = onnxruntime.InferenceSession(tmp_path / "vae_decoder.onnx", providers=["CPUExecutionProvider"])
    for side in (4, 8):
        latent = torch.randn(2, 4, side, side)
        (image,) = session.run(None, {"latent": latent.numpy()})
        expected = vae.decode(latent).numpy()
        assert np.linalg.norm(image - expected) < limit * np.linalg.norm(expected)
