"""Trains an HMAR of the digits from nothing: tokenizer, codes, both networks. It made the weights that himar ships.

The next-scale network has a folder of its own below the output, with its state and its weights in full precision; the
masked network is trained over those, and what it leaves is the whole model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from himar.data.codes.codes import hash_of
from himar.data.digits import Digits, load_digits_split
from himar.loading.checkpoint_files import weights_sha256
from himar.training.board import require_board
from himar.training.family import Request, Start
from himar.training.optimise import Schedule as StepSchedule
from himar.training.run import BOARD_FOLDER, Outputs, run_training
from himar.training.settings import check_seed
from himar.training.state import STATE_FILE, require_free
from himar_kernels import CheckpointError, ConfigError
from himar_kernels.families.hmar import Scales
from himar_kernels.shared.files import require_writable_folder

from .checkpoints import load_checkpoint
from .config import ModelConfig
from .loss_draws import LossSettings
from .model import Network
from .optimisation import Schedule
from .tokenizer.files import load_tokenizer, require_fit, save_tokenizer
from .tokenizer.network import Quantizer, Tokenizer
from .tokenizer.sizes import TokenizerConfig
from .tokenizer.training import TokenizerTraining, shifts, train_tokenizer
from .training_settings import TrainingSettings, changed_settings

DIGIT_IMAGES = 1437
"""Training digits: what an epoch of them is."""
VAE_FILE, MODEL_FILE = "hmar-digits-vae.safetensors", "hmar-digits.safetensors"
NEXT_SCALE_FOLDER = "next-scale"
LARGEST_SHIFT = 1
"""Both networks learn from every digit as it is and moved by up to so many pixels."""

DIGITS_TOKENIZER = TokenizerTraining(
    config=TokenizerConfig(
        ch=8, ch_mult=(1, 2, 4), latent_channels=8, vocab=256, groups=4, num_res_blocks=1, attention_levels=()
    ),
    scales=Scales((1, 2, 3, 5, 8)),
    schedule=StepSchedule(steps=300, peak=3e-3, warmup=30, decay="cosine"),
    batch=32,
    shift=LARGEST_SHIFT,
)


def _phase(phase: Network, steps: int, peak: float) -> TrainingSettings:
    schedule = Schedule(steps=steps, peak=peak, warmup=steps // 20, end=0.0)
    # Gates as large as the other weights: a short run has no time for blocks that begin as nothing.
    return TrainingSettings(
        schedule, batch=32, phase=phase, gate=1.0, snapshot_every=100, loss=LossSettings(depth_drop=0.1), order="draws"
    )


DIGITS_PHASES: Mapping[Network, TrainingSettings] = {
    "next-scale": _phase("next-scale", 800, 2.5e-3),
    "masked": _phase("masked", 200, 1.5e-3),
}


@dataclass(frozen=True)
class Recipe:
    """The settings of all three trainings."""

    next_scale: TrainingSettings = DIGITS_PHASES["next-scale"]
    masked: TrainingSettings = DIGITS_PHASES["masked"]
    tokenizer: TokenizerTraining = field(default_factory=lambda: DIGITS_TOKENIZER)

    @property
    def batch(self) -> int:
        """Images per step of both networks' trainings, over all processes."""
        return self.next_scale.batch

    @classmethod
    def changed(cls, options: Mapping[str, Any]) -> Recipe:
        """Return the recipe with the options of `himar train`, which apply to both networks. Raises ConfigError."""
        phases = {name: changed_settings(each, DIGIT_IMAGES, options) for name, each in DIGITS_PHASES.items()}
        return cls(phases["next-scale"], phases["masked"])


@dataclass(frozen=True)
class DigitCodes:
    """Digits as codes, each with its shifted copies; see `himar.data.codes.codes.Codes`. codes: (n, copies, L)."""

    codes: Tensor
    labels: Tensor
    quantizer: Quantizer
    scales: Scales

    def draw(self, chosen: Tensor, needed: Collection[slice], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See Codes.draw: one of each digit's copies at random."""
        copy = torch.randint(self.codes.shape[1], (len(chosen),), generator=generator)
        return self.codes[chosen, copy], self.labels[chosen]

    def values(self, chosen: Tensor) -> dict[str, Any]:
        """See Codes.values: a hash of all codes of the images."""
        return {"codes": hash_of(self.codes[chosen])}


def train_digits(config: ModelConfig, recipe: Recipe, request: Request) -> Path:
    """Train tokenizer, next-scale and masked network and write them to `request.out`; return the model's file.

    A tokenizer that the folder already has is used as it is, and with `request.resume` so are finished phases. Raises
    ConfigError when the model's sizes do not suit the digits, and as `run_training` does; what can be refused is
    refused before the tokenizer is trained.
    """
    out, processes = request.out, request.processes
    _check_sizes(config, recipe.tokenizer)
    check_seed(request.seed)
    request.execution.require_processes(processes.count)
    for settings in (recipe.next_scale, recipe.masked):
        processes.parts(settings.batch, request.execution.accumulate)
    folders: dict[Network, Path] = {"next-scale": out / NEXT_SCALE_FOLDER, "masked": out}
    for folder in folders.values():
        require_free(folder / STATE_FILE, request.resume)
        if request.board:
            require_board(folder / BOARD_FOLDER)
    if processes.first:
        require_writable_folder(out, CheckpointError)
    train, _ = load_digits_split()
    if processes.first and not (out / VAE_FILE).exists():
        trained = train_tokenizer(recipe.tokenizer, train.images, request.seed, request.on_stage("tokenizer"))
        save_tokenizer(trained, out / VAE_FILE, torch.float16)
    processes.wait()
    # Read back, so that the codes are those of the half-precision weights that users have.
    tokenizer = load_tokenizer(out / VAE_FILE, config)
    codes = digit_codes(tokenizer, config.scales, train)

    def phase(settings: TrainingSettings, file: str, dtype: torch.dtype, start: Start | None) -> Path:
        board, grid, keep = request.board, request.grid, request.keep
        return run_training(
            replace(config, masked=settings.phase == "masked"),
            codes,
            settings,
            request.seed,
            Outputs(folders[settings.phase], file, dtype, request.released, grid, board, keep),
            request.on_stage(settings.phase),
            vae=tokenizer,
            execution=request.execution,
            processes=processes,
            resume=request.resume,
            start=start,
        )

    written = phase(recipe.next_scale, "model.safetensors", torch.float32, request.start)
    processes.wait()
    start = Start(load_checkpoint(written), weights_sha256(written))
    return phase(recipe.masked, MODEL_FILE, torch.float16, start)


def digit_codes(tokenizer: Tokenizer, scales: Scales, digits: Digits, most: int = LARGEST_SHIFT) -> DigitCodes:
    """Encode the digits and their copies, shifted by up to `most` pixels."""
    with torch.no_grad():
        copies = [
            torch.cat([tokenizer.encode(part, scales) for part in copy.split(128)])
            for copy in shifts(digits.images, most)
        ]
    return DigitCodes(torch.stack(copies, dim=1), digits.labels, tokenizer.quantize, scales)


def _check_sizes(config: ModelConfig, tokenizer: TokenizerTraining) -> None:
    if config.scales != tokenizer.scales:
        raise ConfigError(
            f"patch_nums is {list(config.scales.sides)}, but the digits' tokenizer has {list(tokenizer.scales.sides)}; "
            f"use --config hmar-digits."
        )
    with torch.device("meta"):
        require_fit(Tokenizer(tokenizer.config), config, "what --data digits trains")
    if config.classes < 10:
        raise ConfigError(f"classes is {config.classes}, but there are 10 digits; set it to 10.")
