"""One of the processes that train a model from text and its tower together; run by torchrun's variables."""

import sys
from pathlib import Path

import torch

from himar.families.hi_mar.joint import JointHiMAR
from himar.families.hi_mar.training_settings import TrainingSettings
from himar.training.optimise import Schedule
from himar.training.processes import Processes, joined_processes
from himar.training.run import train_model
from himar.training.settings import Execution
from tests.himar.tiny_text import joint, joint_data

SETTINGS = TrainingSettings(
    schedule=Schedule(steps=3, peak=1e-3), batch=8, ema=0.9, dropout=0.0, snapshot_every=3, order="epochs"
)


def trained(execution: Execution, processes: Processes) -> dict[str, torch.Tensor]:
    """The averaged weights of both after three steps."""
    model = JointHiMAR(joint())
    return train_model(model, joint_data(), SETTINGS, 3, execution=execution, processes=processes).state_dict()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined_processes("cpu") as (processes, device):
        found = {kind: trained(Execution(device, fsdp=kind == "fsdp"), processes) for kind in ("ddp", "fsdp")}
        if processes.first:
            torch.save(found, folder / "result.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
