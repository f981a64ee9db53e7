"""Makes vae-diffusers.npz: outputs of diffusers' own AutoencoderKL. Run where diffusers (0.42.1) is installed.

The weights are not stored: `weight` makes them from a name and a shape, here and in the test. Computed in float64.
"""

import json
import zlib
from pathlib import Path

import numpy as np

CONFIGS = {
    "attention": {
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "latent_channels": 4,
        "scaling_factor": 0.2325,
    },
    "bare": {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [32, 32, 64],
        "layers_per_block": 2,
        "latent_channels": 4,
        "mid_block_add_attention": False,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.5,
        "shift_factor": 0.1,
    },
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a weight's values, float32, from its name alone: the same everywhere."""
    values = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode()))).standard_normal(shape)
    if len(shape) > 1:
        return (values / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return (0.2 * values + ("norm" in name and name.endswith("weight"))).astype(np.float32)


def image() -> np.ndarray:
    """Return an image (1, 3, 16, 16) in [-1, 1]."""
    return np.random.Generator(np.random.Philox(key=1)).uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)


def main() -> None:
    """Write the file."""
    import diffusers
    import torch

    arrays = {}
    for case, config in CONFIGS.items():
        vae = diffusers.AutoencoderKL(**config).double().eval()
        shapes = {name: tuple(value.shape) for name, value in vae.state_dict().items()}
        vae.load_state_dict({name: torch.from_numpy(weight(name, shape)) for name, shape in shapes.items()})
        with torch.no_grad():
            moments = vae.encode(torch.from_numpy(image()).double()).latent_dist.parameters
            decoded = vae.decode(moments[:, : config["latent_channels"]]).sample
        text = json.dumps({"shapes": shapes, "config": dict(vae.config)}, default=str)
        arrays[f"{case}/layout"] = np.frombuffer(text.encode(), np.uint8)
        arrays[f"{case}/moments"], arrays[f"{case}/decoded"] = moments.float().numpy(), decoded.float().numpy()
    np.savez_compressed(Path(__file__).with_name("vae-diffusers.npz"), **arrays)


if __name__ == "__main__":
    main()
