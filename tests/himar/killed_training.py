"""Starts a training again and again and kills it each time; run as a script, it prints what it found as JSON.

Forked from a process that has only imported what it needs: a kill then costs no start of Python.
"""

import json
import os
import random
import select
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch._dynamo  # The optimiser imports it at its first step: once here, instead of once in every child.

sys.path.insert(0, str(Path(__file__).parent))
import tiny_training as tiny

from himar.checkpoints import load_checkpoint
from himar.folder_lock import LOCK_FILE
from himar.train_data import fingerprint
from himar.train_run import Outputs, run_training
from himar.train_state import STATE_FILE, load_state
from himar.training import train_model

STEPS = 80


def train(folder: Path, told: int) -> None:
    outputs = Outputs(folder, released=True)
    settings = tiny.settings(STEPS, snapshot_every=1)

    def on_step(progress: object) -> None:
        os.write(told, b"x")

    run_training(tiny.TINY, tiny.latents(), settings, 3, outputs, on_step, resume=True)


def killed_once(folder: Path, steps: int, delay: float) -> float:
    """Kill a training some seconds after it has done some steps; return the seconds from its first step to its last.

    Three more steps end the wait too: a machine that was busy and no longer is does not let the training end.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(folder, write)
        finally:
            os._exit(0)
    os.close(write)
    times = [time.monotonic() for _ in range(steps) if os.read(read, 1)]
    until = time.monotonic() + delay
    for _ in range(3):
        if select.select([read], [], [], max(0.0, until - time.monotonic()))[0]:
            os.read(read, 1)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the training ended before it was killed"
    os.close(read)
    return times[-1] - times[0]


def main(folder: Path, kills: int) -> None:
    torch.set_num_threads(1)
    chance = random.Random(5)
    steps, left_overs = [], 0
    # A step with its files takes longer on a busy machine: kills fall anywhere in the first two.
    cycle = killed_once(folder, 4, 0.0) / 3
    for _ in range(kills):
        killed_once(folder, 1, chance.uniform(0, 2 * cycle))
        left_overs += sum(path.name.startswith(".") and path.name != LOCK_FILE for path in folder.iterdir())
        # Each file loads whenever it exists; `load_state` raises otherwise.
        if (folder / STATE_FILE).exists():
            steps.append(load_state(folder / STATE_FILE, expected_run()).step)
        for name in ("model.safetensors", "checkpoint-last.pth"):
            if (folder / name).exists():
                load_checkpoint(folder / name, tiny.TINY)
    # The rest in one go, with fewer snapshots, against a run that nothing ever stopped.
    settings = tiny.settings(STEPS, snapshot_every=STEPS)
    run_training(tiny.TINY, tiny.latents(), settings, 3, Outputs(folder), resume=True)
    averaged = train_model(tiny.model(), tiny.latents(), settings, 3).state_dict()
    ended = load_state(folder / STATE_FILE, expected_run()).group("average")
    different = [name for name, value in averaged.items() if not value.equal(ended[name])]
    hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    print(json.dumps({"steps": steps, "left_overs": left_overs, "hidden": hidden, "different": different}))


def expected_run() -> dict:
    settings = asdict(tiny.settings(STEPS, snapshot_every=1))
    data = fingerprint(tiny.latents())
    return {"config": tiny.TINY.to_dict(), "settings": settings, "seed": 3, "data": data}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
