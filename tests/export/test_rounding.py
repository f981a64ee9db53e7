"""The check of half-precision engines with a GPU's rounding, by itself."""

import numpy as np

from himar_export.make.rounding import HalfCalls
from himar_runtime import Bundle, Device, load_networks


def test_an_engine_that_was_called_once_is_checked_once(digits_fp16_bundle):
    bundle = Bundle.open(digits_fp16_bundle)
    calls = HalfCalls(bundle)
    networks = calls.watch(load_networks(bundle, Device("cpu"), None))
    networks["vae_decoder"].run({"latent": np.zeros((1, 4, 8, 8), np.float32)})
    (checked,) = calls.check()
    assert checked.name == "vae_decoder: image, rounded as on a GPU" and checked.passed
