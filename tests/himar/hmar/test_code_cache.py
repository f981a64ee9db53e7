"""Codes of images, cached and encoded on the way: their crops, their sharing and resuming, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import himar.data.shard_writer
from himar.data.cache_index import CacheError, read_index
from himar.data.codes.cache import CachedCodes, CodeSettings, cache_codes, holds_tokenizer, released_scales
from himar.data.codes.codes import CodeSet, check_fit
from himar.data.codes.images import ImageCodes, encode_crops
from himar.data.crop import read_crops
from himar.data.folder import list_images
from himar.families.hmar.tokenizer.files import save_tokenizer
from himar.training.processes import Processes
from himar_kernels import ConfigError, InputError
from himar_kernels.families.hmar import Scales
from tests.closeness import assert_same_pixels
from tests.himar.small_cache import NARROW, contents, run, write_images

from . import tiny_training as tiny

SETTINGS = CodeSettings(crops=3, shard_size=5, batch=3, readers=2)
SCALES = tiny.config().scales


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with images, a tokenizer and a finished cache."""
    folder = tmp_path_factory.mktemp("codes")
    (folder / "images").mkdir()
    write_images(folder / "images")
    save_tokenizer(tiny.tokenizer(), folder / "tokenizer.safetensors")
    (folder / "tiny.json").write_text(json.dumps(tiny.SIZES))
    write(folder, folder / "cache")
    return folder


def write(folder: Path, out: Path, settings: CodeSettings = SETTINGS, **more):
    images = list_images(folder / "images")
    return cache_codes(images, folder / "tokenizer.safetensors", SCALES, out, settings, **more)


def test_a_cache_holds_the_codes_of_random_crops(made):
    index = read_index(made / "cache")
    assert (index.kind, index.patch_nums, index.crops, index.dtype) == ("codes", (1, 2, 3), 3, "int16")
    assert (index.count, len(index.skipped), index.img_size) == (13, 2, 12)
    cached = CachedCodes(made / "cache", tiny.tokenizer().quantize)
    images = list_images(made / "images")
    row = 7
    places = np.random.default_rng([0, row]).random((3, 2))
    crops = read_crops(images.path(row), 12, places).pixels
    expected = encode_crops(tiny.tokenizer(), SCALES, crops)
    place = [name for name in images.names if name != "dog/05.png"].index(images.names[row])
    found = [cached.stored(torch.tensor([place]), [view])[0][0][0, 0] for view in range(3)]
    assert torch.stack(found).long().equal(expected)
    assert len({tuple(each.tolist()) for each in found}) > 1


def test_draws_take_every_crop_and_the_images_of_this_process_alone(made):
    cached = CachedCodes(made / "cache", tiny.tokenizer().quantize)
    chosen = torch.full((64,), 4)
    codes, labels = cached.draw(chosen, [slice(0, 64)], torch.Generator().manual_seed(0))
    assert codes.dtype == torch.int64
    assert len(codes.unique(dim=0)) == 3
    assert labels.equal(cached.labels[chosen])
    part, _ = cached.draw(chosen, [slice(8, 16)], torch.Generator().manual_seed(0))
    assert part[8:16].equal(codes[8:16])
    assert not part[16:].any()


def test_two_processes_share_the_work_and_a_stopped_one_is_continued(made, tmp_path, monkeypatch):
    class StopHereError(Exception):
        pass

    def stop(done, total):
        if done > 5:
            raise StopHereError

    with pytest.raises(StopHereError):
        write(made, tmp_path / "cut", on_images=stop)
    assert not read_index(tmp_path / "cut").complete
    with pytest.raises(CacheError, match="is unfinished, 1 of 3 shards; run the same himar cache-latents command"):
        CachedCodes(tmp_path / "cut")
    write(made, tmp_path / "cut")
    whole = {name: data for name, data in contents(made / "cache").items() if not name.startswith(".")}
    assert {name: data for name, data in contents(tmp_path / "cut").items() if not name.startswith(".")} == whole
    # The second process's shard lies there when the first one looks for it.
    monkeypatch.setattr(himar.data.shard_writer, "_wait_for_first", lambda folder: None)
    (tmp_path / "two").mkdir()
    write(made, tmp_path / "two", processes=Processes(1, 2))
    write(made, tmp_path / "two", processes=Processes(0, 2))
    assert {name: data for name, data in contents(tmp_path / "two").items() if not name.startswith(".")} == whole


def test_images_are_encoded_on_the_way_each_time_from_another_crop(made, tmp_path):
    shutil.copytree(made / "images", tmp_path / "images")
    (tmp_path / "images" / "dog" / "05.png").unlink()
    images = ImageCodes(list_images(tmp_path / "images"), tiny.tokenizer(), tiny.config())
    check_fit(tiny.config(), images)
    chosen = torch.tensor([3, 3, 3, 5])
    codes, labels = images.draw(chosen, [slice(0, 4)], torch.Generator().manual_seed(1))
    again, _ = images.draw(chosen, [slice(2, 4)], torch.Generator().manual_seed(1))
    assert len(codes[:3].unique(dim=0)) > 1
    assert again[2:].equal(codes[2:])
    assert not again[:2].any()
    assert labels.tolist() == images.labels[chosen].tolist()
    (tmp_path / "images" / images._images.names[3]).write_text("no image any more")
    with pytest.raises(InputError, match=r"cannot be read: .*; remove it, or let himar cache-latents leave out"):
        images.draw(chosen, [slice(0, 4)], torch.Generator())


