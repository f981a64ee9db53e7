"""Defines the model configuration: presets by name, JSON files, and the check against a checkpoint's shapes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from himar_kernels import ConfigError, InputError
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.phases import Context, HeadKind, PhaseSizes, Pivots
from himar_kernels.families.hi_mar.sampling import require_dit_head

from ..configuration import read_values
from .presets import PRESETS

ScaleVector = Literal["none", "learned", "sinusoidal"]

# Keys of a JSON file's sampling section as recordings spell them -> our names.
_SAMPLING_ALIASES = {"cfg": "high_guidance", "low_cfg": "low_guidance", "cfg_schedule": "guidance_schedule"}
_DIFFUSION_KEYS = {"mlp_steps": "low_diffusion_steps", "dit_steps": "high_diffusion_steps"}


@dataclass(frozen=True)
class ModelConfig(PhaseSizes):
    """Sizes of a Hi-MAR model (docs/model.md §1) and its named sampling settings, the first the default.

    width D, heads: of the transformer, with enc_depth + dec_depth blocks; buffer: K context tokens;
    cond_scale: side s of the low-resolution grid, 0 for a single scale; channels: C of a latent token; mlp_* and
    dit_*: the heads, 0 for a kind that no phase has; vae_stride: pixels per token side; vae_scale: tokens are VAE
    latents times this.

    The next four choose a variant (`presets` says what each means); the defaults are the released models'. pivots: what
    guides phase high; low_head, high_head: diffusion head of each phase; scale_vector: how the transformer's blocks
    know their phase.

    context: what an image is made from, a "class" or a "text" (docs/model.md §11); context_width: W, width of a text's
    K context rows. A model from text has no classes, a model of classes no context_width: the other one is 0.
    """

    width: int
    enc_depth: int
    dec_depth: int
    heads: int
    classes: int
    buffer: int
    cond_scale: int
    img_size: int
    mlp_depth: int = 0
    mlp_width: int = 0
    dit_depth: int = 0
    dit_width: int = 0
    dit_heads: int = 0
    channels: int = 16
    vae_stride: int = 16
    vae_scale: float = 0.2325
    sampling: Mapping[str, SamplingConfig] = field(default_factory=lambda: {"default": SamplingConfig()})
    pivots: Pivots = "condition"
    low_head: HeadKind = "mlp"
    high_head: HeadKind = "dit"
    scale_vector: ScaleVector = "learned"
    context: Context = "class"
    context_width: int = 0

    def __post_init__(self) -> None:
        _require_sizes({name: getattr(self, name) for name in ModelConfig.__dataclass_fields__}, "")
        self._require_variant()
        self._require_context()
        scale = self.vae_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= sys.float_info.max:
            raise ConfigError(f"vae_scale is {str(scale)[:40]}; it must be a positive number.")
        pairs = [("width", "heads")] + [("dit_width", "dit_heads")] * ("dit" in self.head_kinds)
        for width, heads in pairs:
            if getattr(self, width) % getattr(self, heads):
                raise ConfigError(
                    f"{width} {getattr(self, width)} does not divide into {heads} {getattr(self, heads)}; "
                    f"correct {heads}."
                )
        if self.img_size % self.vae_stride:
            raise ConfigError(f"img_size {self.img_size} is not a multiple of vae_stride {self.vae_stride}.")

    def _require_variant(self) -> None:
        if self.single_scale:
            alone = "a model with pivots 'none' has a single scale"
            if self.cond_scale:
                raise ConfigError(f"cond_scale is {self.cond_scale}, but {alone}; set it to 0.")
            if self.scale_vector != "none":
                raise ConfigError(f"scale_vector is {self.scale_vector!r}, but {alone}; set it to 'none'.")
            if self.low_head != "mlp":
                raise ConfigError(f"low_head is {self.low_head!r}, but {alone}; leave it out.")
        elif not self.cond_scale:
            raise ConfigError(f"cond_scale is 0, but pivots {self.pivots!r} need a low-resolution grid; give its side.")
        for kind in self.head_kinds:
            sizes = ("mlp_depth", "mlp_width") if kind == "mlp" else ("dit_depth", "dit_width", "dit_heads")
            missing = [name for name in sizes if not getattr(self, name)]
            if missing:
                raise ConfigError(f"{missing[0]} is 0, but a phase of this model has a {kind} head; give its size.")

    def _require_context(self) -> None:
        if self.from_text and self.classes:
            raise ConfigError(f"classes is {self.classes}, but a model with context 'text' has none; leave it out.")
        if self.from_text and not self.context_width:
            raise ConfigError("context_width is 0, but the model's context is a text; give the width of its rows.")
        if not self.from_text and self.context_width:
            raise ConfigError(
                f"context_width is {self.context_width}, but the model's context is a class; set context to 'text', or "
                f"leave context_width out."
            )

    @property
    def from_text(self) -> bool:
        """Whether images are made from texts' contexts (K, W) instead of classes."""
        return self.context == "text"

    @property
    def head_kinds(self) -> tuple[HeadKind, ...]:
        """Kind of each phase's head, phase low first where there is one."""
        return (self.high_head,) if self.single_scale else (self.low_head, self.high_head)

    @property
    def default_sampling(self) -> SamplingConfig:
        """The first of the named sampling settings."""
        return next(iter(self.sampling.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `resolve(dict, {})` reads them back.

        A model of classes does not name its context, as readers before models from text expect.
        """
        sampling = {name: settings.to_dict() for name, settings in self.sampling.items()}
        left_out = () if self.from_text else ("context", "context_width")
        values = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {**values, "sampling": sampling}


def read_config(source: str | Path | Mapping[str, Any] | ModelConfig, name: str = "config") -> dict[str, Any]:
    """Return the values that `source` gives: a preset's name, a JSON file, a mapping or a ModelConfig.

    A JSON file may hold only what shapes cannot tell ({"heads": 12, "dit_heads": 8}); values may also stand under
    a "config" key. "sampling" is one flat set of settings or several named ones. `name` is a mapping's in errors.
    Raises ConfigError.
    """
    if isinstance(source, ModelConfig):
        return source.to_dict()
    return read_values(source, PRESETS, _normalised, name)


def resolve(given: Mapping[str, Any], measured: Mapping[str, Any], source: str = "config") -> ModelConfig:
    """Join given values with those measured from a checkpoint's shapes (`measured` may be empty).

    Raises ConfigError when the two contradict each other, or when something that shapes cannot tell is missing.
    """
    values = dict(given)
    measured = dict(measured)
    stride = values.get("vae_stride", ModelConfig.vae_stride)
    if "grid" in measured:
        measured["img_size"] = measured.pop("grid") * stride
    for name, size in measured.items():
        if name in values and values[name] != size:
            raise ConfigError(
                f"{source} says {name} = {values[name]}, but the checkpoint's shapes say {size}; "
                f"correct the configuration or use the checkpoint that it describes."
            )
        values[name] = size
    if values.get("context") == "text":
        values.setdefault("classes", 0)
    required = [name for name in ModelConfig.__dataclass_fields__ if name not in _OPTIONAL]
    kinds = [values.get("high_head", "dit")]
    kinds += [values.get("low_head", "mlp")] if values.get("pivots") != "none" else []
    required += [name for name in _HEAD_SIZES if name.split("_")[0] in kinds]
    required += ["context_width"] if values.get("context") == "text" else []
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{source} lacks {', '.join(missing)}, which the checkpoint's shapes cannot tell.")
    # 4s low steps (docs/model.md §6) by default; fewer where the grid has fewer positions.
    side = values["cond_scale"] or 1
    sampling = {
        name: SamplingConfig.from_dict(
            {"low_steps": min(4 * side, side**2), **settings}, f"{source}, sampling {name!r}"
        )
        for name, settings in values.pop("sampling", {"default": {}}).items()
    }
    config = ModelConfig(**values, sampling=sampling)
    for settings in sampling.values():
        try:
            check_steps(config, settings)
        except InputError as error:
            raise ConfigError(f"{source}: {error}") from error
    return config


def check_steps(config: ModelConfig, sampling: SamplingConfig) -> None:
    """Raise InputError unless every step of each phase that the model has can reveal a position.

    Held modulations need a DiT head.
    """
    sampling.check_positions(config.low_positions, config.high_positions)
    require_dit_head(sampling, {phase.kind for phase in config.phases}, "this model")


_HEAD_SIZES = ("mlp_depth", "mlp_width", "dit_depth", "dit_width", "dit_heads")
CONFIG_KEYS = (*ModelConfig.__dataclass_fields__, *_DIFFUSION_KEYS)
"""What a configuration may say, as `read_config` takes it."""
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "pivots": get_args(Pivots),
    "low_head": get_args(HeadKind),
    "high_head": get_args(HeadKind),
    "scale_vector": get_args(ScaleVector),
    "context": get_args(Context),
}
_MOST_SIZE, _MOST_SIDE = 10_000_000, 1024
"""Beyond every model, so that a slip of the finger is refused at once; a side of tokens counts with its square."""
_OPTIONAL = (*_HEAD_SIZES, *_CHOICES, "context_width", "channels", "vae_stride", "vae_scale", "sampling")


def _require_sizes(values: Mapping[str, Any], where: str) -> None:
    may_be_0 = (*_HEAD_SIZES, "cond_scale", "context_width", *(["classes"] if values.get("context") == "text" else []))
    for name, value in values.items():
        least = 0 if name in may_be_0 else 1
        most = _MOST_SIDE if name == "cond_scale" else _MOST_SIZE
        whole = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                known = ", ".join(map(repr, _CHOICES[name]))
                raise ConfigError(f"{where}{name} is {value!r}; it must be one of {known}.")
        elif name not in ("sampling", "vae_scale") and not whole:
            shown = f"{value!r:.40}"
            raise ConfigError(
                f"{where}{name} is {shown}; it must be a whole number of at least {least}, at most {most}."
            )


def _normalised(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Flatten the accepted spellings into ModelConfig's field names; refuse unknown keys."""
    nested = values.get("config", {})
    if not isinstance(nested, Mapping):
        raise ConfigError(f"{source}: config is {nested!r}; it must be a JSON object.")
    flat = {**values, **nested}
    flat.pop("config", None)
    diffusion = {new: flat.pop(old) for old, new in _DIFFUSION_KEYS.items() if old in flat}
    unknown = sorted(set(flat) - set(ModelConfig.__dataclass_fields__))
    if unknown:
        known = ", ".join(CONFIG_KEYS)
        raise ConfigError(f"{source}: unknown key {unknown[0]!r}; known keys: {known}.")
    _require_sizes(flat, f"{source}: ")
    if "sampling" not in flat and not diffusion:
        return flat
    sampling = flat.get("sampling", {})
    if not isinstance(sampling, Mapping):
        raise ConfigError(f"{source}: sampling must be a JSON object.")
    named = sampling if sampling and all(isinstance(v, Mapping) for v in sampling.values()) else {"default": sampling}
    flat["sampling"] = {
        name: {
            **diffusion,
            **{_SAMPLING_ALIASES.get(key, key): value for key, value in settings.items() if key != "batch"},
        }
        for name, settings in named.items()
    }
    return flat
