"""Write the bundles that the C++ tests use: write_bundles.py FOLDER. They are those of tests/runtime/conftest.py."""

import importlib.util
import shutil
import sys
from pathlib import Path

CONFTEST = Path(__file__).resolve().parents[3] / "tests" / "runtime" / "conftest.py"


def main(folder: Path) -> None:
    """Write each bundle into a folder of its own, anew."""
    spec = importlib.util.spec_from_file_location("runtime_conftest", CONFTEST)
    assert spec is not None and spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    conftest.write_bundle(folder / "tiny", max_batch=4)
    conftest.write_bundle(folder / "no-decoder", decoder=False)
    for name in ("transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder"):
        conftest.write_bundle(folder / f"nan-{name}", poison={name: float("nan")})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
