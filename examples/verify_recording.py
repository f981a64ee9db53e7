"""Replays a recorded run of the eager model through engines: python examples/verify_recording.py BUNDLE RECORDING.npz

`himar-export record CHECKPOINT --labels 1,2 --out RECORDING.npz` writes the recording: every draw, step and result.
"""

import sys
from pathlib import Path

from himar_export.verify.verify import verify_recording
from himar_runtime import Bundle


def main(bundle: str, recording: str) -> int:
    """Print each output's relative error; return 1 unless all are within their limits."""
    comparisons = verify_recording(Bundle.open(bundle), Path(recording))
    for comparison in comparisons:
        print(f"{comparison.name}: {comparison.relative_l2:.1e}")
    return 0 if all(comparison.passed for comparison in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
