"""Options of TensorRT's builders: each backend takes what it has and refuses the rest in a sentence."""

import logging
import types

import pytest

from himar_export.cli import main
from himar_export.cli.inspect import built_for
from himar_export.make import engines as make_engines
from himar_export.make.engine_cache import EngineCache
from himar_export.make.engines import EngineTarget
from himar_export.make.gpu import Gpu, find_gpu
from himar_export.tensorrt.options import EngineOptions, check_fp8, check_options, parse_size, runs_here, target
from himar_kernels import BuildError

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
H100, TURING, ADA = Gpu("NVIDIA H100", "9.0"), Gpu("NVIDIA T4", "7.5"), Gpu("NVIDIA L4", "8.9")


@pytest.mark.parametrize(
    ("backend", "options", "gpu", "text"),
    [
        ("tensorrt", {"optimization_level": 6}, H100, "the optimization level is 6; it must be 0 to 5"),
        ("tensorrt-rtx", {"optimization_level": -1}, None, "the optimization level is -1"),
        ("tensorrt-rtx", {"workspace": 1000}, None, "the workspace is 1000 bytes; it must be 1MiB to"),
        ("tensorrt-rtx", {"workspace": 1 << 90}, None, f"the workspace is {1 << 90} bytes; it must be 1MiB to"),
        ("tensorrt", {}, None, r"builds engines on the GPU that they are for, and none .*--backend tensorrt-rtx"),
        ("tensorrt", {"gpus": ("sm_89",)}, H100, "--gpu sm_89 is an option of tensorrt-rtx"),
        ("tensorrt", {"hardware_compatible": True}, TURING, r"from Ampere on \(8.0\), and NVIDIA T4 is of 7.5"),
        ("tensorrt-rtx", {"version_compatible": True}, H100, "--version-compatible is an option of tensorrt:"),
        ("tensorrt-rtx", {"hardware_compatible": True}, H100, "--hardware-compatible is an option of tensorrt:"),
        (
            "tensorrt-rtx",
            {"gpus": ("sm_90",)},
            None,
            r"--gpu 'sm_90' is unknown to TensorRT-RTX .*sm_86, sm_89, sm_120.*; for a Hopper build with --backend",
        ),
        (
            "tensorrt-rtx",
            {"gpus": ("current",)},
            H100,
            r"does not support this machine's NVIDIA H100 .*9\.0\); for it build",
        ),
        ("tensorrt-rtx", {"gpus": ("hopper",)}, None, "--gpu 'hopper' is unknown"),
        ("tensorrt-rtx", {"gpus": ("sm_89", "sm_89")}, None, "names the same GPU twice"),
        ("tensorrt-rtx", {"gpus": ("sm_89", "SM89")}, None, "names the same GPU twice"),
        ("tensorrt-rtx", {"gpus": ("current", "sm_89")}, ADA, "--gpu current goes alone, not with sm_89"),
        ("tensorrt-rtx", {"gpus": ("current",)}, None, "this machine's GPU, and none can be used here"),
        ("tensorrt-rtx", {"refittable": True}, None, r"with the GPU's driver, and none .*without --refittable"),
    ],
)
def test_what_cannot_be_honoured_is_refused(backend, options, gpu, text):
    with pytest.raises(BuildError, match=text):
        check_options(EngineOptions(**options), backend, tensorrt_rtx, gpu)


AMPERE = Gpu("NVIDIA A100", "8.0")


@pytest.mark.parametrize(
    ("backend", "options", "gpu", "text"),
    [
        (
            "tensorrt",
            {},
            AMPERE,
            r"8\.9 or later \(Ada, .*\), and this machine's NVIDIA A100 is of 8\.0;",
        ),
        (
            "tensorrt-rtx",
            {"gpus": ("current",)},
            TURING,
            r"this machine's NVIDIA T4 is of 7\.5; build for another",
        ),
        (
            "tensorrt-rtx",
            {"gpus": ("sm_120", "sm_86")},
            None,
            r"and --gpu sm_86 is of 8\.6; build for another GPU",
        ),
        (
            "tensorrt",
            {"hardware_compatible": True},
            H100,
            r"from Ampere on, and fp8 takes .* 8\.9 or later; leave",
        ),
        ("tensorrt", {"refittable": True}, H100, "engines in fp8 keep the scales that they were built with"),
    ],
)
def test_fp8_is_refused_for_gpus_that_have_none(backend, options, gpu, text):
    with pytest.raises(BuildError, match=text):
        check_fp8(EngineOptions(**options), backend, gpu)


