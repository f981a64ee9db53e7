"""Every Python name that a page writes out exists, every Python block parses, and single names occur in the source."""

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
from functools import cache
from typing import Any

import pytest

from tests.docs.markdown import ROOT, blocks, inline_code, pages
from tests.docs.shell import options_of

_DOTTED = re.compile(r"(?<![\w./-])(himar(?:_\w+)?(?:\.\w+)+)")
_FILES = re.compile(r"\.(h|hpp|md|py|cpp|json|toml|so|onnx|png|pth|safetensors|yml)$")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\(\))?")
_SOURCES = ("*.py", "*.cpp", "*.h", "*.hpp", "*.cu", "*.cuh", "*.c", "*.js", "*.html", "*.css", "*.txt", "*.cmake")
_SOURCES += ("*.toml", "*.json", "*.yml", "*.yaml", "*.sh", "Makefile", "*.in")

ELSEWHERE = {
    "APIStatusError",  # OpenAI's client
    "DynamicQuantizeLinear",  # ONNX
    "equal_weights",  # arrays of recordings
    "f_hatSS",
    "GELU_BIAS",  # cuBLASLt
    "InstanceNormalization",  # ONNX
    "least_conn",  # nginx
    "MatMulNBits",  # ONNX Runtime
    "max_errored_blocks",  # Ray Data
    "plain_weights",
    "POSIX_FADV_WILLNEED",  # Linux
    "plugin_namespace",  # TensorRT
}
"""Names of other programs' files and interfaces that pages mention and himar's source does not."""


def found(name: str) -> bool:
    """Whether a dotted name can be imported, up to attributes of a class that only its instances have."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for place, part in enumerate(parts[count:], count):
            if inspect.isclass(value) and place == len(parts) - 1 and not hasattr(value, part):
                fields = (
                    {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
                )
                return part in fields | {name for one in value.__mro__ for name in getattr(one, "__annotations__", {})}
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


@pytest.mark.parametrize("page", pages())
def test_dotted_names_can_be_imported(page):
    for code in inline_code(page):
        for name in _DOTTED.findall(code):
            if not _FILES.search(name):
                assert found(name), f"{page} names `{name}`, which does not exist"


@pytest.mark.parametrize("page", pages())
def test_python_blocks_parse_and_import_names_that_exist(page):
    for block in blocks(page):
        if block.language.split()[:1] != ["python"]:
            continue
        for node in ast.walk(ast.parse(block.code, block.place)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("himar"):
                for alias in node.names:
                    assert found(f"{node.module}.{alias.name}"), f"{block.place}: {node.module} has no {alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.startswith("himar"):
                        assert found(alias.name), f"{block.place}: there is no {alias.name}"


def test_a_name_that_does_not_exist_is_noticed():
    assert found("himar_runtime.Pipeline.generate") and found("himar_runtime.Result.images")
    assert not found("himar_runtime.Pipeline.draw") and not found("himar_runtime.nothing")


@cache
def words() -> set[str]:
    """Every word of the source, file names included."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *_SOURCES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    text = "\n".join(
        (ROOT / name).read_text(encoding="utf-8", errors="replace") for name in listed if (ROOT / name).is_file()
    )
    return set(re.findall(r"\w+", text)) | {part for name in listed for part in re.findall(r"\w+", name)}


@pytest.mark.parametrize("page", pages())
def test_single_names_occur_in_the_source(page):
    # Ray Serve takes himar-serve's options with underscores.
    known = words() | ELSEWHERE | {option.strip("-").replace("-", "_") for option in options_of("himar-serve")[""]}
    names = {
        code.removesuffix("()")
        for code in inline_code(page)
        if _NAME.fullmatch(code) and ("_" in code or "(" in code or re.search(r"[a-z][A-Z]", code))
    }
    assert names <= known, f"{page} names {sorted(names - known)}, which no source has"
