"""Which TensorRT serves a backend, what is said where it is absent, and where its messages go."""

import importlib
import logging

import pytest

from himar_kernels import BuildError, EngineError
from himar_runtime.engines.tensorrt import library as tensorrt_library
from himar_runtime.engines.tensorrt.library import (
    collected_errors,
    first_error,
    library_logger,
    library_version,
    load_builder,
    load_library,
)

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def absent(monkeypatch):
    """Make importing some modules fail, as on a machine where they are not installed."""
    real = importlib.import_module

    def hide(*names: str) -> None:
        def import_module(name: str):
            if name in names:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name)

        monkeypatch.setattr(tensorrt_library.importlib, "import_module", import_module)

    return hide


def test_each_backend_gets_its_own_library():
    assert load_library("tensorrt-rtx") is load_builder("tensorrt-rtx") is tensorrt_rtx
    assert library_version(tensorrt_rtx) == tensorrt_rtx.__version__


def test_the_lean_runtime_runs_where_the_full_library_is_absent(absent):
    lean = pytest.importorskip("tensorrt_lean")
    absent("tensorrt")
    assert load_library("tensorrt") is lean


def test_the_lean_runtime_does_not_build(absent):
    absent("tensorrt")
    with pytest.raises(BuildError, match=r"needs tensorrt, .*himar\[tensorrt\]' --extra-index-url .*pypi\.nvidia\.com"):
        load_builder("tensorrt")


def test_what_is_absent_is_named_with_how_to_install_it(absent):
    absent("tensorrt", "tensorrt_lean", "tensorrt_rtx")
    with pytest.raises(EngineError, match=r"tensorrt or tensorrt_lean is not installed.*pypi\.nvidia"):
        load_library("tensorrt")
    with pytest.raises(EngineError, match=r"tensorrt_rtx is not installed here; .*himar\[tensorrt-rtx\].\.$"):
        load_library("tensorrt-rtx")
    with pytest.raises(BuildError, match=r"building for tensorrt-rtx needs tensorrt_rtx.*himar\[tensorrt-rtx\]"):
        load_builder("tensorrt-rtx")


@pytest.mark.parametrize(("load", "error"), [(load_library, EngineError), (load_builder, BuildError)])
def test_a_backend_that_is_no_tensorrt(load, error):
    with pytest.raises(error, match="backend 'onnxruntime' is not TensorRT; known are tensorrt, tensorrt-rtx"):
        load("onnxruntime")


def parse_nonsense() -> None:
    logger = library_logger(tensorrt_rtx)
    builder = tensorrt_rtx.Builder(logger)
    network = builder.create_network()
    parser = tensorrt_rtx.OnnxParser(network, logger)
    assert not parser.parse(b"no ONNX model")


def test_an_error_of_the_library_is_collected_for_the_exception(caplog):
    with caplog.at_level(logging.WARNING), collected_errors(tensorrt_rtx) as lines:
        parse_nonsense()
    assert "\n" not in first_error(lines)
    assert first_error(lines) in lines[0]
    assert not caplog.records


def test_an_error_that_nobody_collects_is_a_warning_in_the_log(caplog):
    with collected_errors(tensorrt_rtx) as lines:
        pass
    with caplog.at_level(logging.WARNING):
        parse_nonsense()
    assert lines == []
    assert first_error(lines) == "TensorRT reported no reason"
    assert any("tensorrt_rtx: " in record.message for record in caplog.records)


def test_there_is_one_logger_for_a_library():
    assert library_logger(tensorrt_rtx) is library_logger(tensorrt_rtx)
