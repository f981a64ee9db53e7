"""Model configuration: presets by name, small JSON files, and the check against a checkpoint's shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from himar_kernels import ConfigError, InputError
from himar_kernels.families.hmar import RELEASED_SCHEDULE, SamplingConfig, Scales, recorded_settings
from himar_kernels.families.hmar.sizes import ScaleSizes

from ..configuration import read_values
from .presets import PRESETS

TAIL = 8
"""Blocks that every released model has twice."""

_MOST_SIZE = 10_000_000
"""Beyond every model, so that a slip of the finger is refused at once."""
_RECORDED = ("vae", "teacher_forcing", "training", "smooth")
"""What a recording's .json says beside a configuration; it says nothing of the model."""


@dataclass(frozen=True)
class ModelConfig(ScaleSizes):
    """Sizes of an HMAR model (docs/hmar-model.md §1) and its named sampling settings, the first the default.

    patch_nums: sides of the scales, coarse to fine; width C, depth D, heads: of the transformer; tail: n, the last
    blocks, which the masked network has for itself; classes: the class table has one more row, for guidance; vocab V,
    latent_channels Cv: of the codes; vae_ch, vae_groups: base width (None where nothing was said) and GroupNorm's
    groups of the tokenizer that the model was trained with; vae_stride: image pixels per side of a cell of the latent;
    masked: False where a checkpoint has the next-scale network alone.
    """

    patch_nums: tuple[int, ...]
    width: int
    depth: int
    heads: int
    tail: int
    classes: int
    vocab: int
    latent_channels: int
    vae_ch: int | None = None
    vae_groups: int = 32
    vae_stride: int = 16
    masked: bool = True
    sampling: Mapping[str, SamplingConfig] = field(default_factory=lambda: {"default": SamplingConfig()})

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_nums", Scales(self.patch_nums).sides)
        _require_sizes({each.name: getattr(self, each.name) for each in fields(self)}, "")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} does not divide into heads {self.heads}; correct heads.")
        if self.tail > self.depth:
            raise ConfigError(f"tail is {self.tail}, but the model has {self.depth} blocks; correct tail or depth.")

    @property
    def default_sampling(self) -> SamplingConfig:
        """The first of the named sampling settings."""
        return next(iter(self.sampling.values()))

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Raise InputError unless the model can sample so: schedule, top_k, and a masked network for masked steps."""
        sampling.check_model(self.scales, self.vocab)
        if sampling.masks and not self.masked:
            raise InputError(
                "schedule has masked steps, but this checkpoint has the next-scale network alone; leave schedule "
                "empty, or load it together with the masked network's checkpoint."
            )

    def next_scale_alone(self) -> ModelConfig:
        """Return these sizes without a masked network, and so without masked steps in any settings."""
        sampling = {name: settings.with_changes(schedule=()) for name, settings in self.sampling.items()}
        return replace(self, masked=False, sampling=sampling)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` reads them back."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        sampling = {name: settings.to_dict() for name, settings in self.sampling.items()}
        return {**values, "patch_nums": list(self.patch_nums), "sampling": sampling}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> ModelConfig:
        """Build from JSON values, as a configuration file has them. Raises ConfigError, naming `source`."""
        return resolve(read_config(values, source), {}, source)


CONFIG_KEYS = tuple(each.name for each in fields(ModelConfig))
"""What a configuration may say, as `read_config` takes it."""


def read_config(source: str | Path | Mapping[str, Any] | ModelConfig, name: str = "config") -> dict[str, Any]:
    """Return the values that `source` gives: a preset's name, a JSON file, a mapping or a ModelConfig.

    A JSON file may hold only what shapes cannot tell ({"vae_groups": 4}, or nothing at all); values may also stand
    under a "config" key, as in a recording's .json. "sampling" is one flat set of settings or several named ones.
    `name` is a mapping's in errors. Raises ConfigError.
    """
    if isinstance(source, ModelConfig):
        return source.to_dict()
    return read_values(source, PRESETS, _normalised, name)


def describes(keys: Collection[str]) -> bool:
    """Whether a configuration file with these keys is an HMAR model's."""
    return "patch_nums" in keys