def test_crops_are_those_of_the_whole_picture_resized(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    places = np.array([[0, 0], [0.999, 0.999], [0.5, 0.25]])
    crops = read_crops(tmp_path / "a.png", 16, places).pixels
    whole = np.asarray(Image.fromarray(pixels).resize((33, 18), Image.Resampling.LANCZOS))
    corners = [(0, 0), (2, 17), (0, 9)]
    for crop, (top, left) in zip(crops, corners, strict=True):
        assert_same_pixels(crop, whole[top : top + 16, left : left + 16])


def test_what_is_a_tokenizer_and_which_scales_go_with_a_size(made):
    assert holds_tokenizer(made / "tokenizer.safetensors")
    assert not holds_tokenizer(NARROW)
    assert released_scales(256).sides == (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    with pytest.raises(ConfigError, match=r"img_size is 128; models for 256, 512, 1024 pixels .*: give the model with"):
        released_scales(128)


def test_a_cache_of_another_tokenizer_scale_list_or_kind_is_refused(made, tmp_path):
    quantizer = tiny.tokenizer().quantize
    with pytest.raises(CacheError, match=r"was made with vae sha256 .*, not 00; give what it was made with or choose"):
        CachedCodes(made / "cache", quantizer, vae_sha256="00")
    with pytest.raises(CacheError, match=r"was made with patch nums \(1, 2, 3\), not \(1, 3\)"):
        CachedCodes(made / "cache", quantizer, scales=Scales([1, 3]))
    from himar.data.cache_reader import CachedLatents

    with pytest.raises(CacheError, match="holds codes of a multi-scale tokenizer, which HMAR trains on;"):
        CachedLatents(made / "cache")
    with pytest.raises(CacheError, match=r"was made with crops 3, not 2; give what it was made with"):
        write(made, made / "cache", CodeSettings(crops=2, shard_size=5))
    with pytest.raises(ConfigError, match=r"img_size is 13, but these scales and .* make images of 12 pixels a side"):
        write(made, tmp_path / "o", img_size=13)
    with pytest.raises(ConfigError, match="crops is -1; it must be at least 0"):
        CodeSettings(crops=-1)
    assert not (tmp_path / "o").exists()


def test_codes_that_do_not_fit_are_refused():
    good, quantizer = tiny.codes(4), tiny.tokenizer().quantize
    with pytest.raises(InputError, match="4 images' codes and 3 labels were given"):
        CodeSet(good.codes, good.labels[:3], quantizer, SCALES)
    with pytest.raises(InputError, match=r"codes have shape \(4, 13\); these scales need \(n, 14\)"):
        CodeSet(good.codes[:, 1:], good.labels, quantizer, SCALES)
    with pytest.raises(InputError, match=r"codes run from -1 to -1; this quantizer has the codes 0 to 31"):
        CodeSet(torch.full_like(good.codes, -1), good.labels, quantizer, SCALES)


def test_the_command_writes_a_cache_that_training_reads(made, tmp_path, capsys):
    out, tokenizer = tmp_path / "cache", made / "tokenizer.safetensors"
    common = ("cache-latents", made / "images", "--vae", tokenizer, "--out", out)
    assert run(*common, "--dtype", "float16") == 2
    assert "--dtype is of a KL VAE's moments" in capsys.readouterr().err
    assert run(*common) == 1
    assert "these scales and" in " ".join(capsys.readouterr().err.split())
    assert run(*common, "--config", made / "tiny.json", "--crops", "2", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["patch_nums"], said["crops"], said["images"], said["complete"]) == ([1, 2, 3], 2, 13, True)
    assert run("cache-latents", "--out", out, "--check") == 0
    assert run("cache-latents", "--out", out, "--check", "--crops", "2") == 2
    assert "leave them out with --check" in capsys.readouterr().err
    common = ("train", "--config", made / "tiny.json", "--data", out, "--batch", "4", "--steps", "2", "--lr", "1e-3")
    assert run(*common, "--out", tmp_path / "a") == 1
    assert "HMAR trains on codes of a multi-scale tokenizer; give its checkpoint with --vae" in capsys.readouterr().err
    assert run(*common, "--out", tmp_path / "a", "--vae", tokenizer) == 0
    assert (tmp_path / "a" / "model.safetensors").exists()
    assert run("cache-latents", made / "images", "--vae", NARROW, "--out", tmp_path / "l", "--crops", "2") == 2
    assert "--crops is of HMAR's codes" in capsys.readouterr().err
