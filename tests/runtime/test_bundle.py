"""A damaged, moved or hostile bundle must be refused before anything in it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from himar_kernels import BundleError
from himar_runtime import Bundle, load_engine, load_networks
from himar_runtime.engine import Device

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
    with pytest.raises(BundleError, match=r"has no manifest\.json, so it is no bundle"):
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
