"""A small network's rows are shared out among threads: the same numbers, at any number of rows, from any lane."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from closeness import COMPONENT, assert_near, distance

from himar_kernels import EngineError
from himar_runtime import Bundle, ComponentSpec, Device, TensorSpec
from himar_runtime.ort_engine import OrtEngine
from himar_runtime.ort_parts import MOST_WEIGHTS, shared_rows

CPU = Device("cpu")
THREADS = 3


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)


def _load(bundle: Bundle, name: str, threads: int, weight_bytes: int = MOST_WEIGHTS) -> OrtEngine:
    """Load a component that says it has the most weights that are still small, so that few rows are worth parts."""
    spec = replace(bundle.manifest.components[name], weight_bytes=weight_bytes)
    return OrtEngine.load(bundle.path(spec.engine_file), spec, CPU, threads)


def _parts(engine: OrtEngine) -> int:
    assert engine._parts is not None
    return engine._parts.count


def _head_inputs(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    x, condition = (random.standard_normal((rows, 16, width)).astype(np.float32) for width in (2, 4))
    return {"x": x, "timestep": np.array([3]), "condition": condition}


def test_parts_give_the_whole_calls_numbers_at_any_number_of_rows(bundle: Bundle) -> None:
    whole, engine = _load(bundle, "dit_head", 1), _load(bundle, "dit_head", THREADS)
    for seed, rows in enumerate((7, 2, 1, 7, 7)):
        inputs = _head_inputs(rows, seed)
        engine.bind({"condition": inputs["condition"]})
        found = engine.run({"x": inputs["x"], "timestep": inputs["timestep"]})["prediction"]
        assert _parts(engine) == (min(rows, THREADS) if rows > 1 else 0)
        assert_near(found, whole.run(inputs)["prediction"], COMPONENT)


def test_outputs_of_another_engine_are_cut_where_they_lie(bundle: Bundle) -> None:
    first, second = _load(bundle, "dit_head", THREADS), _load(bundle, "dit_head", THREADS)
    inputs = _head_inputs(5)
    for seed in (1, 2):
        there = first.run_on_device(_head_inputs(5, seed))["prediction"]
        found = second.run({**inputs, "x": there})["prediction"]
        expected = _load(bundle, "dit_head", 1).run({**inputs, "x": there.numpy()})["prediction"]
        assert_near(found, expected, COMPONENT)


def test_a_decoder_is_cut_though_the_session_alone_knows_an_images_size(bundle: Bundle) -> None:
    whole, engine = _load(bundle, "vae_decoder", 1), _load(bundle, "vae_decoder", THREADS)
    for images, side in ((2, 2), (5, 4), (5, 2)):
        latent = np.random.default_rng(side).standard_normal((images, 2, side, side)).astype(np.float32)
        found = engine.run({"latent": latent})["image"]
        assert _parts(engine) == min(images, THREADS)
        assert_near(found, whole.run({"latent": latent})["image"], COMPONENT)


def test_lanes_that_share_the_workers_keep_their_own_results(bundle: Bundle) -> None:
    engine = _load(bundle, "dit_head", THREADS)
    lanes = [engine, engine.clone(), engine.clone()]
    expected = [_load(bundle, "dit_head", 1).run(_head_inputs(6, seed))["prediction"] for seed in range(3)]

    def work(seed: int) -> bool:
        runs = (lanes[seed].run(_head_inputs(6, seed))["prediction"] for _ in range(20))
        return all(distance(run, expected[seed]) <= COMPONENT for run in runs)

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(work, range(3)))


def test_small_calls_large_networks_and_one_thread_stay_whole(bundle: Bundle) -> None:
    small = _load(bundle, "dit_head", THREADS, weight_bytes=400)
    small.run(_head_inputs(7))
    assert _parts(small) == 0
    assert _load(bundle, "dit_head", 1)._parts is None
    large = _load(bundle, "dit_head", THREADS, weight_bytes=MOST_WEIGHTS + 1)
    assert large._parts is None
    assert large._session.get_session_options().intra_op_num_threads == THREADS


def test_index_lists_point_into_other_rows_so_transformers_stay_whole(bundle: Bundle) -> None:
    assert shared_rows(bundle.manifest.components["mlp_head"]) == {"x", "condition", "prediction"}
    assert shared_rows(bundle.manifest.components["vae_decoder"]) == {"latent", "image"}
    assert shared_rows(bundle.manifest.components["transformer_low"]) is None
    assert shared_rows(bundle.manifest.components["transformer_high"]) is None
    head = bundle.manifest.components["dit_head"]
    conditions = replace(head, inputs=(*head.inputs[:2], TensorSpec("condition", "float32", ("images", 16, 4))))
    assert shared_rows(conditions) is None  # which image a row belongs to is not known


def test_a_part_that_fails_is_an_error_and_the_next_call_works(tmp_path: Path) -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 20]> g (float[n,2] x) => (float[n,2] y) '
        "<float[3] table = {1.0, 2.0, 3.0}> { index = Cast <to = 7> (x) y = Gather(table, index) }"
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "look-up.onnx")
    x, y = (TensorSpec(name, "float32", ("n", 2)) for name in "xy")
    spec = ComponentSpec("head", "", "fp32", (x,), (y,), {}, "onnxruntime", "", weight_bytes=MOST_WEIGHTS)
    engine = OrtEngine.load(tmp_path / "look-up.onnx", spec, CPU, THREADS)
    for wrong in range(14):
        indices = np.ones((14, 2), np.float32)
        indices[wrong] = 7
        with pytest.raises(EngineError, match=r"head failed on cpu: .*indices element out of data bounds"):
            engine.run({"x": indices})
        assert _parts(engine) == THREADS
        assert (engine.run({"x": np.ones((14, 2), np.float32)})["y"] == 2).all()