@pytest.mark.parametrize(
    ("backend", "options", "gpu"),
    [
        ("tensorrt", {}, H100),
        ("tensorrt", {"version_compatible": True}, ADA),
        ("tensorrt-rtx", {}, AMPERE),  # for other GPUs, which is said
        ("tensorrt-rtx", {"gpus": ("sm_89", "sm_120", "sm_121")}, None),
        ("tensorrt-rtx", {"gpus": ("current",)}, ADA),
    ],
)
def test_fp8_is_built_for_gpus_that_have_it(backend, options, gpu):
    check_fp8(EngineOptions(**options), backend, gpu)


@pytest.mark.parametrize(
    ("backend", "options", "gpu"),
    [
        ("tensorrt", {"version_compatible": True, "hardware_compatible": True, "refittable": True}, H100),
        ("tensorrt", {"optimization_level": 0, "workspace": 1 << 33}, TURING),
        ("tensorrt-rtx", {"gpus": ("sm_75", "sm_120")}, None),
        ("tensorrt-rtx", {"gpus": ("current",), "refittable": True}, ADA),
        ("tensorrt-rtx", {"gpus": ("sm_89",)}, H100),
        ("tensorrt-rtx", {}, H100),
    ],
)
def test_what_can_be_honoured_is_taken(backend, options, gpu):
    check_options(EngineOptions(**options), backend, tensorrt_rtx, gpu)


def test_engines_of_tensorrt_rtx_are_built_for_others_on_a_gpu_that_it_does_not_support(monkeypatch, caplog):
    for here, runs, warned in ((H100, False, True), (ADA, True, False), (None, False, False)):
        monkeypatch.setattr(make_engines, "find_gpu", lambda here=here: here)
        caplog.clear()
        with caplog.at_level(logging.INFO, "himar.notices"):
            found = make_engines.prepare_target("tensorrt-rtx", EngineOptions(), None)
        assert found.runs_here is runs
        assert ("warning: these engines are for other GPUs: TensorRT-RTX" in caplog.text) is warned


def test_a_tensorrt_without_attention_layers_is_refused():
    old = types.SimpleNamespace(__name__="tensorrt", __version__="10.13.3", LayerType=types.SimpleNamespace())
    with pytest.raises(BuildError, match=r"tensorrt 10\.13\.3 has no Attention layer.*10\.14"):
        check_options(EngineOptions(), "tensorrt", old, H100)


def test_what_the_engines_are_for_is_written_down():
    plain = EngineOptions()
    assert target(plain, "tensorrt", H100) == {"compute_capability": "9.0"}
    compatible = EngineOptions(hardware_compatible=True)
    assert target(compatible, "tensorrt", H100) == {"compute_capability": None, "least_compute_capability": "8.0"}
    assert target(plain, "tensorrt-rtx", None) == {"compute_capability": None, "compute_capabilities": None}
    several = target(EngineOptions(gpus=("sm_86", "sm_120")), "tensorrt-rtx", None)
    assert several == {"compute_capability": None, "compute_capabilities": ["8.6", "12.0"]}
    current = target(EngineOptions(gpus=("current",)), "tensorrt-rtx", H100)
    assert current == {"compute_capability": "9.0", "compute_capabilities": None}
    fp8 = target(plain, "tensorrt-rtx", None, fp8=True)
    assert fp8 == {"compute_capability": None, "compute_capabilities": None, "least_compute_capability": "8.9"}
    assert target(plain, "tensorrt", H100, fp8=True) == {"compute_capability": "9.0"}
    assert target(EngineOptions(gpus=("sm_89",)), "tensorrt-rtx", None, fp8=True)["compute_capabilities"] == ["8.9"]


def test_engines_run_here_only_on_a_gpu_that_they_are_for():
    assert not runs_here(EngineOptions(), None)
    assert runs_here(EngineOptions(), H100)
    assert runs_here(EngineOptions(gpus=("current",)), H100)
    assert not runs_here(EngineOptions(gpus=("sm_89", "sm_120")), H100)
    assert runs_here(EngineOptions(gpus=("sm_120",)), Gpu("NVIDIA RTX 5090", "12.0"))
    assert runs_here(EngineOptions(), ADA, fp8=True)
    assert not runs_here(EngineOptions(), AMPERE, fp8=True)


