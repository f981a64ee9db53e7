"""Builds the wheel and the source distribution, installs each outside a checkout and uses it there; prints a table.

    python -m tests.run_on_packages [--python PYTHON ...] [--keep FOLDER]

Every row is a new virtual environment of one Python (default: 3.11, 3.12 and 3.13, of which those that are not
installed are left out by name, and there must be one) with one of the two packages
and its extras "export" and "service", in a folder that sees nothing of the repository. There the shipped digits are
built, verified, generated from and served. Needs a package index; takes a few minutes per row. Exits 1 where a step
fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("python3.11", "python3.12", "python3.13")
EXTRAS = "export,service"
IMPORTED = """
import sys, sysconfig
import himar, himar_export, himar_kernels, himar_runtime
for package in (himar, himar_export, himar_kernels, himar_runtime):
    assert package.__file__.startswith(sysconfig.get_path("purelib")), package.__file__
"""
SHIPPED = "from importlib.resources import files; print(files('himar') / 'weights')"


def packages(folder: Path) -> dict[str, Path]:
    """Build the wheel and the source distribution of the repository in `folder`; return them by kind."""
    subprocess.run([sys.executable, "-m", "venv", folder / "builder"], check=True)
    python = folder / "builder" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "hatchling"], check=True)
    build = [python, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", folder / "dist"]
    subprocess.run(build, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = (list((folder / "dist").glob(ending)) for ending in ("*.whl", "*.tar.gz"))
    return {"wheel": wheel, "sdist": sdist}


def use(python: str, package: Path, folder: Path) -> Iterator[str]:
    """Install a package in a new environment and use it in `folder`; yield each step's name once it has succeeded.

    Raises CalledProcessError for the first one that fails.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
        return done.stdout

    run(python, "-m", "venv", "venv")
    binaries = folder / "venv" / "bin"
    run(binaries / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{package}[{EXTRAS}]")
    yield "install"
    run(binaries / "python", "-c", IMPORTED)
    yield "import"
    weights = Path(run(binaries / "python", "-c", SHIPPED).strip())
    vae = weights / "digits-vae.safetensors"
    export = binaries / "himar-export"
    run(export, "build", weights / "digits.safetensors", "--vae", vae, "--max-batch", "4", "--out", "digits")
    yield "build"
    run(export, "verify", "digits")
    yield "verify"
    run(export, "generate", "digits", "--labels", "0-9", "--out", "digits.png")
    yield "generate"
    run(binaries / "himar", "sample", weights / "digits.safetensors", "--vae", vae, "--labels", "3", "--out", "3.png")
    yield "sample"
    serve(binaries / "himar-serve", folder, environment)
    yield "serve"


def serve(command: Path, folder: Path, environment: dict[str, str]) -> None:
    """Ask a server of the bundle for an image; raises CalledProcessError where it gives none."""
    with subprocess.Popen(
        [command, "digits", "--port", "0"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            body = json.dumps({"labels": [3], "seed": 1}).encode()
            request = urllib.request.Request(f"{url}/v1/images", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=120) as answer:
                image = json.load(answer)["images"][0]
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise subprocess.CalledProcessError(1, [str(command)], stderr=f"no image: {error!r}") from error
        finally:
            server.terminate()
    if image["label"] != 3:
        raise subprocess.CalledProcessError(1, [str(command)], stderr=f"an image of another label: {image['label']}")


def runs(python: str) -> bool:
    """Return whether a command is a Python that runs; a version manager's may be a name without one behind it."""
    try:
        return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
    except OSError:
        return False


def outcome(steps: Callable[[], Iterator[str]]) -> tuple[str, str]:
    """Take all steps; return those that succeeded in words, and the end of what the failing one wrote, or ""."""
    done: list[str] = []
    try:
        for name in steps():
            done.append(name)
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        return ", ".join(done), f"{command}\n{(error.stderr or '')[-2000:]}"
    return ", ".join(done), ""


def main() -> int:
    """Run every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", metavar="PYTHON", help=f"default: {', '.join(PYTHONS)}")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the environments there")
    arguments = parser.parse_args()
    pythons, lacking = arguments.python or [python for python in PYTHONS if runs(python)], []
    if not arguments.python:
        lacking = [f"{python} is not installed here: left out." for python in PYTHONS if python not in pythons]
    if not pythons:
        parser.error(f"none of {', '.join(PYTHONS)} is installed here; name another with --python")
    lines, failures = ["| row | succeeded | seconds |", "|---|---|---|"], []
    with tempfile.TemporaryDirectory(prefix="himar-packages-") as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        for kind, package in packages(folder).items():
            for python in pythons:
                name = f"{kind}-{Path(python).name}"
                (folder / name).mkdir(parents=True)
                start = time.perf_counter()
                succeeded, failure = outcome(lambda p=python, f=package, n=name: use(p, f, folder / n))
                lines.append(f"| {name} | {succeeded} | {time.perf_counter() - start:.0f} |")
                if failure:
                    failures.append(f"{name}: {failure}")
    print("\n".join([*lines, *lacking, *failures]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
