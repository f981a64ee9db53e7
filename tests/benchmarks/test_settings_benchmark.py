"""Settings are compared by composed seconds: every call of the real schedule must be in the sum."""

from __future__ import annotations

import json

from benchmarks import settings
from himar_kernels.shared.console import run_cli


def test_settings_of_a_bundle_side_by_side(digits_bundle, capsys) -> None:
    asked = [str(digits_bundle), "--sampling", "default", "--sampling", "fast", "--batch", "2", "--threads", "1"]
    quick = ["--rounds", "1", "--shapes", "2"]
    assert run_cli(settings.main, [*asked, *quick, "--json"]) == 0
    default, fast = json.loads(capsys.readouterr().out).values()
    parts = {"transformer_low", "mlp_head", "transformer_high", "dit_head", "vae_decoder", "host"}
    assert default.keys() == fast.keys() == parts
    assert all(seconds > 0 for seconds in default.values())
    assert fast["dit_head"] < default["dit_head"] / 3  # an eighth of its calls
    assert run_cli(settings.main, [*asked, *quick]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert f"{digits_bundle} default: " in first and "1.000 of the first" in first and "dit_head" in second


def test_a_setting_that_a_bundle_lacks_is_named(digits_bundle, capsys) -> None:
    assert run_cli(settings.main, [str(digits_bundle), "--sampling", "slow"]) == 1
    assert "sampling 'slow' is not in this bundle; it has default" in capsys.readouterr().err
