"""Records a bundle's self-test from the eager model and replays it; bfloat16 is emulated where no kernel runs it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import onnx
import onnx.inliner

from himar.families.hi_mar.config import ModelConfig
from himar.families.hi_mar.model import HiMAR
from himar.vae.autoencoder import AutoencoderKL
from himar_export.families.hi_mar.phases import model_info
from himar_export.families.hi_mar.record import Arrays, record
from himar_export.graph.precision_choice import Precision
from himar_export.graph.vae_decoder import check_half_arithmetic
from himar_export.verify.compare import Comparison
from himar_export.verify.verify import COMPONENT_LIMIT, SELFTEST_CASE, backend_for, verify
from himar_kernels import PhiloxDraws, VerificationError
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.phases import PhaseInfo
from himar_kernels.shared.files import file_sha256
from himar_runtime import Bundle

SELFTEST_HIGH_STEPS = 2
SELFTEST_CHAIN = 50
SELFTEST_FLOPS = 1e12


def check_selftest(
    folder: Path,
    selftest: Arrays,
    vae: AutoencoderKL | None,
    precisions: Mapping[str, Precision],
    device: str,
) -> list[Comparison]:
    """Replay a self-test through the bundle in `folder`; return the comparisons, all of which passed.

    device: where the engines run; on the CPU it is the ONNX graphs that are run, bfloat16 in emulation. Raises
    VerificationError naming the worst output.
    """
    with emulated_bundle(folder) if device == "cpu" else nullcontext(folder) as runnable:
        comparisons = verify(Bundle.open(runnable), selftest, SELFTEST_CASE, device, backend_for(device))
    if device == "cpu" and vae is not None and (precision := precisions["vae_decoder"]) != "fp32":
        limit = COMPONENT_LIMIT[precision]
        comparisons.append(check_half_arithmetic(vae, precision, selftest["vae/latent"], limit))
    failed = [c for c in comparisons if c.passed is False]
    if failed:
        worst = max(failed, key=lambda c: c.relative_l2)
        raise VerificationError(
            f"{worst.name} differs from the eager model by {worst.relative_l2:.2e} (limit {worst.limit:.0e}), so "
            f"the bundle was not kept; build that component with --precision NAME=fp32, or report it."
        )
    return comparisons


def record_selftest(model: HiMAR, vae: AutoencoderKL | None) -> Arrays:
    """A short guided run of two images through both phases, and one forward of each component."""
    config = model.config
    usual = config.default_sampling
    sampling = SamplingConfig(
        low_steps=min(2, max(config.low_positions, 1)),
        high_steps=min(SELFTEST_HIGH_STEPS, config.high_positions),
        low_guidance=_guided(usual.low_guidance),
        high_guidance=_guided(usual.high_guidance),
        low_diffusion_steps=SELFTEST_CHAIN,
        high_diffusion_steps=_affordable_chain(config, model_info(config).phase("high")),
    )
    labels = [0, config.classes - 1]
    return record(model, vae, labels, draws=PhiloxDraws(0), sampling=sampling, case=SELFTEST_CASE)


def _affordable_chain(config: ModelConfig, phase: PhaseInfo) -> int:
    """Return the longest chain whose head fits the self-test's FLOPs; short ones magnify rounding (see verify).

    A DiT head runs over every position in each step, an MLP head once for every position.
    """
    if phase.kind == "dit":
        rows, multiplications = 4 * phase.positions, 18 * config.dit_width**2 * config.dit_depth
    else:
        rows, multiplications = 4 * phase.positions // SELFTEST_HIGH_STEPS, 5 * config.mlp_width**2 * config.mlp_depth
    one_step = 2 * rows * multiplications
    return int(min(max(SELFTEST_FLOPS / (SELFTEST_HIGH_STEPS * one_step), 12), SELFTEST_CHAIN))


def _guided(scale: float) -> float:
    """Guidance doubles the rows, and engines have been wrong at some row counts alone: always test with it."""
    return scale if scale != 1 else 2.0


_BF16, _FP32 = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT


@contextmanager
def emulated_bundle(folder: Path) -> Iterator[Path]:
    """Yield a bundle that the CPU can run: `folder` itself, or a temporary copy with bfloat16 emulated."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    halves = [entry for entry in manifest["components"].values() if entry["precision"] == "bf16"]
    if not halves:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.emulated.", dir=folder.parent) as temporary:
        copy = Path(temporary)
        for entry in manifest["components"].values():  # the graphs are what is run, so engines need not be copied
            if entry["engine"]["file"] != entry["file"]:
                del manifest["files"][entry["engine"]["file"]]
                entry["engine"] = {"backend": "onnxruntime", "file": entry["file"]}
        for name in manifest["files"]:
            shutil.copyfile(folder / name, copy / name)
        for entry in halves:
            file = entry["file"]
            _emulate(folder / file, copy / file)
            entry |= {"precision": "fp32", "emulates": "bf16"}
            for name in (file, f"{file}.data"):
                if (copy / name).exists():
                    size = (copy / name).stat().st_size
                    manifest["files"][name] = {"sha256": file_sha256(copy / name), "bytes": size}
        (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        yield copy


def _emulate(source: Path, target: Path) -> None:
    """Write to `target` the graph of `source` with bfloat16 rounding kept and float32 arithmetic."""
    model = onnx.inliner.inline_local_functions(onnx.load(source, load_external_data=False))
    onnx.load_external_data_for_model(model, str(source.parent))
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == _BF16:
            values = onnx.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        to = next((a for a in node.attribute if node.op_type == "Cast" and a.name == "to"), None)
        if to is not None and to.i == _BF16:
            rounded = node.output[0]
            node.output[0] = f"{rounded}_bf16"
            nodes.append(onnx.helper.make_node("Cast", [node.output[0]], [rounded], to=_FP32))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    onnx.save(model, target, save_as_external_data=True, location=f"{target.name}.data")
