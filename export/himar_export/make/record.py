"""`himar-export record`: from a checkpoint to a recording on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from himar.families.hi_mar.checkpoints import load_checkpoint
from himar_kernels import PhiloxDraws, check_labels
from himar_kernels.families.hi_mar.sampling import choose_sampling
from himar_kernels.shared.options import chosen_labels
from himar_runtime.families.hi_mar.family import require_phases

from ..families.hi_mar.phases import model_info
from ..families.hi_mar.record import Arrays, record
from ..files import require_new, write_npz
from .assemble import load_fitting_vae


def record_run(
    checkpoint: Path,
    out: Path,
    labels: list[int | str],
    *,
    config: str | None,
    vae: Path | None,
    weights: str | None,
    seed: int,
    case: str,
    sampling_name: str | None,
    guidance: float | None,
    advance: Callable[[str, float], None],
    **changes: Any,
) -> Arrays:
    """Run the eager model and write the recording; returns it. Raises what loading and sampling raise."""
    require_new(out)
    advance("reading the checkpoint", 0.0)
    model = load_checkpoint(checkpoint, config, weights=weights)
    decoder = load_fitting_vae(vae, model)
    sampling = choose_sampling(model.config.sampling, sampling_name, guidance, changes, "model")
    require_phases(model_info(model.config), sampling, changes, f"the model of {checkpoint}")
    numbers = chosen_labels(labels, model.class_names, str(checkpoint))
    checked = check_labels(numbers, model.config.classes).tolist()
    advance("running the eager model", 0.1)
    arrays = record(model, decoder, checked, draws=PhiloxDraws(seed), sampling=sampling, case=case)
    write_npz(out, arrays)
    return arrays
