"""`refit` gives what a fresh build of the new checkpoint gives, and refuses what is not the same model."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from himar import load_checkpoint
from himar_export.cli import main
from himar_export.make.gpu import find_gpu
from himar_export.make.refit import _refit_engines, named_weights, require_same_structure
from himar_kernels import BuildError
from himar_runtime import Bundle

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_checkpoint) -> Path:
    """A bundle of checkpoint 1, and checkpoint 2 of the same sizes."""
    folder = tmp_path_factory.mktemp("refit")
    first = small_checkpoint(folder / "1.safetensors", 1)
    small_checkpoint(folder / "2.safetensors", 2)
    assert main(["build", str(first), "--fp16", "--max-batch", "3", "--out", str(folder / "bundle"), "--json"]) == 0
    return folder


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err


def test_a_refitted_bundle_is_a_fresh_build_bit_for_bit(capsys, folder, copied):
    """The bundle that is refitted is the same build with every weight zero, as another checkpoint's might be."""
    zeros = bytes((copied / "weights.bin").stat().st_size)
    (copied / "weights.bin").write_bytes(zeros)
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["files"]["weights.bin"]["sha256"] = hashlib.sha256(zeros).hexdigest()
    manifest["provenance"]["checkpoint"]["sha256"] = "0" * 64
    (copied / "manifest.json").write_text(json.dumps(manifest))

    refitted = folder / "refitted"
    assert main(["refit", str(copied), str(folder / "1.safetensors"), "--out", str(refitted), "--json"]) == 0
    bundles = (copied, refitted, folder / "bundle")
    old, new, fresh = (json.loads((bundle / "manifest.json").read_text()) for bundle in bundles)
    assert new["files"] == fresh["files"]
    assert new["files"]["weights.bin"] != old["files"]["weights.bin"]
    for key in ("model", "sampling", "max_batch", "backend", "components"):
        assert new[key] == fresh[key]
    assert new["provenance"]["checkpoint"]["sha256"] == fresh["provenance"]["checkpoint"]["sha256"]
    assert new["provenance"]["refitted"]["checkpoint"] == old["provenance"]["checkpoint"]
    assert main(["verify", str(refitted)]) == 0


def test_a_checkpoint_of_other_sizes_is_refused(capsys, folder, tmp_path, small_checkpoint):
    wider = small_checkpoint(tmp_path / "wide.safetensors", 1, mlp_width=64)
    message = refused(capsys, "refit", folder / "bundle", wider, "--out", tmp_path / "new")
    assert "mlp_width = 32, but the checkpoint's shapes say 64" in message
    assert not (tmp_path / "new").exists()


def test_a_vae_for_a_bundle_without_decoder_is_refused(capsys, folder, tmp_path):
    arguments = ("--vae", WEIGHTS / "digits-vae.safetensors", "--out", tmp_path / "new")
    message = refused(capsys, "refit", folder / "bundle", folder / "2.safetensors", *arguments)
    assert "has no VAE decoder; leave --vae out" in message


def test_an_output_that_exists_is_kept(capsys, folder):
    message = refused(capsys, "refit", folder / "bundle", folder / "2.safetensors", "--out", folder / "bundle")
    assert "exists already" in message


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    shutil.copytree(folder / "bundle", tmp_path / "copy")
    return tmp_path / "copy"


def test_weights_may_differ_and_nothing_else(folder, copied):
    require_same_structure(folder / "bundle" / "dit_head.onnx", copied / "dit_head.onnx")
    data = bytearray((copied / "weights.bin").read_bytes())
    data[:] = bytes(len(data))
    (copied / "weights.bin").write_bytes(data)
    require_same_structure(folder / "bundle" / "dit_head.onnx", copied / "dit_head.onnx")

    def changed(change) -> None:
        model = onnx.load(folder / "bundle" / "dit_head.onnx", load_external_data=False)
        change(model.graph)
        onnx.save(model, copied / "dit_head.onnx")
        with pytest.raises(
            BuildError, match=r"the graph dit_head\.onnx of the bundle is not the one that this version"
        ):
            require_same_structure(folder / "bundle" / "dit_head.onnx", copied / "dit_head.onnx")

    def another_operator(graph):
        next(node for node in graph.node if node.op_type == "Add").op_type = "Mul"

    def another_constant(graph):
        tensor = next(tensor for tensor in graph.initializer if tensor.name.startswith("val_"))
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array + 1, tensor.name))

    def another_shape(graph):
        tensor = next(tensor for tensor in graph.initializer if tensor.name == "x_embedder.bias")
        tensor.dims[0] += 1

    for change in (another_operator, another_constant, another_shape):
        changed(change)


def test_every_weight_is_found_with_the_type_and_the_bytes_of_the_graph(folder):
    weights = named_weights(folder / "bundle" / "dit_head.onnx")
    model = load_checkpoint(folder / "1.safetensors")
    fc1 = model.dit_head.blocks[0].mlp.fc1.weight.t().contiguous().half()
    found = weights["blocks.0.fc1.weight"]
    assert (found.dtype, found.count) == ("HALF", fc1.numel())
    assert found.data.tobytes() == fc1.numpy().tobytes()
    assert weights["x_embedder.bias"].dtype == "FLOAT"


def test_bfloat16_weights_keep_their_bits(tmp_path):
    values = torch.tensor([1.0, -0.1, 3e38], dtype=torch.bfloat16)
    bits = values.view(torch.int16).numpy().tobytes()
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.BFLOAT16, dims=[3], raw_data=bits)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor])), tmp_path / "g.onnx")
    weight = named_weights(tmp_path / "g.onnx")["w"]
    assert (weight.dtype, weight.count, weight.data.tobytes()) == ("BF16", 3, bits)
    library = pytest.importorskip("tensorrt_rtx")
    taken = weight.to_weights(library)
    assert (taken.dtype, taken.size) == (library.bfloat16, 3)


@pytest.fixture
def said_to_be_tensorrt(copied) -> Callable[[str], Path]:
    """Such a bundle can only be built with a GPU, so this one's engines are only said to be of TensorRT-RTX."""
    pytest.importorskip("tensorrt_rtx")

    def change(version: str) -> Path:
        manifest = json.loads((copied / "manifest.json").read_text())
        manifest["backend"] |= {"name": "tensorrt-rtx", "version": version, "refittable": True}
        (copied / "manifest.json").write_text(json.dumps(manifest))
        return copied

    return change


def test_engines_of_another_version_are_refused_before_anything_slow(capsys, folder, said_to_be_tensorrt, tmp_path):
    bundle = said_to_be_tensorrt("1.0.0")
    message = refused(capsys, "refit", bundle, tmp_path / "none.pth", "--out", tmp_path / "new")
    assert "engines are of tensorrt-rtx 1.0.0, and " in message
    assert "is installed here; install that version, or build the bundle anew" in message


@pytest.mark.skipif(find_gpu() is not None, reason="says what happens without a GPU")
def test_refitting_engines_without_a_gpu_is_refused(said_to_be_tensorrt, tmp_path):
    import tensorrt_rtx

    bundle = Bundle.open(said_to_be_tensorrt(tensorrt_rtx.__version__))
    with pytest.raises(BuildError, match="the graphs fit, but refitting engines of tensorrt-rtx takes a GPU"):
        _refit_engines(bundle, tmp_path, (), lambda text, fraction: None)
