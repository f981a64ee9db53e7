"""Makes CLIP models of transformers with random weights that all matter, and their folders."""

from pathlib import Path

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SIZES = {
    "small": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 60,
        "max_position_embeddings": 9,
    },
    "wide": {
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "intermediate_size": 384,
        "vocab_size": 514,
        "max_position_embeddings": 77,
    },
}
VISION = {
    "hidden_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def text_settings(size: str, activation: str) -> dict:
    """Return a text tower's configuration; the end token is the last of the vocabulary, as CLIP's."""
    last = SIZES[size]["vocab_size"] - 1
    ends = {"bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    return {**SIZES[size], **ends, "hidden_act": activation, "projection_dim": 24}


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter, norms and biases too, values that show when one is left out."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        spread = 0.3 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
        values = spread * torch.randn(parameter.shape, generator=generator)
        parameter.data = values + (1 if "norm" in name and name.endswith("weight") else 0)
    return model.eval()


def text_model(size: str, activation: str = "quick_gelu", projection: bool = False) -> nn.Module:
    """Return a text tower of transformers."""
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return randomised(kind(CLIPTextConfig(**text_settings(size, activation))))


def clip_model(size: str = "small", activation: str = "quick_gelu", **vision) -> CLIPModel:
    """Return a whole CLIP model of transformers; vision: sizes of its vision tower in place of VISION's."""
    images = {**VISION, "hidden_act": activation, **vision}
    config = CLIPConfig(text_config=text_settings(size, activation), vision_config=images, projection_dim=24)
    return randomised(CLIPModel(config))


def saved(model: nn.Module, folder: Path, **options) -> Path:
    """Write a model as transformers does; return the folder."""
    model.save_pretrained(folder, **options)
    return folder


def token_ids(size: str, rows: int, seed: int = 0) -> torch.Tensor:
    """Return prompts (rows, K): start, other tokens, end, and padding with the end token after most of them."""
    vocabulary, length = SIZES[size]["vocab_size"], SIZES[size]["max_position_embeddings"]
    ids = torch.randint(vocabulary - 2, (rows, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = vocabulary - 2
    for row in range(rows):
        ids[row, min(2 + row, length - 1) :] = vocabulary - 1
    return ids
