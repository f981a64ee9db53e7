"""One of the processes of HMAR trainings that share a batch; run by torchrun's variables, it saves what it learned."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from himar.families.hmar.loss_draws import LossSettings
from himar.training.processes import Processes, joined_processes
from himar.training.run import train_model
from himar.training.settings import Execution

from . import tiny_training as tiny

KINDS = {"ddp": Execution(), "fsdp": Execution(fsdp=True)}


def trainings(execution: Execution, processes: Processes) -> dict[str, dict]:
    """Weights and losses of four steps of each phase."""
    found = {}
    for phase in ("next-scale", "masked"):
        losses = []
        begun = tiny.start()
        masked = phase == "masked"
        settings = tiny.settings(4, phase=phase, loss=LossSettings(depth_drop=0.3))
        state = Path(sys.argv[1]) / f"{phase}-{execution.fsdp}.safetensors" if len(sys.argv) > 1 else None
        with_start = {"start": begun} if masked else {}
        model = train_model(
            tiny.model(masked),
            tiny.codes(),
            settings,
            3,
            lambda progress, losses=losses: losses.append(progress.figures["loss"]),
            execution=execution,
            processes=processes,
            state=state,
            **with_start,
        )
        found[phase] = {"weights": {n: v.clone() for n, v in model.state_dict().items()}, "losses": losses}
    return found


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined_processes("cpu") as (processes, _):
        results = {kind: trainings(execution, processes) for kind, execution in KINDS.items()}
        if processes.first:
            torch.save(results, folder / "result.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
