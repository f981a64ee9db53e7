"""Checkpoints as people have them: whatever entries, prefixes, types and folders, the same model comes out."""

import argparse
import collections
import datetime
import json
import logging
import pathlib
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from himar.families.hi_mar.checkpoints import load_checkpoint, open_checkpoint
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR, randomise
from himar.loading.checkpoint_files import weights_sha256
from himar_kernels import CheckpointError, ConfigError
from tests.himar import small_evaluation
from tests.himar.small_evaluation import TINY


def state_of(seed: int) -> dict[str, torch.Tensor]:
    return dict(randomise(HiMAR(resolve(read_config(TINY), {}, "tiny")), seed).state_dict())


STATE, OTHER = state_of(0), state_of(1)


def same(model: HiMAR, state: dict[str, torch.Tensor] = STATE) -> bool:
    found = model.state_dict()
    assert found.keys() == state.keys()
    assert all(value.dtype == torch.float32 for value in found.values())
    return all(torch.equal(found[name], value) for name, value in state.items())


def saved(path: pathlib.Path, content) -> pathlib.Path:
    torch.save(content, path)
    return path


def refusal(path: pathlib.Path, config=TINY, error=CheckpointError, **options) -> str:
    with pytest.raises(error) as caught:
        load_checkpoint(path, config, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def prefixed(prefix: str, state=STATE) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def within_blocks(wrapper: str) -> dict[str, torch.Tensor]:
    return {name.replace("encoder_blocks.0.", f"encoder_blocks.0.{wrapper}"): value for name, value in STATE.items()}


PREFIXES = {
    **{prefix: prefixed(prefix) for prefix in (
        "module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "module._orig_mod.", "_orig_mod.module.",
        "module.module.", "model.", "net.", "model.module.", "model._orig_mod.net.", "ema_model.module.",
    )},
    "compiled blocks": within_blocks("_orig_mod."),
    "sharded blocks": within_blocks("_fsdp_wrapped_module._checkpoint_wrapped_module."),
    "all": {f"module.{name}": value for name, value in within_blocks("_checkpoint_wrapped_module._orig_mod.").items()},
    "averaged": {"n_averaged": torch.tensor(3), **prefixed("module.")},
    "beside a VAE": {**prefixed("model."), "vae.encoder.conv_in.weight": torch.zeros(3), "loss.w": torch.zeros(1)},
}  # fmt: skip


@pytest.mark.parametrize("kind", PREFIXES)
@pytest.mark.parametrize("entry", ["model_ema", None])
def test_wrappers_parts_and_prefixes_are_taken_off_names(tmp_path, kind, entry):
    content = PREFIXES[kind] if entry is None else {entry: PREFIXES[kind], "epoch": 3}
    assert same(load_checkpoint(saved(tmp_path / "m.pth", content), TINY))


def test_prefixes_are_taken_off_safetensors_too(tmp_path):
    save_file(prefixed("module._orig_mod."), tmp_path / "m.safetensors")
    assert same(load_checkpoint(tmp_path / "m.safetensors", TINY))


def test_a_name_with_and_without_its_wrapper_is_refused(tmp_path):
    state = {**STATE, "module.mask_token": STATE["mask_token"]}
    text = refusal(saved(tmp_path / "m.pth", state))
    assert "holds both mask_token and module.mask_token" in text


def test_flattened_parameters_say_how_to_save_them(tmp_path):
    state = {"_fsdp_wrapped_module.encoder_blocks.0._fsdp_wrapped_module._flat_param": torch.zeros(9)}
    assert "save them with StateDictType.FULL_STATE_DICT" in refusal(saved(tmp_path / "m.pth", {"model": state}))


ENTRIES = {
    "bare": STATE,
    "bare, with numbers beside it": {**STATE, "epoch": 3, "best": None},
    "state_dict": {"state_dict": STATE, "epoch": 1},
    "model": {"model": STATE, "optimizer": {"state": {0: {"exp_avg": OTHER["mask_token"]}}, "param_groups": []}},
    "net": {"net": STATE},
    "my weights": {"my weights": STATE},
    "Lightning": {"state_dict": prefixed("net."), "optimizer_states": [{}], "callbacks": {"a": {"b": 1}}},
    "ema of two": {"model": OTHER, "ema": STATE},
    "model_ema of three": {"model": OTHER, "ema": OTHER, "model_ema": STATE},
    "ema_state_dict": {"state_dict": OTHER, "ema_state_dict": STATE},
    "state_dict_ema": {"state_dict": OTHER, "state_dict_ema": STATE},
    "nested": {"net": OTHER, "ema": {"decay": 0.999, "num_updates": 7, "state_dict": STATE}},
    "shadow": {"model": OTHER, "ema": {"shadow": STATE, "decay": 0.99}},
    "params": {"params": OTHER, "ema": {"params": STATE}},
    "EMA in one state dict": {"state_dict": {**prefixed("model.", OTHER), **prefixed("model_ema.")}},
    "EMA beside the bare names": {**OTHER, **prefixed("ema.")},
    "a callback's": {"state_dict": OTHER, "callbacks": {"EMA": {"ema_state_dict": prefixed("module.")}}},
    "emaWeights": {"weights": OTHER, "emaWeights": STATE},
    "parameters": {"model": {name: torch.nn.Parameter(value) for name, value in STATE.items()}},
    "arrays": {"model": {name: value.numpy() for name, value in STATE.items()}},
    "arrays by columns": {"model": {name: np.asfortranarray(value.numpy()) for name, value in STATE.items()}},
    "figures": {"model": STATE, "best": {"fid": np.arange(3), "a.b": np.array(["a"])}, "loss": {"a": torch.ones(1)}},
    "an optimiser's average": {"model": STATE, "optimizer": {"ema": OTHER}},
}  # fmt: skip


@pytest.mark.parametrize("kind", ENTRIES)
def test_entries_of_any_name_are_found_and_averages_preferred(tmp_path, kind):
    assert same(load_checkpoint(saved(tmp_path / "m.pth", ENTRIES[kind]), TINY))


@pytest.mark.parametrize(
    ("given", "expected"),
    [("model", OTHER), ("ema", STATE), ("ema.shadow", STATE), ("shadow", STATE), (None, STATE)],
)
def test_the_weights_are_chosen_by_name_or_a_part_of_it(tmp_path, given, expected, caplog):
    caplog.set_level(logging.INFO, "himar.notices")
    path = saved(tmp_path / "m.pth", {"model": OTHER, "ema": {"shadow": STATE}})
    model, entry = open_checkpoint(path, TINY, weights=given)
    assert same(model, expected)
    assert entry == ("model" if given == "model" else "ema.shadow")
    assert caplog.messages == (
        [f"{path}: took the weights ema.shadow, not model (--weights NAME chooses)"] if given is None else []
    )


def test_nothing_is_chosen_in_silence(tmp_path):
    path = saved(tmp_path / "m.pth", {"net_a": STATE, "net_b": OTHER, "epoch": 3})
    assert "holds 2 sets of weights, net_a and net_b; choose one with --weights NAME" in refusal(path)
    assert "no entry 'net_c' with weights; choose with --weights NAME from net_a and net_b" in refusal(
        path, weights="net_c"
    )
    assert same(load_checkpoint(path, TINY, weights="net_b"), OTHER)
    path = saved(tmp_path / "two.pth", {"ema": {"a": STATE, "b": OTHER}, "model": STATE})
    assert "holds 3 sets of weights, ema.a, ema.b and model" in refusal(path)
    assert "2 entries under 'ema'" in refusal(path, weights="ema")
    other = saved(tmp_path / "other.pth", {"a": {"x.y": torch.zeros(1)}, "b": {"x.y": torch.zeros(1)}})
    assert "is not a Hi-MAR checkpoint: none of its entries holds one (a and b)" in refusal(other)


def test_averages_without_names_say_what_to_write(tmp_path):
    path = saved(tmp_path / "m.pth", {"ema": {"shadow_params": list(STATE.values())}})
    assert "ema.shadow_params is a list of tensors without names" in refusal(path)


def test_commands_say_which_weights_they_took(tmp_path, capsys):
    path = saved(tmp_path / "m.pth", {"model": OTHER, "ema": STATE})
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    common = (path, "--config", tmp_path / "tiny.json", "--vae", small_evaluation.VAE)
    pictures = {}
    for name, options in {"ema": (), "raw": ("--weights", "model")}.items():
        out = tmp_path / f"{name}.png"
        assert small_evaluation.run("sample", *common, "--labels", "1", *options, "--out", out) == 0
        assert ("took the weights ema" in capsys.readouterr().err) == (name == "ema")
        pictures[name] = out.read_bytes()
    assert pictures["ema"] != pictures["raw"]
    assert small_evaluation.run("sample", *common, "--labels", "1", "--weights", "", "--out", tmp_path / "no.png") == 2
    making = ("--images", "10", "--chunk", "2", "--shard", "5/5", "--out", tmp_path / "images.npz")
    assert small_evaluation.run("evaluate", *common, *making, "--weights", "model") == 0
    assert small_evaluation.run("evaluate", *common, *making, "--weights", "ema") == 1
    assert "holds parts of a run with another weights" in small_evaluation.one_error(capsys)


class Lr:
    """A class of someone's training code."""


HARMLESS = {
    "namespace": argparse.Namespace(lr=1e-4, out=pathlib.Path("runs/a")),
    "NumPy": [np.float64(3.2), np.int64(3), np.bool_(True), np.float32(1), np.arange(3), np.dtype("f4")],
    "NumPy's generators": [np.random.get_state(), np.random.RandomState(3), np.random.default_rng(3)],
    "texts": np.array(["a", "b"]),
    "paths": [pathlib.Path("a"), pathlib.PurePosixPath("/b"), pathlib.PureWindowsPath("c:/d")],
    "times": [datetime.datetime(2025, 1, 2), datetime.timedelta(3), datetime.date(2025, 1, 2), datetime.UTC],
    "collections": [
        collections.defaultdict(list, a=[1]), collections.defaultdict(int), collections.defaultdict(float, b=2.0),
        collections.deque([1, 2], maxlen=3), collections.OrderedDict(a=1), collections.Counter("abc"),
    ],
    "plain": [types.SimpleNamespace(a=1), slice(1, 2), range(3), frozenset({1}), complex(1, 2), {1, 2}, b"bytes"],
    "PyTorch's": [torch.Size([1]), torch.float16, torch.device("cpu"), torch.strided, torch.get_rng_state()],
}  # fmt: skip


@pytest.mark.parametrize("kind", HARMLESS)
@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_objects_beside_the_weights_are_no_obstacle(tmp_path, kind, zipped):
    content = {"model_ema": STATE, "model": OTHER, "epoch": 3, "extra": HARMLESS[kind]}
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    assert same(load_checkpoint(tmp_path / "m.pth", TINY))


@pytest.mark.parametrize("thing", [Lr(), collections.defaultdict(Lr), np.save, {"f": Lr}])
def test_other_classes_are_refused_by_name_with_the_way_out(tmp_path, thing):
    text = refusal(saved(tmp_path / "m.pth", {"model_ema": STATE, "extra": thing}))
    assert f"himar strip {tmp_path / 'm.pth'} OUT.safetensors" in text
    assert "torch.save(model.state_dict(), FILE)" in text
    assert "numpy.save" in text or "test_checkpoint_layouts.Lr" in text


def test_allowing_stand_ins_leaves_nothing_behind_in_pytorch(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(saved(tmp_path / "m.pth", {"model": STATE, "args": HARMLESS["namespace"]}), TINY)
    refusal(saved(tmp_path / "n.pth", {"model": STATE, "args": Lr()}))
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_packed_archive_is_read_whole(tmp_path):
    """Mapped into memory, compressed tensors would be noise."""
    import zipfile

    saved(tmp_path / "plain.pth", {"model": STATE})
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as source,
        zipfile.ZipFile(tmp_path / "m.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
    assert same(load_checkpoint(tmp_path / "m.pth", TINY))


@pytest.mark.parametrize("name", ["m.bin", "m.ckpt", "m.pth.tar", "0f3a9c"])
def test_endings_do_not_decide_what_a_file_is(tmp_path, name):
    assert same(load_checkpoint(saved(tmp_path / name, {"model": STATE}), TINY))
    save_file(STATE, tmp_path / "plain.safetensors")
    (tmp_path / name).write_bytes((tmp_path / "plain.safetensors").read_bytes())
    assert same(load_checkpoint(tmp_path / name, TINY))
    saved(tmp_path / "w.safetensors", {"model": STATE})
    assert "is a PyTorch file by its content; give it the ending .pth" in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_of_every_floating_type_become_float32(tmp_path, dtype, ending):
    stored = {name: value.to(dtype) for name, value in STATE.items()}
    path = tmp_path / f"m.{ending}"
    save_file(stored, path) if ending == "safetensors" else torch.save({"model": stored}, path)
    assert same(load_checkpoint(path, TINY), {name: value.to(torch.float32) for name, value in stored.items()})


@pytest.mark.parametrize("per", ["tensor", "output"])
@pytest.mark.parametrize("name", ["{stem}.weight_scale", "{stem}.scale_weight", "{stem}.weight_scale_inv"])
def test_scaled_float8_is_multiplied_by_its_scale(tmp_path, per, name):
    stored, expected = dict(STATE), dict(STATE)
    for key, value in STATE.items():
        if key.endswith("qkv.weight"):
            size = value.abs().amax(dim=1, keepdim=True) if per == "output" else value.abs().amax()
            scale = size / 448
            stored[key] = (value / scale).to(torch.float8_e4m3fn)
            stored[name.format(stem=key.removesuffix(".weight"))] = scale
            stored[key.removesuffix("weight") + "input_scale"] = torch.ones(())
            expected[key] = stored[key].float() * scale
    stored["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save_file(stored, tmp_path / "m.safetensors")
    assert same(load_checkpoint(tmp_path / "m.safetensors", TINY), expected)
    key = next(key for key in stored if key.endswith(name.format(stem="")))
    save_file({**stored, key: torch.ones(3, 3)}, tmp_path / "m.safetensors")
    assert "himar reads one scale per float8 weight or per output" in refusal(tmp_path / "m.safetensors")


def test_numbers_that_are_no_weights_are_named(tmp_path):
    for value, said in (
        (STATE["mask_token"].to(torch.int8), "has dtype torch.int8"),
        (STATE["mask_token"] * torch.inf, "not finite"),
        (STATE["mask_token"].to_sparse(), "sparse"),
        (torch.quantize_per_tensor(STATE["mask_token"], 0.1, 0, torch.qint8), "quantised"),
        (STATE["mask_token"].to("meta"), "no values"),
    ):
        text = refusal(saved(tmp_path / "m.pth", {"model": {**STATE, "mask_token": value}}))
        assert "mask_token" in text
        assert said in text


@pytest.fixture
def hub(tmp_path) -> pathlib.Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(STATE, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"architectures": ["MAR"], "heads": 2, "dit_heads": 2}))
    return folder


def test_a_folder_of_a_hub_is_its_file_with_its_configuration(hub):
    model = load_checkpoint(hub)
    assert same(model)
    assert (model.config.heads, model.config.dit_heads) == (2, 2)
    assert same(load_checkpoint(hub, TINY))
    assert weights_sha256(hub) == weights_sha256(hub / "model.safetensors")
    assert "config.json: heads is 'two'" in _with_config(hub, {"heads": "two"}, ConfigError)
    (hub / "config.json").write_text("{heads")
    assert "config.json is not readable JSON" in refusal(hub, None)
    (hub / "config.json").write_text("[]")
    assert "config.json does not hold a JSON object" in refusal(hub, None)


def _with_config(hub: pathlib.Path, values, error) -> str:
    (hub / "config.json").write_text(json.dumps(values))
    return refusal(hub, None, error)


def test_a_folder_without_one_checkpoint_says_what_it_is(tmp_path, hub):
    (hub / "model.safetensors").rename(hub / "a.safetensors")
    assert same(load_checkpoint(hub, TINY))
    saved(hub / "b.pth", {"model": OTHER})
    assert "a.safetensors, b.pth, each of them weights; give one of them" in refusal(hub)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is a folder without a checkpoint: give a file" in refusal(empty)
    (empty / "__0_0.distcp").write_bytes(b"1")
    assert "is a distributed checkpoint in parts; join them with python -m torch.distributed" in refusal(empty)
    (empty / "__0_0.distcp").unlink()
    (empty / "a.incomplete").write_bytes(b"1")
    assert "a.incomplete is an unfinished download" in refusal(empty)
    (empty / "manifest.json").write_text("{}")
    assert "is a bundle of engines" in refusal(empty)


@pytest.fixture
def shards(tmp_path) -> pathlib.Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    names = sorted(STATE)
    parts = {f"model-0000{i + 1}-of-00003.safetensors": names[i::3] for i in range(3)}
    for file, keys in parts.items():
        save_file({key: STATE[key] for key in keys}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_read_by_their_folder_or_their_index_only(shards):
    assert same(load_checkpoint(shards, TINY))
    assert same(load_checkpoint(shards / "model.safetensors.index.json", TINY))
    assert weights_sha256(shards) == weights_sha256(shards / "model.safetensors.index.json")
    text = refusal(shards / "model-00002-of-00003.safetensors")
    assert "is shard 2 of 3, a part of the weights; give its folder, or model.safetensors.index.json in it" in text
    alone = shards.parent / "model-00001-of-00001.safetensors"
    save_file(STATE, alone)
    assert same(load_checkpoint(alone, TINY))


def test_shards_of_pytorch_files_are_read_as_well(tmp_path, shards):
    folder = tmp_path / "bin"
    folder.mkdir()
    where = json.loads((shards / "model.safetensors.index.json").read_text())["weight_map"]
    where = {name: f"pytorch_{file.replace('safetensors', 'bin')}" for name, file in where.items()}
    for file in set(where.values()):
        saved(folder / file, {name: STATE[name] for name in STATE if where[name] == file})
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    saved(folder / "training_args.bin", HARMLESS["namespace"])
    assert same(load_checkpoint(folder, TINY))
    assert "is shard 1 of 3" in refusal(folder / "pytorch_model-00001-of-00003.bin")
    saved(folder / "pytorch_model-00001-of-00003.bin", {"model": STATE})
    assert "so it is not a shard" in refusal(folder)


def test_the_index_is_binding(shards):
    index = shards / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    first, second = sorted(STATE)[:2]
    one, two, three = sorted(set(whole["weight_map"].values()))

    def says(where: dict[str, object]) -> str:
        index.write_text(json.dumps({"weight_map": where}))
        return refusal(shards)

    where = whole["weight_map"]
    assert f"{one} holds {first}, which {index.name} does not list" in says(
        {name: file for name, file in where.items() if name != first}
    )
    assert f"{one} holds {first}, which {index.name} lists in {two}" in says({**where, first: two})
    assert f"has no extra, which {index.name} lists there" in says({**where, "extra": three})
    for outside in ("../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "c:\\x.safetensors"):
        assert f"lists {second} in {outside}, outside of its folder" in says({**where, second: outside})
    assert "in 'x.npz', which is not a .safetensors or .bin file" in says({**where, second: "x.npz"})
    assert "in 3, which is not a .safetensors or .bin file" in says({**where, second: 3})
    assert "has no weight_map" in says({})
    twice = json.dumps({"weight_map": where})[:-2] + f', "{first}": "{one}"' + "}}"
    index.write_text(twice)
    assert f"{first} stands in it twice" in refusal(shards)
    index.write_text(json.dumps({"weight_map": where})[:-5])
    assert "is not an index of shards" in refusal(shards)
    index.write_text(json.dumps(whole))
    save_file({first: STATE[first], **{name: STATE[name] for name in where if where[name] == two}}, shards / two)
    assert f"{two} holds {first}, which {index.name} lists in {one}" in refusal(shards)
    (shards / two).unlink()
    assert f"lists the shard {two}, which is not beside it" in refusal(shards)
