"""A manifest from anywhere must give either a checked value or one clear sentence, never a KeyError."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himar_kernels import BundleError
from himar_runtime import parse_manifest


def _read(bundle_path: Path) -> dict[str, Any]:
    return json.loads((bundle_path / "manifest.json").read_text())


def _parse(values: dict[str, Any]) -> Any:
    return parse_manifest(json.dumps(values), "m.json")


def test_a_manifest_is_read_with_its_unknown_keys(bundle_path: Path) -> None:
    values = _read(bundle_path)
    values["schema_version"] = "1.7"
    values["sampling"]["default"]["of_the_future"] = 3
    manifest = _parse(values)
    assert manifest.schema_version == "1.7"
    assert manifest.raw["a_key_of_the_future"] == 1
    assert list(manifest.sampling) == ["default", "plain"]
    assert manifest.sampling["default"].high_guidance == 2.0
    assert (manifest.model.grid, manifest.model.low_positions, manifest.model.high_positions) == (4, 4, 16)
    component = manifest.components["transformer_low"]
    assert component.inputs[2].shape == ("rows", "kept")
    assert component.profile["rows"] == (1, 2, 128)
    assert manifest.backend.compute_capability is None


def test_absent_keys_of_the_phases_mean_the_released_models(bundle_path: Path) -> None:
    values = _read(bundle_path)
    assert not {"pivots", "low_head", "high_head"} & values["model"].keys()
    low, high = _parse(values).model.phases
    assert (low.transformer, low.head, low.kind, low.leaves_pivots) == ("transformer_low", "mlp_head", "mlp", True)
    assert (high.transformer, high.head, high.kind, high.always) == ("transformer_high", "dit_head", "dit", 4)
    values["model"] |= {"pivots": "condition", "low_head": "mlp", "high_head": "dit"}
    assert _parse(values).model.phases == (low, high)


@pytest.mark.parametrize("pivots", ["none", "visual", "condition"])
@pytest.mark.parametrize("low_head", ["mlp", "dit"])
@pytest.mark.parametrize("high_head", ["mlp", "dit"])
def test_other_phases_have_heads_of_other_names(bundle_path: Path, pivots: str, low_head: str, high_head: str) -> None:
    """A reader of schema 1.0 looks for mlp_head and dit_head alone: it must miss one wherever it would run wrongly."""
    values = _read(bundle_path)
    values["model"] |= {"pivots": pivots, "low_head": low_head, "high_head": high_head}
    if pivots == "none":
        values["model"]["cond_scale"] = 0
    model = _parse(values).model
    released = (pivots, low_head, high_head) == ("condition", "mlp", "dit")
    assert ({"mlp_head", "dit_head"} <= set(model.networks)) == released
    assert len(set(model.networks)) == (2 if pivots == "none" else 4)
    assert [phase.kind for phase in model.phases] == ([high_head] if pivots == "none" else [low_head, high_head])
    assert model.phase("high").pivot_width == {"none": 0, "visual": 2, "condition": 3}[pivots]


def test_settings_with_solvers_stand_where_older_readers_do_not_look(bundle_path: Path) -> None:
    values = _read(bundle_path)
    assert not _parse(values).sampling["default"].needs_solvers
    values["solver_sampling"] = {"fast": {"low_steps": 4, "high_solver": "dpm++", "of_the_future": 1}}
    manifest = _parse(values)
    assert list(manifest.sampling) == ["default", "plain", "fast"]
    fast = manifest.sampling["fast"]
    assert (fast.low_solver, fast.high_solver, fast.low_steps) == ("ddpm", "dpm++", 4)


def test_a_default_with_a_solver_is_of_major_version_2(bundle_path: Path) -> None:
    values = {**_read(bundle_path), "schema_version": "2.0"}
    values["sampling"] = {"quick": {"low_steps": 4, "low_solver": "ddim", "high_solver": "ddim"}, **values["sampling"]}
    manifest = _parse(values)
    assert next(iter(manifest.sampling)) == "quick"
    assert manifest.sampling["quick"].needs_solvers


def test_settings_that_leave_evaluations_out_stand_apart_too(bundle_path: Path) -> None:
    values = {**_read(bundle_path), "solver_sampling": {"fast": {"high_solver": "ddim"}}}
    values["forecast_sampling"] = {"forecast": {"high_forecast": 8, "high_diffusion_counts": [9, 9, 9, 4]}}
    manifest = _parse(values)
    assert list(manifest.sampling) == ["default", "plain", "fast", "forecast"]
    assert manifest.sampling["forecast"].needs_evaluations
    assert manifest.sampling["forecast"].high_diffusion_counts == (9, 9, 9, 4)
    values["forecast_sampling"]["fast"] = {}
    with pytest.raises(BundleError, match=r"forecast_sampling\.fast is a setting of sampling too"):
        _parse(values)


@pytest.mark.parametrize("version", ["6.0", "10.3"])
def test_a_newer_major_schema_is_refused_with_what_to_do(bundle_path: Path, version: str) -> None:
    values = {**_read(bundle_path), "schema_version": version, "model": "may have changed"}
    with pytest.raises(BundleError, match=rf"schema version {version}, .* up to 5\.x; install a newer himar"):
        _parse(values)


@pytest.mark.parametrize("version", ["one", "1", "", "0.9", "1.x"])
def test_an_odd_schema_version_is_refused(bundle_path: Path, version: str) -> None:
    with pytest.raises(BundleError, match="schema_version is"):
        _parse({**_read(bundle_path), "schema_version": version})


@pytest.mark.parametrize("path", ["../other.onnx", "/etc/passwd", "a/../../b", "a\\b", "C:model.onnx", "", ".", "x\0y"])
@pytest.mark.parametrize("where", ["file", "engine", "files", "selftest"])
def test_paths_that_leave_the_bundle_are_refused(bundle_path: Path, path: str, where: str) -> None:
    values = _read(bundle_path)
    if where == "file":
        values["components"]["mlp_head"]["file"] = path
    elif where == "engine":
        values["components"]["mlp_head"]["engine"]["file"] = path
    elif where == "files":
        values["files"][path] = {"sha256": "0", "bytes": 1}
    else:
        values["selftest"] = path
    with pytest.raises(BundleError, match="leads out of the bundle"):
        _parse(values)


def test_a_file_without_a_hash_is_refused(bundle_path: Path) -> None:
    values = _read(bundle_path)
    del values["files"]["dit_head.onnx"]
    with pytest.raises(BundleError, match=r"names dit_head\.onnx, but gives no hash"):
        _parse(values)


def _change(*keys: str | int, value: Any) -> Callable[[Any], None]:
    def change(values: Any) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change("max_batch", value=0), "max_batch is 0; it must be at least 1"),
        (_change("max_batch", value="64"), "max_batch is '64'; it must be of type int"),
        (_change("max_batch", value=True), "max_batch is True; it must be of type int"),
        (_change("max_batch", value=2**20 + 1), "max_batch is 1048577; it must be at most 1048576"),
        (_change("max_batch", value=2**63), r"max_batch is 9223372036854775808; it must be at most 2\^63-1"),
        (_change("model", "vae_scale", value=10**400), r"model\.vae_scale is 10{199}…; it must be at most 2\^63-1"),
        (_change("model", "width", value=-1), r"model\.width is -1"),
        (_change("model", "vae_scale", value=None), r"model\.vae_scale is None; .* type float"),
        (_change("model", "vae_scale", value=float("nan")), r"model\.vae_scale is nan; .* positive"),
        (_change("model", "img_size", value=3), r"model\.img_size 3 is not a multiple of vae_stride 4"),
        (
            _change("model", "pivots", value="text"),
            r"model\.pivots is 'text'; this himar knows 'none', 'visual', '",
        ),
        (_change("model", "high_head", value=["dit"]), r"model\.high_head is \['dit'\]; this himar knows 'mlp', 'dit'"),
        (_change("model", "pivots", value="none"), r"cond_scale is 2, but model\.pivots is 'none'"),
        (_change("model", "cond_scale", value=0), r"model\.cond_scale is 0; it must be at least 1"),
        (_change("model", value=[1]), "model is .* type dict"),
        (_change("sampling", value={}), "sampling is empty"),
        (_change("sampling", "plain", "temperature", value=-1), r"sampling\.plain: temperature is -1"),
        (_change("sampling", "plain", "low_solver", value="euler"), r"sampling\.plain: low_solver is 'euler'"),
        (_change("solver_sampling", value=[]), "solver_sampling is .* type dict"),
        (_change("solver_sampling", value={"plain": {}}), r"solver_sampling\.plain is a setting of sampling too"),
        (_change("components", "mlp_head", value=3), r"components\.mlp_head is 3"),
        (_change("components", "mlp_head", "inputs", value=[1]), r"components\.mlp_head\.inputs\[0\] must be"),
        (_change("components", "mlp_head", "inputs", 0, "dtype", value="int4"), r"inputs\[0\]\.dtype is 'int4'"),
        (_change("components", "mlp_head", "inputs", 0, "shape", value=[0.5]), r"inputs\[0\]\.shape is"),
        (_change("components", "mlp_head", "profile", value={"a": [3, 2, 1]}), r"profile\.a is \[3, 2, 1\]"),
        (_change("provenance", value={"checkpoint": 5}), r"provenance\.checkpoint is 5; .* type dict"),
        (_change("provenance", value={"vae": {"file": "x"}}), r"lacks provenance\.vae\.sha256"),
        (_change("files", "mlp_head.onnx", value={}), r"lacks files\.mlp_head\.onnx\.sha256"),
    ],
)
def test_a_wrong_value_is_named(bundle_path: Path, change: Callable[[Any], None], message: str) -> None:
    values = _read(bundle_path)
    change(values)
    with pytest.raises(BundleError, match=message):
        _parse(values)


def test_every_missing_key_is_named(bundle_path: Path) -> None:
    known = set(_read(bundle_path)) - {"a_key_of_the_future"}
    for key in known:
        values = _read(bundle_path)
        del values[key]
        with pytest.raises(BundleError, match=rf"m\.json lacks {key}; build the bundle again"):
            _parse(values)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", b"\xff\xfe"])
def test_text_that_is_no_manifest_is_refused(text: str | bytes) -> None:
    with pytest.raises(BundleError, match=r"m\.json"):
        parse_manifest(text, "m.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def _places(values: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    children = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [path] * bool(path) + [place for key, child in children for place in _places(child, (*path, key))]


@given(st.data())
def test_any_value_anywhere_gives_a_manifest_or_a_bundle_error(bundle_path: Path, data: st.DataObject) -> None:
    values = _read(bundle_path)
    place = data.draw(st.sampled_from(_places(values)))
    _change(*place, value=data.draw(JSON))(values)
    with contextlib.suppress(BundleError):
        _parse(values)


def test_what_tensorrt_engines_were_built_for(bundle_path: Path) -> None:
    values = _read(bundle_path)
    values["backend"] |= {"compute_capabilities": ["8.9", "12.0"], "version_compatible": True, "of_the_future": 1}
    backend = _parse(values).backend
    assert backend.compute_capabilities == ("8.9", "12.0")
    assert backend.version_compatible
    assert (backend.compute_capability, backend.least_compute_capability) == (None, None)


@pytest.mark.parametrize(
    "change",
    [{"compute_capability": "sm_90"}, {"compute_capabilities": ["8.9", 12]}, {"least_compute_capability": "ampere"}],
)
def test_a_gpu_that_is_none_is_refused(bundle_path: Path, change: dict[str, Any]) -> None:
    values = _read(bundle_path)
    values["backend"] |= change
    with pytest.raises(BundleError, match=r"compute capability .*; it must be like '9.0'"):
        _parse(values)


def test_class_names_are_read_where_they_are_there(bundle_path: Path) -> None:
    values = _read(bundle_path)
    assert _parse(values).class_names is None
    classes = values["model"]["classes"]
    values["model"]["class_names"] = [f"class {number}" for number in range(classes)]
    assert _parse(values).class_names == tuple(f"class {number}" for number in range(classes))
    values["model"]["class_names"] = None
    assert _parse(values).class_names is None
    for wrong in (["one"] * (classes + 1), [1] * classes, "names", {}):
        values["model"]["class_names"] = wrong
        with pytest.raises(BundleError, match="class_names"):
            _parse(values)
