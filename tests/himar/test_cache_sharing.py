"""A cache that several processes write together, or two runs at once, or a run that an earlier version began."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import himar.data.shard_writer
from himar.data.cache import cache_latents
from himar.data.cache_index import CacheError, read_index, read_record, write_index
from himar.data.cache_reader import CachedLatents
from himar.data.folder import list_images
from himar.data.shard_writer import run_name
from himar.folder_lock import LOCK_FILE, folder_lock, holder
from himar.training.processes import Processes
from tests.himar.small_cache import SETTINGS, VAE, contents, run, write_images

ARGUMENTS = ("--vae", VAE, "--img-size", "32", "--dtype", "float32", "--shard-size", "5", "--batch", "3")


def begin(folder: Path, out: Path, count: int) -> list[subprocess.Popen]:
    """Start `himar cache-latents` in several processes, as torchrun does."""
    code = "import sys; from himar.cli import main; main(sys.argv[1:])"
    arguments = ["cache-latents", folder, *ARGUMENTS, "--out", out, "--json"]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
        "WORLD_SIZE": str(count),
    }
    return [
        subprocess.Popen(
            command, env={**variables, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(count)
    ]


def test_processes_share_the_shards_and_the_cache_is_the_same(folder, cache, tmp_path):
    out = tmp_path / "latents"
    results = [process.communicate(timeout=240) + (process.returncode,) for process in begin(folder, out, 2)]
    assert [code for *_, code in results] == [0, 0], results
    assert json.loads(results[0][0])["images"] == 13
    assert results[1][:2] == ("", "")
    assert contents(out) == contents(cache)


def test_each_process_makes_its_share_and_leaves_the_index_to_the_first(folder, tmp_path, monkeypatch):
    images, out = list_images(folder), tmp_path / "latents"
    made = []
    monkeypatch.setattr(
        himar.data.shard_writer, "write_safetensors",
        lambda path, *rest: (made.append(path.name), path.write_bytes(b"x")),
    )  # fmt: skip
    second = Processes(1, 2)
    monkeypatch.setattr(himar.data.shard_writer, "_PATIENCE", 0.3)
    with pytest.raises(CacheError, match="the first process has not begun"):
        cache_latents(images, VAE, out, SETTINGS, processes=second)
    assert not out.exists()

    class EndOfFirstError(Exception):
        pass

    def wait(seconds):
        # The first process has made shards 0 and 2, and waits: now the second one works.
        assert made == ["latents-00000.safetensors", "latents-00002.safetensors"]
        assert len(read_index(out).shards) == 1
        assert read_record(out, 2).shard.count == 4
        cache_latents(images, VAE, out, SETTINGS, processes=second)
        assert made[2:] == ["latents-00001.safetensors"]
        assert len(read_index(out).shards) == 1
        raise EndOfFirstError

    monkeypatch.setattr(himar.data.shard_writer.time, "sleep", wait)
    with pytest.raises(EndOfFirstError):
        cache_latents(images, VAE, out, SETTINGS, processes=Processes(0, 2))
    monkeypatch.undo()
    # Both were killed here; one process alone finishes with what is there.
    made.clear()
    index = cache_latents(images, VAE, out, SETTINGS)
    assert index.complete
    assert [shard.count for shard in index.shards] == [5, 4, 4]
    assert sorted(path.suffix for path in out.iterdir()) == [".json", *[".safetensors"] * 3]


def test_where_nothing_is_left_to_do_no_process_waits(folder, cache, tmp_path):
    """The first one may have finished, and let go of the folder, before another one looks."""
    before = contents(cache)
    for rank in range(3):
        assert cache_latents(list_images(folder), VAE, cache, SETTINGS, processes=Processes(rank, 3)).complete
    assert contents(cache) == before
    with pytest.raises(CacheError, match="img size"):
        cache_latents(list_images(folder), VAE, cache, replace(SETTINGS, img_size=64), processes=Processes(2, 3))


def test_a_record_without_its_shard_is_made_again(folder, cache, tmp_path):
    out = tmp_path / "latents"
    shutil.copytree(cache, out)
    index = read_index(out)
    write_index(out, replace(index, shards=index.shards[:1], skipped=index.skipped[:1]))
    (out / "latents-00001.safetensors").unlink()
    (out / "latents-00001.json").write_text(
        '{"shard": {"file": "latents-00001.safetensors", "count": 5, "sha256": "x"},'
        ' "skipped": [], "turned": 0, "transparent": 0}'
    )
    (out / "latents-00002.json").write_text("half")
    cache_latents(list_images(folder), VAE, out, SETTINGS)
    assert contents(out) == contents(cache)


def test_a_second_run_into_the_folder_is_refused_while_the_first_lives(folder, cache, tmp_path, capsys):
    out = tmp_path / "latents"
    code = (
        "import sys; from pathlib import Path; from himar.folder_lock import folder_lock\n"
        "with folder_lock(Path(sys.argv[1]), RuntimeError): print('held', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "held\n"
    assert run("cache-latents", folder, *ARGUMENTS, "--out", out) == 1
    assert f"process {first.pid} of " in capsys.readouterr().err
    first.kill()
    first.wait()
    assert (out / LOCK_FILE).exists()  # of a dead process: it holds nobody up
    assert run("cache-latents", folder, *ARGUMENTS, "--out", out) == 0
    assert contents(out) == contents(cache)


def test_a_lock_leaves_nothing_and_can_be_taken_again(tmp_path):
    for _ in range(2):
        with folder_lock(tmp_path / "a" / "b", CacheError, run_name()):
            assert holder(tmp_path / "a" / "b")["run"] == run_name()
            with pytest.raises(CacheError, match="is writing to"), folder_lock(tmp_path / "a" / "b", CacheError):
                pass
        assert not list(tmp_path.iterdir())
    assert holder(tmp_path) == {}


@pytest.fixture
def numbered(tmp_path) -> Path:
    for number in range(12):
        path = tmp_path / "images" / str(number) / "x.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (number * 20, 0, 0)).save(path)
    return tmp_path / "images"


def test_a_cache_begun_in_the_former_order_keeps_it_and_says_so(numbered, tmp_path, capsys):
    out = tmp_path / "latents"
    former = list_images(numbered).former()
    cache_latents(former, VAE, out, SETTINGS)
    index = read_index(out)
    # As an earlier version left it: unfinished, and without what it did not write.
    values = json.loads((out / "index.json").read_text())
    values = {
        name: value for name, value in values.items() if name not in ("turned", "transparent", "unreadable_classes")
    }
    (out / "index.json").write_text(json.dumps({**values, "schema": "1.0", "shards": values["shards"][:1]}))
    (out / "latents-00001.safetensors").unlink()
    assert run("cache-latents", numbered, *ARGUMENTS, "--out", out) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "keeps the order in which it was begun" in said
    assert "class 2 is the folder 10" in said
    assert "begun by an earlier version: images in its first 1 shards lie as they are stored" in said
    assert read_index(out).class_names == former.class_names
    assert read_index(out).shards == index.shards
    assert read_index(out).turned is None
    assert CachedLatents(out).class_names == former.class_names


def test_a_cache_of_the_new_order_is_not_mistaken(numbered, tmp_path, capsys):
    assert run("cache-latents", numbered, *ARGUMENTS, "--out", tmp_path / "c") == 0
    said = capsys.readouterr().err
    assert "12 classes: 0 = 0, 1 = 1, 2 = 2, 3 = 3, 4 = 4, …, 11 = 11" in said
    assert "order in which it was begun" not in said
    assert read_index(tmp_path / "c").class_names == tuple(map(str, range(12)))
    Image.new("RGB", (40, 40)).save(numbered / "3" / "another.png")
    with pytest.raises(CacheError, match=r"was made from other images .* files were added, removed or renamed"):
        cache_latents(list_images(numbered), VAE, tmp_path / "c", SETTINGS)


def test_the_summary_counts_what_was_changed_and_names_classes_without_images(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    images = write_images(tmp_path / "images")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 40)).save(images / "cat" / "turned.jpg", exif=exif)
    Image.new("RGBA", (40, 40), (1, 2, 3, 100)).save(images / "cat" / "clear.png")
    (images / "owl").mkdir()
    (images / "owl" / "broken.png").write_bytes(b"no image")
    (images / "owl" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    assert run("cache-latents", images, *ARGUMENTS, "--out", tmp_path / "c") == 0
    output = capsys.readouterr()
    assert "class 2 (owl) has no image: none of its files can be read" in output.err
    assert "left out owl/Thumbs.db: not an image" in output.err
    assert output.err.index("Thumbs.db") < output.err.index("broken.png")
    assert "1 rotated by EXIF, 1 transparent, put on white" in output.out
    assert run("cache-latents", images, *ARGUMENTS, "--out", tmp_path / "c", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["turned"], values["transparent"], values["unreadable_classes"]) == (1, 1, ["owl"])
    assert values["class_names"] == ["cat", "dog", "owl"]
