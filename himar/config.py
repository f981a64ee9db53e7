"""Model configuration: presets by name, small JSON files, and the check against a checkpoint's shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from himar_kernels import ConfigError, SamplingConfig

# Keys of a JSON file's sampling section as recordings spell them -> our names.
_SAMPLING_ALIASES = {"cfg": "high_guidance", "low_cfg": "low_guidance", "cfg_schedule": "guidance_schedule"}
_DIFFUSION_KEYS = {"mlp_steps": "low_diffusion_steps", "dit_steps": "high_diffusion_steps"}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a Hi-MAR model (himar-model.md §1) and its named sampling settings, the first the default.

    width D, heads: of the transformer, with enc_depth + dec_depth blocks; buffer: K context tokens;
    cond_scale: side s of the low-resolution grid; channels: C of a latent token; mlp_* and dit_*: the heads;
    vae_stride: pixels per token side; vae_scale: tokens are VAE latents times this.
    """

    width: int
    enc_depth: int
    dec_depth: int
    heads: int
    classes: int
    buffer: int
    cond_scale: int
    img_size: int
    mlp_depth: int
    mlp_width: int
    dit_depth: int
    dit_width: int
    dit_heads: int
    channels: int = 16
    vae_stride: int = 16
    vae_scale: float = 0.2325
    sampling: Mapping[str, SamplingConfig] = field(default_factory=lambda: {"default": SamplingConfig()})

    def __post_init__(self) -> None:
        _require_sizes(asdict(self), "")
        if not isinstance(self.vae_scale, int | float) or not 0 < self.vae_scale < float("inf"):
            raise ConfigError(f"vae_scale is {self.vae_scale!r}; it must be a positive number.")
        for width, heads in (("width", "heads"), ("dit_width", "dit_heads")):
            if getattr(self, width) % getattr(self, heads):
                raise ConfigError(
                    f"{width} {getattr(self, width)} does not divide into {heads} {getattr(self, heads)}; "
                    f"correct {heads}."
                )
        if self.img_size % self.vae_stride:
            raise ConfigError(f"img_size {self.img_size} is not a multiple of vae_stride {self.vae_stride}.")

    @property
    def grid(self) -> int:
        """Side h = w of the high-resolution token grid."""
        return self.img_size // self.vae_stride

    @property
    def low_positions(self) -> int:
        """S = s²: positions of phase low."""
        return self.cond_scale**2

    @property
    def high_positions(self) -> int:
        """N = h·w: positions of phase high."""
        return self.grid**2

    @property
    def positions(self) -> int:
        """L = S + N: positions the decoder predicts."""
        return self.low_positions + self.high_positions

    @property
    def default_sampling(self) -> SamplingConfig:
        """The first of the named sampling settings."""
        return next(iter(self.sampling.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `resolve(dict, {})` reads them back."""
        return asdict(self)


_IMAGENET = {"classes": 1000, "buffer": 64, "cond_scale": 8, "img_size": 256, "channels": 16}


def _paper(low_guidance: float, high_guidance: float, high_steps: int) -> dict[str, Any]:
    return {"paper": {"low_guidance": low_guidance, "high_guidance": high_guidance, "high_steps": high_steps}}


# Sizes: himar-model.md §1; sampling: §6.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "himar-b": {
        **_IMAGENET,
        **{"width": 768, "enc_depth": 12, "dec_depth": 12, "heads": 12, "mlp_depth": 6, "mlp_width": 1024},
        **{"dit_depth": 6, "dit_width": 512, "dit_heads": 8, "sampling": _paper(2.7, 2.5, 4)},
    },
    "himar-l": {
        **_IMAGENET,
        **{"width": 1024, "enc_depth": 16, "dec_depth": 16, "heads": 16, "mlp_depth": 8, "mlp_width": 1280},
        **{"dit_depth": 8, "dit_width": 512, "dit_heads": 8, "sampling": _paper(3.5, 3.5, 4)},
    },
    "himar-h": {
        **_IMAGENET,
        **{"width": 1280, "enc_depth": 20, "dec_depth": 20, "heads": 16, "mlp_depth": 12, "mlp_width": 1536},
        **{"dit_depth": 12, "dit_width": 768, "dit_heads": 12, "sampling": _paper(5.5, 3.2, 12)},
    },
    # scikit-learn's handwritten digits as 32x32 images; trained on a CPU, shipped in himar/weights.
    "digits": {
        **{"width": 64, "enc_depth": 2, "dec_depth": 2, "heads": 2, "classes": 10, "buffer": 4},
        **{"cond_scale": 4, "img_size": 32, "vae_stride": 4, "vae_scale": 0.95, "channels": 4},
        **{"mlp_depth": 3, "mlp_width": 96, "dit_depth": 3, "dit_width": 64, "dit_heads": 2},
        "sampling": {
            "default": {
                **{"low_steps": 8, "high_steps": 2, "low_guidance": 2.0, "high_guidance": 2.5},
                **{"low_diffusion_steps": 32, "high_diffusion_steps": 32},
                **{"guidance_schedule": "constant", "temperature": 0.9},
            }
        },
    },
}


def read_config(source: str | Path | Mapping[str, Any] | ModelConfig) -> dict[str, Any]:
    """Return the values that `source` gives: a preset's name, a JSON file, a mapping or a ModelConfig.

    A JSON file may hold only what shapes cannot tell ({"heads": 12, "dit_heads": 8}); values may also stand under
    a "config" key. "sampling" is one flat set of settings or several named ones. Raises ConfigError.
    """
    if isinstance(source, ModelConfig):
        return source.to_dict()
    if isinstance(source, Mapping):
        return _normalised(source, "config")
    if str(source) in PRESETS:
        return _normalised(PRESETS[str(source)], f"preset {source}")
    path = Path(source)
    if not path.is_file():
        raise ConfigError(
            f"configuration {str(source)!r} is neither a preset ({', '.join(PRESETS)}) nor a JSON file that exists."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not a readable JSON file: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object, not {type(values).__name__}.")
    return _normalised(values, str(path))


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
                f"correct the configuration or bring the checkpoint it describes."
            )
        values[name] = size
    required = [name for name, f in ModelConfig.__dataclass_fields__.items() if name not in _OPTIONAL]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{source} does not give {', '.join(missing)}, which the checkpoint's shapes cannot tell.")
    # 4s low steps (himar-model.md §6) where nothing else is said; fewer where the grid has not that many positions.
    side = values["cond_scale"]
    sampling = {
        name: SamplingConfig.from_dict(
            {"low_steps": min(4 * side, side**2), **settings}, f"{source}, sampling {name!r}"
        )
        for name, settings in values.pop("sampling", {"default": {}}).items()
    }
    config = ModelConfig(**values, sampling=sampling)
    for settings in sampling.values():
        try:
            settings.check_positions(config.low_positions, config.high_positions)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from error
    return config


_OPTIONAL = ("channels", "vae_stride", "vae_scale", "sampling")


def _require_sizes(values: Mapping[str, Any], where: str) -> None:
    for name, value in values.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if name not in ("sampling", "vae_scale") and not whole:
            raise ConfigError(f"{where}{name} is {value!r}; it must be a whole number of at least 1.")


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
        known = ", ".join([*ModelConfig.__dataclass_fields__, *_DIFFUSION_KEYS])
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
