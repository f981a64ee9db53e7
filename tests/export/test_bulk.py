"""Bulk runs apart from Ray: which image is in which part, the folder of parts, what a worker does, and refusals."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from himar.evaluation.image_sets import open_images
from himar_export.bulk.parts import PartsFolder
from himar_export.bulk.run import BulkRun
from himar_export.cli import main
from himar_kernels import InputError
from himar_runtime import Pipeline
from himar_runtime.pipeline import himar_version
from tests.runtime.conftest import write_bundle
from tests.runtime.tiny_text import write_text_bundle

pytest.importorskip("ray", reason="needs the extra `ray`")

from himar_export.bulk import cluster, worker


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bulk") / "bundle")


@pytest.fixture(scope="module")
def pipeline(bundle):
    return Pipeline.load(bundle, threads=1)


@pytest.fixture
def run(bundle, pipeline):
    """Five images in parts of two."""
    sampling = pipeline.bundle.manifest.sampling["plain"]
    return BulkRun(bundle, pipeline.bundle.id, himar_version(), (3, 1, 2), None, 2, 7, sampling, "png", 4)


def make(run, folder):
    """Make what is missing in this process."""
    maker = worker.PartMaker(run, "cpu", 1)
    import pyarrow as pa

    for row in maker(pa.table({"part": folder.missing()})).to_pylist():
        assert row["error"] is None
        folder.write(row["part"], dict(zip(row["names"], row["files"], strict=True)))


def refused(capsys, *arguments, code):
    capsys.readouterr()
    assert main(["generate", *map(str, arguments)]) == code
    return " ".join(capsys.readouterr().err.split())


def test_an_image_has_the_index_that_it_has_on_one_machine(run):
    assert (run.images, run.parts) == (6, 2)
    assert run.shown(run.indices(0)) == {"labels": [3, 3, 1, 1]}
    assert run.shown(run.indices(1)) == {"labels": [2, 2]}
    prompts = replace(run, labels=None, prompts=("a", "b"), count=3)
    assert prompts.shown(prompts.indices(0)) == {"prompts": ["a", "a", "a", "b"]}


def test_a_run_is_of_labels_or_prompts_and_of_32_bits_of_images(run):
    with pytest.raises(InputError, match="give one of the two"):
        replace(run, prompts=("a",))
    with pytest.raises(InputError, match="first_index is 0; it must be"):
        replace(run, count=2**31)


def test_pngs_of_the_parts_are_the_images_of_one_process(run, pipeline, tmp_path):
    folder = PartsFolder(run, tmp_path / "out")
    make(run, folder)
    assert folder.missing() == []
    folder.finish()
    whole = pipeline.generate([3, 3, 1, 1, 2, 2], seed=7, sampling="plain")
    whole.save(tmp_path / "whole")
    made = sorted((tmp_path / "out").rglob("*"))
    assert [path.name for path in made if path.is_dir()] == ["part-000000", "part-000001"]
    files = {path.name: path.read_bytes() for path in made if path.is_file()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    assert open_images(tmp_path / "out").count == 6  # what `himar evaluate` does first


def test_latents_of_the_parts_are_those_of_one_process(run, bundle, capsys, tmp_path):
    run = replace(run, output="latents")
    folder = PartsFolder(run, tmp_path / "out.npz")
    make(run, folder)
    folder.finish()
    command = ["generate", bundle, "--labels", "3,1,2", "--count", "2", "--seed", "7", "--sampling", "plain"]
    assert main([*map(str, command), "--threads", "1", "--out", str(tmp_path / "whole.npz")]) == 0
    with np.load(tmp_path / "out.npz") as made, np.load(tmp_path / "whole.npz") as whole:
        assert set(made.files) == set(whole.files)
        for name in whole.files:
            np.testing.assert_array_equal(made[name], whole[name])


def test_pixels_hold_labels_or_prompts_beside_the_images(run, pipeline, tmp_path):
    run = replace(run, output="pixels")
    folder = PartsFolder(run, tmp_path / "out.npz")
    make(run, folder)
    folder.finish()
    whole = pipeline.generate([3, 3, 1, 1, 2, 2], seed=7, sampling="plain")
    with np.load(tmp_path / "out.npz") as made:
        np.testing.assert_array_equal(made["arr_0"], whole.images)
        assert made["arr_1"].tolist() == [3, 3, 1, 1, 2, 2]

    text = Pipeline.load(write_text_bundle(tmp_path / "text"), threads=1)
    sampling = next(iter(text.bundle.manifest.sampling.values()))
    of_text = replace(run, bundle=text.bundle.root, bundle_id=text.bundle.id, labels=None, prompts=("a cat", "dogs"),
                      sampling=sampling)  # fmt: skip
    folder = PartsFolder(of_text, tmp_path / "text.npz")
    make(of_text, folder)
    folder.finish()
    with np.load(tmp_path / "text.npz") as made:
        assert made["prompts"].tolist() == ["a cat", "a cat", "dogs", "dogs"]


def test_a_single_process_writes_pixels_too(bundle, pipeline, tmp_path, capsys):
    out = tmp_path / "x.npz"
    assert main(["generate", str(bundle), "--labels", "3,1", "--threads", "1", "--pixels", "--out", str(out)]) == 0
    with np.load(out) as made:
        np.testing.assert_array_equal(made["arr_0"], pipeline.generate([3, 1]).images)
        assert made["arr_1"].tolist() == [3, 1]


def test_parts_that_are_there_are_not_made_again(run, tmp_path):
    folder = PartsFolder(run, tmp_path / "out")
    make(run, folder)
    shutil.rmtree(folder.path / "part-000000")
    (folder.path / ".part-000001.0123abcd").mkdir()  # of a killed process
    again = PartsFolder(run, tmp_path / "out")
    assert (again.missing(), again.images()) == ([0], 2)
    assert sorted(path.name for path in folder.path.iterdir()) == ["part-000001", "run.json"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bundle", []),
        ("seed", ["--seed", "8"]),
        ("sampling", ["--guidance", "3"]),
        ("labels", ["--labels", "1"]),
        ("count", ["--count", "2"]),
        ("chunk", ["--chunk", "2"]),
    ],
)
def test_another_run_does_not_continue_this_one(capsys, bundle, tmp_path, name, options):
    out = tmp_path / "out"
    given = ["--labels", "3", "--seed", "7", "--out", out, "--ray", "127.0.0.1:1"]
    assert "there is no Ray cluster" in refused(capsys, bundle, *given, code=1)
    assert list(tmp_path.iterdir()) == []  # nothing was made
    (tmp_path / "out.parts" / "part-000000").mkdir(parents=True)
    run = json.loads(json.dumps(_run_of(bundle).to_dict()))
    (tmp_path / "out.parts" / "run.json").write_text(json.dumps(run | ({"bundle": "other"} if not options else {})))
    said = refused(capsys, bundle, *given, *options, code=1)
    assert f"out.parts holds parts of a run with another {name}; delete it or choose another --out." in said
    assert (tmp_path / "out.parts" / "part-000000").is_dir()


def _run_of(bundle):
    opened = Pipeline.load(bundle, threads=1).bundle
    sampling = opened.manifest.sampling["default"]
    return BulkRun(bundle, opened.id, himar_version(), (3,), None, 1, 7, sampling, "png", 64)


def test_a_finished_folder_of_parts_needs_no_cluster(capsys, bundle, tmp_path):
    """As after a failure at the very end."""
    run = _run_of(bundle)
    make(run, PartsFolder(run, tmp_path / "out"))
    command = ["generate", str(bundle), "--labels", "3", "--seed", "7", "--out", str(tmp_path / "out"), "--json"]
    assert main([*command, "--ray", "127.0.0.1:1"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["images"], outcome["resumed"], outcome["actors"]) == (1, 1, 0)
    assert [path.name for path in (tmp_path / "out" / "part-000000").iterdir()] == ["7-00000-3.png"]


def test_prompts_that_are_cut_are_named(capsys, tmp_path):
    bundle = write_text_bundle(tmp_path / "text")
    opened = Pipeline.load(bundle, threads=1).bundle
    long = " ".join(["a red bus"] * 40)
    run = BulkRun(bundle, opened.id, himar_version(), None, ("a cat", long), 1, 7,
                  next(iter(opened.manifest.sampling.values())), "png", 64)  # fmt: skip
    make(run, PartsFolder(run, tmp_path / "out"))
    command = ["generate", str(bundle), "--prompt", "a cat", "--prompt", long, "--seed", "7", "--json"]
    assert main([*command, "--ray", "127.0.0.1:1", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["truncated"] == [1]
    assert "so that their ends were cut: prompts 1 (counted from 0)." in printed.err
    names = sorted(path.name for path in (tmp_path / "out" / "part-000000").iterdir())
    assert names == ["7-00000-text.png", "7-00001-text.png"]
    other = refused(capsys, bundle, "--prompt", "a dog", "--ray", "127.0.0.1:1", "--out", tmp_path / "x", code=1)
    assert "there is no Ray cluster" in other
    assert "makes images from text; give --prompt or --prompts-file." in refused(
        capsys, bundle, "--labels", "1", "--ray", "127.0.0.1:1", "--out", tmp_path / "x", code=1
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ray", "auto", "--out", "x.png"], "--out is x.png, a single file; with --ray give a folder, or an .npz."),
        (["--ray", "auto", "--out", "x", "--device", "cuda:1"], "--device is cuda:1, but Ray chooses the GPUs"),
        (["--out", "x", "--chunk", "4"], "--chunk is for --ray ADDRESS; leave it out, or give both."),
        (["--out", "x", "--actors", "4"], "--actors is for --ray ADDRESS; leave it out, or give both."),
        (["--out", "x", "--pixels"], "--pixels is for an .npz, and --out is x."),
    ],
)
def test_wrong_usage(capsys, bundle, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, bundle, "--labels", "1", *options, code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--labels", "9"], "label 9 (number 0 of the list) is not a class of this model"),
        (["--prompt", "a"], "makes images of classes; give --labels."),
        (["--labels", "1", "--low-steps", "99"], "phase low has only"),
        (
            ["--labels", "1", "--ray", "nowhere"],
            "--ray is 'nowhere'; give HOST:PORT of the cluster's head, auto, or local",
        ),
        (["--labels", "1", "--ray", "ray://a:1"], "--ray is 'ray://a:1'; give HOST:PORT"),
        (["--labels", "1", "--ray", "127.0.0.1:99999"], "there is no Ray cluster at '127.0.0.1:99999'"),
    ],
)
def test_what_cannot_be_made_is_refused_before_a_cluster_is_asked(capsys, bundle, tmp_path, options, said):
    assert said in refused(capsys, bundle, "--ray", "127.0.0.1:1", "--out", tmp_path / "x", *options, code=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bundle_id": "0" * 64}, "is another bundle here than where the run was started: its id begins with"),
        ({"himar_version": "9.9"}, "but 9.9 where the run was started; install the same everywhere."),
        ({"labels": (77,)}, "label 77 (number 0 of the list) is not a class"),
        ({"bundle": None}, "an unexpected TypeError: "),
    ],
)
def test_a_worker_says_what_is_wrong_and_where(run, changes, said):
    import platform

    import pyarrow as pa

    (row,) = worker.PartMaker(replace(run, **changes), "cpu", 1)(pa.table({"part": [0]})).to_pylist()
    assert said in row["error"]
    assert row["error"].startswith(f"on {platform.node()}: ")
    assert (row["part"], row["files"]) == (0, [])


NODES = [
    {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}},
    {"Alive": True, "Resources": {"CPU": 3.0}},
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


@pytest.mark.parametrize(
    ("device", "threads", "actors", "pool", "resources"),
    [
        ("cpu", None, None, (7, "cpu", 1), {"num_cpus": 1}),
        ("cpu", 2, None, (3, "cpu", 2), {"num_cpus": 2}),
        ("cpu", 2, 2, (2, "cpu", 2), {"num_cpus": 2}),
        ("cuda", None, None, (2, "cuda", None), {"num_cpus": 1, "num_gpus": 1}),
        ("cuda", None, 1, (1, "cuda", None), {"num_cpus": 1, "num_gpus": 1}),
    ],
)
def test_a_pool_has_an_actor_for_each_device(monkeypatch, device, threads, actors, pool, resources):
    monkeypatch.setattr(cluster.ray, "nodes", lambda: NODES)
    chosen = cluster.choose_pool(device, threads, actors)
    assert (chosen.size, chosen.device, chosen.threads) == pool
    assert chosen.resources == resources


def test_a_cluster_without_room_is_refused(monkeypatch):
    monkeypatch.setattr(cluster.ray, "nodes", lambda: NODES[1:])
    with pytest.raises(cluster.ClusterError, match="the cluster's 1 machines have no GPU; give --device cpu"):
        cluster.choose_pool("cuda", None, None)
    with pytest.raises(cluster.ClusterError, match="--actors is 4, but the cluster has room for 3; ask for fewer"):
        cluster.choose_pool("cpu", None, 4)
    with pytest.raises(
        cluster.ClusterError, match="--threads is 8, but no machine of the cluster has more than 3 CPUs"
    ):
        cluster.choose_pool("cpu", 8, None)


def test_what_ray_says_is_cut_to_the_line_that_names_an_exception():
    said = "Traceback …\n  File x\nModuleNotFoundError: No module named 'himar_export'\nTo change retries, configure …"
    assert cluster._reason(RuntimeError(said)) == "ModuleNotFoundError: No module named 'himar_export'"
    assert cluster._reason(RuntimeError("the node is gone\nadvice")) == "the node is gone"


def test_a_part_of_arrays_can_be_read_without_pickles(run, pipeline):
    result = pipeline.generate([1], sampling="plain")
    (data,) = worker.encode_part(replace(run, output="latents"), result).values()
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        assert set(arrays.files) == {"latents", "low_latents", "labels", "recipes"}
