"""Runs Hi-MAR's eager networks on the inputs of single components, whatever call of a loop they come from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from himar.families.hi_mar.config import ModelConfig
from himar_export.bench.component_runs import Call
from himar_kernels.families.hi_mar.phases import PhaseInfo
from himar_kernels.families.registry import VAE_DECODER, VAE_ENCODER

from ..phases import model_info, phase_head
from .eager import Networks


def eager_calls(config: ModelConfig) -> dict[str, Call]:
    """Return what runs each component of a model of these sizes with its `eager_networks`, by the component's name."""
    info = model_info(config)
    calls: dict[str, Call] = {VAE_DECODER: _decode, VAE_ENCODER: _encode}
    for phase in info.phases:
        calls |= {phase.transformer: _transform(phase, config.buffer), phase.head: _denoise(phase)}
    if info.edit_transformer is not None:
        calls[info.edit_transformer] = _transform(info.phase("high"), config.buffer)
    return calls


def _transform(phase: PhaseInfo, context: int) -> Call:
    """A transformer with its head's embedding of the condition, as the engine has it; context: K."""
    first, n = context + phase.always, phase.positions

    def run(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        model, tokens = networks[0], inputs[phase.tokens]
        shown = inputs["context"] if model.config.from_text else inputs["class_row"]
        # Rows of the decoder that come from the encoder, of whose rows there are as many as `visible` has.
        known = inputs["sources"][:, first : first + n] < inputs["visible"].numel()
        if phase.name == "low":
            z = model.transformer_low(shown, tokens, known)[:, :n]
        else:
            guides = inputs.get("guides")
            unguided = None if guides is None else guides >= guides.numel()  # placeholders stand after the pivots
            z = model.transformer_high(shown, inputs.get("pivots"), tokens, known, unguided)[:, -n:]
        outputs = {"condition": phase_head(model, phase.name).condition(z)}
        return {"pivots": z, **outputs} if phase.leaves_pivots else outputs

    return run


def _denoise(phase: PhaseInfo) -> Call:
    def run(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        head = phase_head(networks[0], phase.name)
        return {"prediction": head.denoise(inputs["x"], inputs["timestep"], inputs["condition"])}

    return run


def _decode(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    vae = networks[1]
    assert vae is not None  # a component of its own only where there is one
    return {"image": vae.decode(inputs["latent"])}


def _encode(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    vae = networks[1]
    assert vae is not None
    return {"latent": vae.encode(inputs["image"])[0]}
