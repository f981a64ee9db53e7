"""Defines the work of a training step: its forward, gradients, and recomputation.

Gradients cost twice what the forward does: one matmul for the input's gradient, one for the weight's. Inputs that need
none are left out. Optimiser and moving average have no matmuls. Families count their steps in `families/NAME/cost`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingCost:
    """Operations of one step.

    forward_flops: of the loss; block_flops: the transformer blocks' share of it; data_flops: the share of matmuls
    whose input is data, which needs no gradient; as much for a weight that is frozen, twice for both.
    """

    forward_flops: int
    block_flops: int
    data_flops: int

    def __add__(self, other: TrainingCost) -> TrainingCost:
        return TrainingCost(
            self.forward_flops + other.forward_flops,
            self.block_flops + other.block_flops,
            self.data_flops + other.data_flops,
        )

    @property
    def model_flops(self) -> int:
        """What the model needs, forward and backward: the numerator of model-FLOPs utilisation."""
        return 3 * self.forward_flops - self.data_flops

    def executed_flops(self, recompute: bool) -> int:
        """What is done: `recompute` runs the transformer blocks' forward once more (4 times instead of 3 in all)."""
        return self.model_flops + (self.block_flops if recompute else 0)