def test_the_gpu_is_part_of_an_engine_only_where_the_builder_measures_on_it(tmp_path):
    """A TensorRT-RTX engine that was built on a GPU machine is the one that is built without a GPU."""
    cache = EngineCache(tmp_path)
    assert not EngineTarget("tensorrt-rtx", tensorrt_rtx, EngineOptions(), H100, cache).measures
    assert EngineTarget("tensorrt", tensorrt_rtx, EngineOptions(), H100, cache).measures
    current = EngineTarget("tensorrt-rtx", tensorrt_rtx, EngineOptions(gpus=("current",)), H100, cache)
    assert current.measures
    assert current.backend_entry()["gpu"] == "NVIDIA H100"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"compute_capability": "9.0", "gpu": "NVIDIA H100"}, "GPUs of compute capability 9.0 (NVIDIA H100); this"),
        ({"least_compute_capability": "8.0"}, "8.0 and later; this version alone"),
        (
            {"compute_capabilities": None, "least_compute_capability": "8.9"},
            "that its builder covers by default, from compute capability 8.9 on; this",
        ),
        ({"compute_capabilities": ["8.6", "12.0"]}, "8.6, 12.0; this version alone"),
        ({"compute_capability": None}, "that its builder covers by default"),
        ({"version_compatible": True, "refittable": True}, "this version and later ones; weights can be refitted"),
    ],
)
def test_inspect_says_it_in_words(entry, text):
    assert text in built_for(entry)


@pytest.mark.parametrize(("text", "size"), [("8GiB", 8 << 30), ("512MiB", 512 << 20), ("64 kib", 64 << 10), ("7", 7)])
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "8 giraffes", "1.5GiB"])
def test_a_size_that_is_none(text):
    with pytest.raises(ValueError, match="is not a size; write for example 8GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--opt-level", "5"], 2, "--opt-level is an option of TensorRT's builders; give --backend tensorrt or"),
        (["--gpu", "sm_89"], 2, "--gpu is an option of TensorRT's builders"),
        (["--refittable"], 2, "--refittable is an option of TensorRT's builders"),
        (["--no-cache"], 2, "--cache and --no-cache need --backend tensorrt"),
        (["--backend", "tensorrt-rtx", "--no-cache", "--cache", "c"], 2, "contradict each other"),
        (["--backend", "tensorrt-rtx", "--workspace", "much"], 2, "'much' is not a size"),
        (["--backend", "tensorrt-rtx", "--gpu", "sm_90"], 1, "--gpu 'sm_90' is unknown to TensorRT-RTX"),
        (["--backend", "tensorrt-rtx", "--fp8", "--gpu", "sm_86"], 1, "and --gpu sm_86 is of 8.6; build for another"),
        (
            ["--backend", "tensorrt-rtx", "--fp16", "--precision", "dit_head=fp8", "--gpu", "sm_80"],
            1,
            "--gpu sm_80 is of 8.0",
        ),
        (["--backend", "openvino"], 2, "'openvino' is not one of"),
    ],
)
def test_the_command_refuses_before_it_reads_a_checkpoint(capsys, tmp_path, arguments, code, text):
    assert main(["build", str(tmp_path / "none.pth"), *arguments, "--out", str(tmp_path / "b")]) == code
    assert text in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_building_for_tensorrt_where_it_is_not_installed_names_the_extra_and_the_index(capsys, tmp_path, monkeypatch):
    from himar_runtime.engines.tensorrt import library as tensorrt_library

    monkeypatch.setattr(tensorrt_library, "_first", lambda names: None)
    assert main(["build", str(tmp_path / "x.pth"), "--backend", "tensorrt", "--out", str(tmp_path / "b")]) == 1
    message = capsys.readouterr().err
    assert "pip install 'himar[tensorrt]' --extra-index-url https://pypi.nvidia.com" in message


@pytest.mark.gpu
def test_this_machines_gpu_is_found():
    found = find_gpu()
    assert found is not None
    assert found.name.startswith("NVIDIA")
    assert float(found.capability) >= 7.5
