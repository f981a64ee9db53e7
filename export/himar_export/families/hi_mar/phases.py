"""Describes a model's phases as export needs them: which head is whose, and what embeds its condition."""

from __future__ import annotations

from dataclasses import fields

from torch import nn

from himar.families.hi_mar.config import ModelConfig
from himar.families.hi_mar.dit_head import DiTHead
from himar.families.hi_mar.mlp_head import MLPHead
from himar.families.hi_mar.model import HiMAR
from himar_kernels.families.hi_mar import Phase
from himar_kernels.families.hi_mar.phases import ModelInfo


def model_info(config: ModelConfig) -> ModelInfo:
    """Return what the runtime will read of this configuration; its `phases` name the components."""
    return ModelInfo(**{field.name: getattr(config, field.name) for field in fields(ModelInfo)})


def phase_head(model: HiMAR, phase: Phase) -> MLPHead | DiTHead:
    """Return the head of a phase that the model has."""
    return model.low_head if phase == "low" else model.high_head


def condition_embedding(head: MLPHead | DiTHead) -> nn.Linear | nn.Conv2d:
    """Return the layer that embeds z for a head; it moves into the transformer's graph."""
    return head.cond_embed if isinstance(head, MLPHead) else head.c_embedder.proj


def condition_width(head: MLPHead | DiTHead) -> int:
    """Return W, the width of a head's embedded condition."""
    return condition_embedding(head).weight.shape[0]
