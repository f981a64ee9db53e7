"""The inception score (Salimans et al. 2016), over ten parts of the images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError

SPLITS = 10
_SEED = 0


def inception_score(probabilities: NDArray[np.floating], splits: int = SPLITS) -> tuple[float, float]:
    """Return mean and standard deviation over the parts of exp(mean KL(p(y|x) ‖ p(y))) of probabilities (n, K).

    The images are shuffled (always alike) before they are split: in a folder that is sorted by class, consecutive
    parts would hold few classes each and score far too low. Raises InputError for fewer images than parts.
    """
    count = len(probabilities)
    if count < splits:
        raise InputError(f"there are {count} images; the inception score needs at least {splits}, one in each part.")
    order = np.random.Generator(np.random.PCG64(_SEED)).permutation(count)
    scores = []
    for part in np.array_split(order, splits):
        chosen = probabilities[part].astype(np.float64)
        marginal = chosen.mean(axis=0, keepdims=True)
        # 0 · log 0 is 0: a class that no image shows adds nothing.
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(chosen > 0, chosen * (np.log(chosen) - np.log(marginal)), 0)
        scores.append(np.exp(terms.sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
