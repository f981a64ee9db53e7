"""Starts a training again and again and kills it each time; run as a script, it prints what it found as JSON.

Forked from a process that has only imported what it needs: a kill then costs no start of Python.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import tiny_training as tiny

from himar.checkpoints import load_checkpoint
from himar.optimise import Schedule
from himar.train_data import fingerprint
from himar.train_run import Outputs, run_training
from himar.train_state import STATE_FILE, load_state
from himar.training import train_model

STEPS = 60


def train(folder: Path, ready: int | None = None) -> None:
    told = False

    def on_step(progress: object) -> None:
        nonlocal told
        if ready is not None and not told:
            os.write(ready, b"x")
        told = True

    outputs = Outputs(folder, released=True)
    settings = tiny.settings(STEPS, snapshot_every=1)
    run_training(tiny.TINY, tiny.latents(), settings, 3, outputs, on_step, resume=True)


def killed_once(folder: Path, delay: float) -> bool:
    """Return True when the training was alive until it was killed, `delay` seconds after its first step."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(folder, write)
        finally:
            os._exit(0)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(folder: Path, kills: int) -> None:
    torch.set_num_threads(1)
    # What PyTorch imports at the first step is imported once, here.
    train_model(tiny.model(), tiny.latents(), tiny.settings(schedule=Schedule(1, 1e-3)), 0)
    chance = random.Random(5)
    steps, left_overs = [], 0
    for _ in range(kills):
        assert killed_once(folder, chance.uniform(0, 0.12)), "the training ended before it was killed"
        left_overs += sum(path.name.startswith(".") for path in folder.iterdir())
        # Each file loads whenever it exists; `load_state` raises otherwise.
        if (folder / STATE_FILE).exists():
            steps.append(load_state(folder / STATE_FILE, expected_run()).step)
        for name in ("model.safetensors", "checkpoint-last.pth"):
            if (folder / name).exists():
                load_checkpoint(folder / name, tiny.TINY)
    train(folder)
    train(folder.with_name("whole"))
    ended, whole = (load_state(place / STATE_FILE, expected_run()) for place in (folder, folder.with_name("whole")))
    different = [name for name, value in whole.tensors.items() if not value.equal(ended.tensors[name])]
    hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    print(json.dumps({"steps": steps, "left_overs": left_overs, "hidden": hidden, "different": different}))


def expected_run() -> dict:
    settings = asdict(tiny.settings(STEPS, snapshot_every=1))
    data = fingerprint(tiny.latents())
    return {"config": tiny.TINY.to_dict(), "settings": settings, "seed": 3, "data": data}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