def resolve(given: Mapping[str, Any], measured: Mapping[str, Any], source: str = "config") -> ModelConfig:
    """Join given values with those measured from a checkpoint's shapes (`measured` may be empty).

    Without a masked network named settings lose their masked steps, which nothing could run.
    Raises ConfigError when the two contradict each other, or when something that shapes cannot tell is missing.
    """
    values = dict(given)
    for name, size in measured.items():
        if name in values and values[name] != size:
            raise ConfigError(
                f"{source} says {name} = {_shown(values[name])}, but the checkpoint says {_shown(size)}; correct the "
                f"configuration or bring the checkpoint it describes."
            )
        values[name] = size
    required = [each for each in _REQUIRED if each not in values]
    if required:
        raise ConfigError(f"{source} does not give {', '.join(required)}, which the checkpoint's shapes cannot tell.")
    values.setdefault("tail", min(TAIL, values["depth"]))
    named = values.pop("sampling", None) or {"default": {}}
    masked = values.get("masked", True)
    config = ModelConfig(**values)
    sampling = {}
    for name, settings in named.items():
        where = f"{source}, sampling {name!r}"
        plain = {**_defaults(config), **settings}
        chosen = SamplingConfig.from_dict(plain if masked else {**plain, "schedule": ()}, where)
        try:
            config.check_sampling(chosen)
        except InputError as error:
            raise ConfigError(f"{where}: {error}") from error
        sampling[name] = chosen
    return ModelConfig(**values, sampling=sampling)


_OPTIONAL = ("tail", "vae_ch", "vae_groups", "vae_stride", "masked", "sampling")
_REQUIRED = tuple(name for name in CONFIG_KEYS if name not in _OPTIONAL)


def _defaults(config: ModelConfig) -> dict[str, Any]:
    """Settings where nothing else is said: the released defaults, as far as the model has so many codes and cells."""
    cells = config.scales.cells[: len(RELEASED_SCHEDULE)]
    fits = cells == tuple(sum(counts) for counts in RELEASED_SCHEDULE)
    return {"top_k": min(SamplingConfig.top_k, config.vocab), "schedule": RELEASED_SCHEDULE if fits else ()}


def _require_sizes(values: Mapping[str, Any], where: str) -> None:
    for name, value in values.items():
        if name in ("sampling", "patch_nums") or (name == "vae_ch" and value is None):
            continue
        if name == "masked":
            if not isinstance(value, bool):
                raise ConfigError(f"{where}masked is {value!r:.40}; it must be true or false.")
            continue
        least = 0 if name == "tail" else 1
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST_SIZE:
            raise ConfigError(
                f"{where}{name} is {value!r:.40}; it must be a whole number of at least {least}, at most {_MOST_SIZE}."
            )


def _normalised(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Flatten the accepted spellings into ModelConfig's field names; refuse unknown keys."""
    nested = values.get("config", {})
    if not isinstance(nested, Mapping):
        raise ConfigError(f"{source}: config is {nested!r:.80}; it must be a JSON object.")
    flat = {name: value for name, value in {**values, **nested}.items() if name not in ("config", *_RECORDED)}
    unknown = sorted(set(flat) - set(CONFIG_KEYS))
    if unknown:
        raise ConfigError(f"{source}: unknown key {unknown[0]!r}; known keys: {', '.join(CONFIG_KEYS)}.")
    _require_sizes(flat, f"{source}: ")
    if "patch_nums" in flat:
        try:
            flat["patch_nums"] = Scales(flat["patch_nums"]).sides
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
    if "sampling" in flat:
        sampling = flat["sampling"]
        if not isinstance(sampling, Mapping):
            raise ConfigError(f"{source}: sampling must be a JSON object.")
        several = sampling and all(isinstance(each, Mapping) for each in sampling.values())
        named = sampling if several else {"default": sampling}
        flat["sampling"] = {name: recorded_settings(settings) for name, settings in named.items()}
    return flat


def _shown(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)[:100]
