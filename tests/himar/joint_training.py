"""One of the processes of a training that shares its batch; run by torchrun's variables, it saves what it learned."""

import shutil
import sys
from pathlib import Path

import torch

from himar.training.optimise import Schedule
from himar.training.processes import joined_processes
from himar.training.run import train_model
from himar.training.settings import Execution
from himar.training.trainer import Trainer
from tests.himar import tiny_training as tiny


def gradients(execution: Execution, processes) -> dict[str, torch.Tensor]:
    """The first step's gradients before clipping, whole, with dropout off."""
    from himar.training.network import whole

    settings = tiny.settings(clip=1e9, dropout=0.0, schedule=Schedule(1, 1e-3))
    trainer = Trainer(tiny.model(0.0), tiny.latents(), settings, 3, execution, processes)
    found = {}

    def keep(number: int) -> float:
        for name, parameter in trainer.model.named_parameters():
            found[name] = whole(parameter.grad).clone()
        return 0.0

    trainer._optimiser.update = keep
    trainer.step()
    return found


def both_trainings(folder: Path, execution: Execution, processes) -> dict:
    """Gradients of the first step, and a training with its resume from the middle."""
    result = {"gradients": gradients(execution, processes), "processes": processes.count}
    state, middle = folder / "state.safetensors", folder / "middle.safetensors"

    def keep_middle(trainer: Trainer) -> None:
        # A snapshot's state is written after this, so the last snapshot finds that of the one before.
        if trainer.done == 6 and processes.first and not middle.exists():
            shutil.copy(state, middle)

    for name, file in (("average", state), ("resumed", middle)):
        result[f"{name} figures"] = figures = []
        model = train_model(
            tiny.model(0.0),
            tiny.latents(),
            tiny.settings(6, dropout=0.0, snapshot_every=3),
            3,
            lambda progress, figures=figures: figures.append(dict(progress.figures)),
            keep_middle,
            execution=execution,
            processes=processes,
            state=file,
            resume=True,
        )
        result[name] = model.state_dict()
    return result


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined_processes("cpu") as (processes, device):
        results = {}
        for kind in ("ddp", "fsdp"):
            results[kind] = both_trainings(folder / kind, Execution(device, fsdp=kind == "fsdp"), processes)
        if processes.first:
            torch.save(results, folder / "result.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
