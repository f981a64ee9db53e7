"""Training on a GPU: the CPU's losses, exact resume, half precision and compilation together."""

import sys
from pathlib import Path

import pytest
from closeness import assert_near

sys.path.insert(0, str(Path(__file__).parent))
import joint_training
import tiny_training as tiny

from himar.train_processes import Processes
from himar.train_settings import Execution
from himar.training import train_model

pytestmark = pytest.mark.gpu


def figures(execution: Execution, **changes) -> list[dict]:
    kept = []
    settings = tiny.settings(4, dropout=0.0, **changes)
    train_model(
        tiny.model(0.0), tiny.latents(), settings, 0, lambda p: kept.append(dict(p.figures)), execution=execution
    )
    return kept


def test_a_gpu_has_the_cpus_gradients():
    ours = joint_training.gradients(Execution("cuda"), Processes())
    theirs = joint_training.gradients(Execution(), Processes())
    ours = {name: value.cpu() for name, value in ours.items()}
    for name, value in theirs.items():
        assert (ours[name] - value).norm() <= 1e-3 * value.norm() + 1e-5, name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_compiled_half_precision_follows_the_cpus_losses(precision):
    ours = figures(Execution("cuda", compile=True, recompute=True), precision=precision)
    theirs = figures(Execution())
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=0.1)


def test_a_resume_on_a_gpu_follows_the_run_that_never_stopped(tmp_path):
    class StopHereError(Exception):
        pass

    def stop(progress):
        if progress.step == 8:
            raise StopHereError

    arguments = (tiny.latents(), tiny.settings(), 0)
    execution, state = Execution("cuda"), tmp_path / "state.safetensors"
    whole = train_model(tiny.model(), *arguments, execution=execution)
    with pytest.raises(StopHereError):
        train_model(tiny.model(), *arguments, stop, execution=execution, state=state)
    resumed = train_model(tiny.model(), *arguments, execution=execution, state=state, resume=True)
    for name, value in whole.state_dict().items():
        # Sums on a GPU may be taken in another order.
        assert_near(resumed.state_dict()[name], value, 1e-4, name)
