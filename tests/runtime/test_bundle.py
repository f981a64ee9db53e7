"""A damaged, moved or hostile bundle must be refused before anything in it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from himar_kernels import BundleError
from himar_runtime import Bundle, Pipeline, load_engine, load_networks
from himar_runtime.engines.engine import Device
from tests.runtime.hub_cache import in_hub_cache, write_weights_apart

CPU = Device("cpu")


def test_a_good_bundle_opens_with_an_id_that_follows_its_manifest(make_bundle, edit_manifest) -> None:
    path = make_bundle()
    bundle = Bundle.open(path)
    assert len(bundle.id) == 64
    assert bundle.path("mlp_head.onnx").is_file()
    edit_manifest(path, lambda manifest: manifest.update(himar_version="9"))
    assert Bundle.open(path).id != bundle.id


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere is not a folder; give a bundle that `himar-export build`"):
        Bundle.open(tmp_path / "nowhere")


def test_no_manifest(make_bundle: Callable[..., Path]) -> None:
    path = make_bundle()
    (path / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"has no manifest\.json, so it is not a bundle"):
        Bundle.open(path)


def test_a_missing_file(make_bundle: Callable[..., Path]) -> None:
    path = make_bundle()
    (path / "dit_head.onnx").unlink()
    with pytest.raises(BundleError, match=r"lacks its file dit_head\.onnx"):
        Bundle.open(path)


def test_a_changed_file(make_bundle: Callable[..., Path]) -> None:
    path = make_bundle()
    content = bytearray((path / "dit_head.onnx").read_bytes())
    content[40] ^= 1
    (path / "dit_head.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"dit_head\.onnx .* does not have the manifest's sha256"):
        Bundle.open(path)


def test_a_file_may_be_hashed_when_it_is_read(make_bundle: Callable[..., Path]) -> None:
    path = make_bundle()
    content = bytearray((path / "dit_head.onnx").read_bytes())
    content[40] ^= 1
    (path / "dit_head.onnx").write_bytes(content)
    bundle = Bundle.open(path, hash_when_read=True)
    assert bundle.place("dit_head.onnx") == bundle.root / "dit_head.onnx"
    assert bundle.path("mlp_head.onnx").is_file()
    for name in ("dit_head.onnx", "./dit_head.onnx"):
        with pytest.raises(BundleError, match=r"dit_head\.onnx .* does not have the manifest's sha256"):
            bundle.path(name)
    with pytest.raises(BundleError, match=r"dit_head\.onnx .* does not have the manifest's sha256"):
        load_engine(bundle, "dit_head", CPU, 1)
    load_engine(bundle, "mlp_head", CPU, 1)


def test_a_truncated_file(make_bundle: Callable[..., Path]) -> None:
    path = make_bundle()
    content = (path / "dit_head.onnx").read_bytes()
    (path / "dit_head.onnx").write_bytes(content[:-7])
    with pytest.raises(BundleError, match=rf"{len(content) - 7} bytes where the manifest says {len(content)}"):
        Bundle.open(path)


def test_a_link_that_leads_out(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = make_bundle()
    outside = tmp_path / "outside.onnx"
    (path / "dit_head.onnx").rename(outside)
    (path / "dit_head.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match=r"dit_head\.onnx .* is a link that leads out"):
        Bundle.open(path)


def test_a_manifest_that_is_a_link_out(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = make_bundle()
    (path / "manifest.json").rename(tmp_path / "elsewhere.json")
    (path / "manifest.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleError, match=r"manifest\.json .* is a link that leads out of the bundle"):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["dit_head.onnx", "manifest.json"])
def test_links_in_a_circle(make_bundle: Callable[..., Path], name: str) -> None:
    path = make_bundle()
    (path / name).unlink()
    (path / name).symlink_to(name)
    with pytest.raises(BundleError, match=name):
        Bundle.open(path)


def test_a_link_inside_and_a_link_to_the_bundle_are_fine(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = make_bundle()
    (path / "dit_head.onnx").rename(path / "real.onnx")
    (path / "dit_head.onnx").symlink_to("real.onnx")
    (tmp_path / "link").symlink_to(path)
    assert Bundle.open(tmp_path / "link").root == path.resolve()


def test_a_missing_component(make_bundle, edit_manifest) -> None:
    path = make_bundle()
    edit_manifest(path, lambda manifest: manifest["components"].pop("dit_head"))
    with pytest.raises(BundleError, match="lacks the component dit_head"):
        load_networks(Bundle.open(path), CPU, None)


def test_an_unknown_component(bundle_path: Path) -> None:
    with pytest.raises(BundleError, match="no component 'head'; it has transformer_low, "):
        load_engine(Bundle.open(bundle_path), "head", CPU, None)


def test_a_bundle_of_other_phases_needs_their_components(make_bundle, edit_manifest) -> None:
    path = make_bundle()
    edit_manifest(path, lambda manifest: manifest["model"].update(pivots="visual"))
    with pytest.raises(BundleError, match="lacks the component mlp_head_low, dit_head_high; build"):
        load_networks(Bundle.open(path), CPU, None)


@pytest.mark.parametrize(("folder", "below"), [("", "."), ("engines", "."), ("engines", "bundles/small")])
def test_a_bundle_in_the_hubs_cache_runs(
    make_bundle: Any, edit_manifest: Any, tmp_path: Path, folder: str, below: str
) -> None:
    bundle = make_bundle()
    wanted = Pipeline.load(bundle, threads=1).generate([1, 3], seed=5)
    write_weights_apart(bundle, edit_manifest, folder)
    snapshot = in_hub_cache(bundle, tmp_path / "models--me--digits", below)
    assert (snapshot / "manifest.json").is_symlink()
    found = Pipeline.load(snapshot, threads=1).generate([1, 3], seed=5)
    assert found.images is not None and wanted.images is not None
    assert (found.images == wanted.images).all()
    (tmp_path / "link").symlink_to(snapshot)
    assert Bundle.open(tmp_path / "link").root == snapshot.resolve()


def test_weights_are_given_to_an_onnx_runtime_that_follows_no_links_to_them(
    make_bundle: Any, edit_manifest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()
    write_weights_apart(bundle, edit_manifest)
    snapshot = in_hub_cache(bundle, tmp_path / "models--me--digits")
    create, refused = onnxruntime.InferenceSession, []

    def create_as_1_24_does(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "dit_head.onnx" and not refused:
            refused.append(path)
            raise RuntimeError('External data path: "weights.bin" escapes model directory')
        return create(path, *arguments, **options)

    wanted = Pipeline.load(snapshot, threads=1).generate([1, 3], seed=5)
    monkeypatch.setattr(onnxruntime, "InferenceSession", create_as_1_24_does)
    found = Pipeline.load(snapshot, threads=1).generate([1, 3], seed=5)
    assert refused and (found.latents == wanted.latents).all()


def test_a_damaged_blob_is_found(make_bundle: Any, tmp_path: Path) -> None:
    snapshot = in_hub_cache(make_bundle(), tmp_path / "models--me--digits")
    blob = (snapshot / "dit_head.onnx").resolve()
    content = bytearray(blob.read_bytes())
    content[40] ^= 1
    blob.write_bytes(content)
    with pytest.raises(BundleError, match=r"dit_head\.onnx .* does not have the manifest's sha256"):
        Bundle.open(snapshot)
    blob.unlink()  # of a download that was stopped
    with pytest.raises(BundleError, match=r"lacks its file dit_head\.onnx"):
        Bundle.open(snapshot)


@pytest.mark.parametrize("name", ["dit_head.onnx", "manifest.json"])
@pytest.mark.parametrize(
    "place",
    [
        "outside",
        "models--me--digits/refs/main",
        "models--me--digits/blobs/deep/er",
        "models--me--digits/blobs-2/blob",
        "models--me--digits/snapshots/def/file",
        "models--me--other/blobs/blob",
    ],
)
def test_links_of_the_hubs_cache_lead_to_its_own_blobs_only(
    make_bundle: Any, tmp_path: Path, name: str, place: str
) -> None:
    snapshot = in_hub_cache(make_bundle(), tmp_path / "models--me--digits")
    target = tmp_path / place
    target.parent.mkdir(parents=True, exist_ok=True)
    (snapshot / name).resolve().rename(target)
    (snapshot / name).unlink()
    (snapshot / name).symlink_to(target)
    with pytest.raises(BundleError, match=rf"{name} .* leads out of the bundle; .* \(cp -rL\), .* with local_dir\."):
        Bundle.open(snapshot)


def test_a_blob_that_is_a_link_out_is_refused(make_bundle: Any, tmp_path: Path) -> None:
    snapshot = in_hub_cache(make_bundle(), tmp_path / "models--me--digits")
    blob = (snapshot / "dit_head.onnx").resolve()
    blob.rename(tmp_path / "outside")
    blob.symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle.open(snapshot)


@pytest.mark.parametrize("repository", ["digits", "models--", "my-models--me--digits"])
def test_blobs_of_a_folder_that_is_no_hub_repository_are_outside(
    make_bundle: Any, tmp_path: Path, repository: str
) -> None:
    snapshot = in_hub_cache(make_bundle(), tmp_path / repository)
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle.open(snapshot)
