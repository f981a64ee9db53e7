"""How far a run of engines may be from the eager model's: as far as its chain magnifies rounding, in float32 too."""

import pytest

from himar_export.families.hi_mar.verify import FLOAT32_GAIN, run_limits
from himar_export.verify.limits import RUN_LIMIT
from himar_kernels.families.hi_mar import SamplingConfig
from himar_runtime import Bundle
from tests.conftest import GOLDEN


@pytest.mark.parametrize(
    ("steps", "solver", "limit"),
    [
        (250, "ddpm", 1.0),  # the released chain
        (50, "ddpm", 5.0),  # a self-test's: eager PyTorch with oneDNN and without differ by half of RUN_LIMIT there
        (8, "ddpm", FLOAT32_GAIN),  # magnifies more than an error of the engines' own may hide in
        (8, "dpm++", 1.0),  # a solver magnifies nothing
    ],
)
def test_float32_has_the_room_that_its_chain_needs(steps: int, solver: str, limit: float) -> None:
    chain = {"low_diffusion_steps": steps, "high_diffusion_steps": steps, "low_solver": solver, "high_solver": solver}
    bundle = Bundle.open(GOLDEN / "bundle-1.2" / "bundle")
    assert run_limits(bundle, SamplingConfig(**chain)) == pytest.approx([limit * RUN_LIMIT["fp32"]] * 2, rel=0.01)
