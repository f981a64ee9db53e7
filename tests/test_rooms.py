"""The four rooms and their arrows: who may import whom, and a runtime that works where torch does not exist."""

import ast
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "kernels": ("himar_kernels", {"numpy", "click", "rich", "tokenizers", "ftfy"}, set()),
    "himar": ("himar", None, {"himar_kernels"}),
    "runtime": ("himar_runtime", {"numpy", "onnxruntime", "PIL", "cuda"}, {"himar_kernels"}),
    "export": ("himar_export", None, {"himar_kernels", "himar", "himar_runtime"}),
}
# Programs of the runtime with needs of their own, which nothing else may import.
PROGRAMS = {
    ROOT / "runtime" / "himar_runtime" / "service": {
        *("click", "fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn")
    },
    ROOT / "runtime" / "himar_runtime" / "service" / "ray_serve.py": {"ray"},
    ROOT / "runtime" / "himar_runtime" / "triton": {"triton_python_backend_utils"},
    ROOT / "runtime" / "himar_runtime" / "bench_server": {"aiohttp", "click", "rich"},
}
PACKAGES = {package for package, _, _ in ROOMS.values()}


def imported_modules(path: Path) -> set[str]:
    """Top-level names of every absolute import in a file, also those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_arrows_allow(room):
    package, third_party, rooms = ROOMS[room]
    for path in (ROOT / room / package).rglob("*.py"):
        imports = imported_modules(path) - {package}
        assert imports & PACKAGES <= rooms, f"{path} imports {imports & PACKAGES - rooms}"
        if third_party is not None:
            others = imports - PACKAGES - set(sys.stdlib_module_names)
            for folder, own in PROGRAMS.items():
                others -= own if path.is_relative_to(folder) else set()
            assert others <= third_party, f"{path} imports {others - third_party}"


def test_no_file_of_tensors_is_opened_as_numpy():
    """safetensors read as NumPy fails on bfloat16 and float8 with an AttributeError that names no tensor."""
    for room in (*ROOMS, "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "safetensors.numpy" not in text, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "safe_open":
                    named = [each.value for each in node.keywords if each.arg == "framework"]
                    framework = (named or node.args[1:])[0]
                    assert isinstance(framework, ast.Constant) and framework.value == "pt", path


def test_importing_the_kernels_and_the_runtime_loads_no_heavy_library():
    code = (
        "import sys, himar_kernels, himar_runtime;"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'PIL', 'click', 'rich', 'tokenizers'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="session")
def torch_free_path(tmp_path_factory) -> Path:
    """A folder of installed packages that holds the runtime's dependencies and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    site = Path(sysconfig.get_paths()["purelib"])
    wanted = ("numpy", "onnxruntime", "PIL", "pillow", "click", "rich", "pygments", "markdown_it", "mdurl", "himar-")
    for path in site.iterdir():
        if path.name.lower().replace("_gpu", "").startswith(tuple(name.lower() for name in wanted)):
            (folder / path.name).symlink_to(path)
    extra = ("flatbuffers", "google", "packaging", "typing_extensions.py", "coloredlogs", "humanfriendly", "protobuf")
    for name in extra:
        if (site / name).exists():
            (folder / name).symlink_to(site / name)
    for room, (package, *_) in ROOMS.items():
        (folder / package).symlink_to(ROOT / room / package)
    return folder


def run_without_torch(site: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(site)}
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_bundle_generates_where_torch_is_not_installed(torch_free_path, digits_bundle):
    assert run_without_torch(torch_free_path, "-c", "import torch").returncode != 0
    code = (
        "from himar_runtime import Pipeline\n"
        f"result = Pipeline.load({str(digits_bundle)!r}).generate([3, 8], seed=1, high_steps=1, low_steps=2)\n"
        "print(result.images.shape, result.images.dtype)"
    )
    done = run_without_torch(torch_free_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 32, 32, 3) uint8"


def test_verify_runs_where_torch_is_not_installed(torch_free_path, digits_bundle):
    code = "import sys; from himar_export.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run_without_torch(torch_free_path, "-c", code, "verify", str(digits_bundle))
    assert done.returncode == 0, done.stderr
    assert "outputs match" in done.stdout


def test_the_training_command_without_torch_says_which_extra_to_install(torch_free_path, tmp_path):
    code = "import sys; from himar.cli import main; sys.exit(main(sys.argv[1:]))"
    assert run_without_torch(torch_free_path, "-c", code, "--help").returncode == 0
    done = run_without_torch(torch_free_path, "-c", code, "init", "--config", "digits", "--out", str(tmp_path / "x"))
    assert done.returncode == 1
    assert "pip install 'himar[model]'" in done.stderr


def test_build_without_torch_says_which_extra_to_install(torch_free_path, tmp_path):
    code = "import sys; from himar_export.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run_without_torch(torch_free_path, "-c", code, "build", "x.pth", "--out", str(tmp_path / "b"))
    assert done.returncode == 1
    assert "pip install 'himar[export]'" in done.stderr


def test_the_service_without_its_extra_says_which_to_install(torch_free_path, tmp_path):
    code = "import sys; from himar_runtime.service.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run_without_torch(torch_free_path, "-c", code, str(tmp_path))
    assert done.returncode == 1
    assert "pip install 'himar[service]'" in done.stderr


def test_the_service_loads_no_torch():
    code = "import sys, himar_runtime.service.server; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
