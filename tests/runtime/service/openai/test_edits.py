"""OpenAI's client gets the library's edits of images, and what cannot be edited is refused in a sentence."""

from __future__ import annotations

import base64
import io
import json
import struct
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from PIL import Image

from himar_runtime import Pipeline
from tests.closeness import assert_same_pixels
from tests.runtime.conftest import write_bundle
from tests.runtime.service.conftest import Reply, Server
from tests.runtime.service.openai.conftest import client_of
from tests.runtime.service.openai.test_images import assert_images
from tests.runtime.service.test_batching import CALLS, REQUESTS
from tests.runtime.service.test_images import pixels
from tests.runtime.tiny_hmar import write_hmar_bundle
from tests.runtime.tiny_text import write_text_bundle

PATH = "/v1/images/edits"
SIDE = 12
Parts = Sequence[tuple[str, bytes | str]]


def _smooth() -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.stack([20 * rows, 20 * columns, 10 * (rows + columns)], axis=-1).astype(np.uint8)


PIXELS = _smooth()
HOLE = np.zeros((SIDE, SIDE), np.bool_)
HOLE[2:9, 5:] = True


def encoded(array: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, kind, **options)
    return content.getvalue()


def transparent(hole: NDArray[np.bool_], rgb: NDArray[np.uint8] = PIXELS) -> NDArray[np.uint8]:
    return np.dstack([rgb, np.where(hole, 0, 255).astype(np.uint8)])


IMAGE, MASK = encoded(PIXELS), encoded(transparent(HOLE))
WHITE_RGB = np.repeat(HOLE[..., None], 3, axis=2).astype(np.uint8) * 255
WHITE = encoded(WHITE_RGB)


def form(parts: Parts, boundary: str = "b0und") -> tuple[bytes, dict[str, str]]:
    """The bytes of a form and its headers, written by hand."""
    body = b""
    for name, content in parts:
        file = '; filename="a.png"\r\nContent-Type: image/png' if isinstance(content, bytes) else ""
        raw = content if isinstance(content, bytes) else content.encode()
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + raw + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def ask(server: Server, parts: Parts) -> Reply:
    return server.ask("POST", PATH, *form(parts))


@pytest.fixture(scope="module")
def edit_server(start_server: Any, tiny_hmar_path: Path) -> Any:
    return start_server(tiny_hmar_path, "--lanes", "2", "--max-images", "8", "--max-body", "4096")


@pytest.fixture(scope="module")
def edit_client(edit_server: Any) -> openai.OpenAI:
    return client_of(edit_server)


@pytest.fixture(scope="module")
def library(tiny_hmar_path: Path) -> Pipeline:
    return Pipeline.load(tiny_hmar_path, threads=1)


def assert_edit(
    answer: Any, library: Pipeline, labels: Any, image: Any = PIXELS, hole: Any = HOLE, **given: Any
) -> None:
    count = len(answer.data)
    assert_images(answer, library.edit([image] * count, [hole] * count, labels, **given))


def test_a_part_of_an_image_becomes_a_class(edit_client: openai.OpenAI, library: Pipeline) -> None:
    answer = edit_client.images.edit(
        image=IMAGE, mask=MASK, prompt="3", n=2, extra_body={"seed": 7, "guidance_scale": 0.5}
    )
    assert_edit(answer, library, [3, 3], seed=7, guidance=0.5)
    assert (answer.background, answer.output_format, answer.quality, answer.size) == ("opaque", "png", "auto", "12x12")
    assert answer.seed == 7
    assert (
        answer.usage.input_tokens_details.image_tokens == 2 * 9 and answer.usage.input_tokens_details.text_tokens == 0
    )
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (18, 18, 36)
    kept = pixels(base64.b64decode(answer.data[1].b64_json))[~HOLE]
    assert np.array_equal(kept, PIXELS[~HOLE])


def test_without_a_prompt_what_fits_is_drawn(edit_client: openai.OpenAI, edit_server: Any, library: Pipeline) -> None:
    answer = edit_client.images.edit(image=IMAGE, mask=MASK, prompt="", quality="plain", extra_body={"seed": 5})
    assert_edit(answer, library, None, seed=5, sampling="plain")
    assert answer.data[0].recipe["label"] is None
    reply = ask(edit_server, [("image", IMAGE), ("mask", MASK), ("seed", "5"), ("quality", "plain"), ("n", "")])
    assert reply.json["data"][0]["b64_json"] == answer.data[0].b64_json


@pytest.mark.parametrize(
    "marks",
    [
        {"mask": WHITE},
        {"mask": encoded(transparent(HOLE & False, WHITE_RGB))},
        {"mask": encoded(HOLE)},
        {"mask": encoded(transparent(HOLE, np.zeros_like(PIXELS)))},
        {"image": encoded(transparent(HOLE))},
        {"image": encoded(transparent(HOLE)), "mask": WHITE},
        {"image": [IMAGE], "mask": MASK},
    ],
    ids=["white", "white, opaque alpha", "bits", "black, transparent", "the image's own", "both", "a list of one"],
)  # fmt: skip
def test_what_marks_the_part(edit_client: openai.OpenAI, library: Pipeline, marks: dict[str, Any]) -> None:
    answer = edit_client.images.edit(**{"image": IMAGE, "prompt": "1", **marks}, extra_body={"seed": 3})
    assert_edit(answer, library, [1], seed=3)


def test_soft_edges_of_transparency_are_cut_in_the_middle(edit_client: openai.OpenAI, library: Pipeline) -> None:
    soft = transparent(HOLE)
    soft[2, 5:7, 3] = 127, 128
    hole = HOLE.copy()
    hole[2, 6] = False
    answer = edit_client.images.edit(image=IMAGE, mask=encoded(soft), prompt="1", extra_body={"seed": 3})
    assert_edit(answer, library, [1], hole=hole, seed=3)


def test_a_turned_photograph_is_read_as_it_is_seen(edit_client: openai.OpenAI, library: Pipeline) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(PIXELS, exif=exif)
    answer = edit_client.images.edit(image=turned, mask=WHITE, prompt="1", extra_body={"seed": 3})
    assert_edit(answer, library, [1], image=np.rot90(PIXELS, -1), seed=3)


@pytest.mark.parametrize(("kind", "options"), [("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})])
def test_images_of_other_formats(edit_client: openai.OpenAI, library: Pipeline, kind: str, options: Any) -> None:
    content = encoded(PIXELS, kind, **options)
    seen = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    answer = edit_client.images.edit(
        image=content, mask=WHITE, prompt="1", output_format="webp", extra_body={"seed": 3}
    )
    assert answer.output_format == "webp"
    assert answer.data[0].recipe == library.edit([seen], [HOLE], [1], seed=3).recipes[0].to_dict()


def test_a_stream_shows_the_scales(edit_client: openai.OpenAI, library: Pipeline) -> None:
    asked: Any = {"image": IMAGE, "mask": MASK, "prompt": "1", "extra_body": {"seed": 5}}
    events = list(edit_client.images.edit(stream=True, partial_images=3, **asked))
    shown: list[Any] = []
    library.edit([PIXELS], [HOLE], [1], seed=5, on_step=lambda step: shown.append(step.so_far()[0]))
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    for place, (event, image) in enumerate(zip(events[:2], shown, strict=False)):
        assert (event.partial_image_index, event.size) == (place, "12x12")
        assert_same_pixels(pixels(base64.b64decode(event.b64_json)), image)
    assert events[-1].b64_json == edit_client.images.edit(**asked).data[0].b64_json
    assert events[-1].usage.total_tokens == 18


def test_edits_are_counted_and_logged(edit_client: openai.OpenAI, edit_server: Any) -> None:
    before = edit_server.metrics()
    answer = edit_client.images.with_raw_response.edit(image=IMAGE, mask=MASK, prompt="1", n=2)
    after = edit_server.metrics()
    for name, more in (("himar_requests_total{code=200}", 1), ("himar_images_total", 2)):
        assert after[name] - before.get(name, 0) == more
    assert f"{answer.headers['x-request-id']} 200 images=2 queued=" in edit_server.log.read_text()
    assert "scale-1;dur=" in answer.headers["Server-Timing"]
    assert json.loads(answer.content)["seconds"].keys() == {"queued", "generate"}


def test_edits_share_calls_with_edits(start_server: Any, tiny_hmar_path: Path, library: Pipeline) -> None:
    """A call takes milliseconds, so they join by waiting for each other after a call of several."""
    server = start_server(tiny_hmar_path, "--queue-delay", "300")
    holes = [np.roll(HOLE, place, axis=0) for place in range(3)]
    wanted = [
        library.edit([PIXELS], [holes[seed % 3]], None if seed % 4 == 3 else [seed % 2], seed=seed).images
        for seed in range(12)
    ]
    generated = library.generate([1], seed=1).images

    def one(seed: int) -> Reply:
        prompt = [] if seed % 4 == 3 else [("prompt", f"{seed % 2}")]
        parts = [("image", IMAGE), ("mask", encoded(transparent(holes[seed % 3]))), ("seed", f"{seed}"), *prompt]
        return ask(server, parts)

    with ThreadPoolExecutor(12) as clients:
        for _ in range(20):
            beside = server.start({"labels": [1], "seed": 1})
            for reply, images in zip(clients.map(one, range(12)), wanted, strict=True):
                assert_same_pixels(pixels(base64.b64decode(reply.json["data"][0]["b64_json"])), images[0])
            plain = Server.reply(beside).json["images"][0]["png"]
            assert_same_pixels(pixels(base64.b64decode(plain)), generated[0])
            found = server.metrics()
            if found[CALLS] < found[REQUESTS]:
                break
    assert found[CALLS] < found[REQUESTS]
    assert server.end() == 0


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has as many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


GREY = np.random.default_rng(0).integers(40, 200, (SIDE, SIDE), np.uint8)
BOTH = [("image", IMAGE), ("mask", MASK)]
BAD: dict[str, tuple[Parts, str | None, str]] = {
    "nothing": ([("prompt", "1")], "image", 'the form lacks "image"; send the image to be edited.'),
    "two images": ([("image[]", IMAGE), ("image[]", IMAGE), ("mask", MASK)], "image",
                   "2 images are sent, but one is edited at a time; send a request for each."),
    "two masks": ([*BOTH, ("mask", WHITE)], "mask", "2 masks are sent for one image; send one."),
    "twice": ([*BOTH, ("n", "1"), ("n", "2")], "n", "n is sent 2 times; send it once."),
    "no image": ([("image", b"no picture"), ("mask", MASK)], "image",
                 "the image cannot be read: it is not an image that can be decoded; send a PNG"),
    "cut image": ([("image", IMAGE[:60]), ("mask", MASK)], "image",
                  "the image cannot be read: it is not an image that can be decoded; send a PNG"),
    "no mask": ([("image", IMAGE), ("mask", b"")], "mask",
                "the mask cannot be read: it is not an image that can be decoded; send a PNG"),
    "nothing marked": ([("image", IMAGE)], "mask", "there is no mask, and the image has no transparent pixels; send a"),
    "large image": ([("image", encoded(PIXELS[:, :11])), ("mask", MASK)], "image",
                    "the image has 11 × 12 pixels, but the model's images have 12 × 12; crop or resize it first."),
    "large mask": ([("image", IMAGE), ("mask", encoded(HOLE[:9]))], "mask",
                   "the mask has 12 × 9 pixels, but the model's images have 12 × 12; crop or resize it first."),
    "bomb": ([("image", bomb(12_000)), ("mask", MASK)], "image", "the image has 12000 × 12000 pixels, but the model's"),
    "larger bomb": ([("image", IMAGE), ("mask", bomb(50_000))], "mask",
                    "pixels"),
    "empty": ([("image", IMAGE), ("mask", encoded(0 * GREY))], "mask", "empty, so there is nothing to draw"),
    "full": ([("image", IMAGE), ("mask", encoded(0 * GREY + 255))], "mask", "covers the whole image, so nothing is"),
    "all transparent": ([("image", encoded(transparent(HOLE | True)))], "image", "covers the whole image, so nothing"),
    "grey": ([("image", IMAGE), ("mask", encoded(GREY))], "mask", "of its pixels are neither black nor white; paint"),
    "half": ([("image", IMAGE), ("mask", encoded(np.dstack([PIXELS, GREY])))], "mask",
             "of its pixels are neither transparent nor opaque; make transparent what is to be drawn anew"),
    "16 bits": ([("image", encoded(GREY.astype(np.uint16))), ("mask", MASK)], "image", "save it with 8 bits a channel"),
    "unclear": ([("image", encoded(transparent(~HOLE))), ("mask", MASK)], "image",
                "the image is transparent where the mask keeps it; fill it there, or let the mask draw it."),
    "prompt": ([*BOTH, ("prompt", "9")], "prompt", "9 is not a class of this model; classes are the numbers 0 to 4."),
    "n": ([*BOTH, ("n", "many")], "n", "n is 'many'; it must be a whole number from 1 to 10."),
    "n too large": ([*BOTH, ("n", "9")], "n", "n is 9, but this server makes at most 8 images in one request."),
    "n broken": ([*BOTH, ("n", "1.5")], "n", "n is 1.5; it must be a whole number from 1 to 10."),
    "size": ([*BOTH, ("size", "1024x1024")], "size", "this model makes images of 12x12; ask for that, or 'auto'."),
    "quality": ([*BOTH, ("quality", "high")], "quality", "quality is 'high'; this bundle has auto, default, plain."),
    "guidance": ([*BOTH, ("prompt", "1"), ("guidance_scale", "much")], "guidance_scale", "it must be a number."),
    "unguided": ([*BOTH, ("guidance_scale", "2")], "guidance_scale", "but no class is given, and without one nothing"),
    "stream": ([*BOTH, ("stream", "yes")], "stream", "stream is 'yes'; it must be true or false."),
    "seed": ([*BOTH, ("seed", "-1")], "seed", "seed is -1; it must be a whole number"),
    "not UTF-8": ([*BOTH, ("prompt", b"\xff")], "prompt", "prompt is not UTF-8"),
    "seen through": ([("image", encoded(transparent(HOLE))), ("feather", "2")], "feather",
                     "feather is 2, but the image under the mask, which it blends in, is transparent; fill it there"),
    "feather": ([*BOTH, ("feather", "99")], "feather", "feather is 99; it must be a whole number from 0 to 12"),
    "feather in words": ([*BOTH, ("feather", "wide")], "feather", "feather is 'wide'; it must be a whole number from"),
    "feather of a half": ([*BOTH, ("feather", "1.5")], "feather", "feather is 1.5; it must be a whole number from"),
    "feather below 0": ([*BOTH, ("feather", "-1")], "feather", "feather is -1; it must be a whole number from 0 to 12"),
    "dilation": ([*BOTH, ("dilation", "2")], "dilation", "an HMAR model draws a ring around the mask"),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "param", "part"), BAD.values(), ids=BAD)
def test_what_cannot_be_edited_is_refused(edit_server: Any, parts: Parts, param: str, part: str) -> None:
    reply = ask(edit_server, parts)
    error = reply.json["error"]
    assert (reply.status, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert part in error["message"] and error["message"].endswith(".")
    assert error["code"] in ("invalid_value", "missing_required_parameter")


@pytest.mark.parametrize("key", ["negative_prompt", "labels", "strength"])
def test_an_unknown_field_is_refused(edit_server: Any, key: str) -> None:
    error = ask(edit_server, [*BOTH, (key, "1")]).json["error"]
    assert (error["param"], error["code"]) == (key, "unknown_parameter")
    assert error["message"].startswith(f"unknown parameter '{key}'; this server takes image, mask, prompt, model, n,")


def test_what_says_nothing_of_the_image_is_taken(edit_server: Any) -> None:
    further = [("input_fidelity", "high"), ("user", "me"), ("background", "auto"), ("response_format", "b64_json")]
    assert (
        ask(edit_server, [*BOTH, *further, ("moderation", "low"), ("model", "bundle"), ("size", "12x12")]).status == 200
    )


FORM = "the body is no whole multipart form"


def test_a_body_that_is_no_whole_form(edit_server: Any) -> None:
    body, headers = form(BOTH)
    nameless = body.replace(b'name="mask"', b'title="mask"')
    for sent, changed, status, part in (
        (body, {"Content-Type": "multipart/form-data"}, 400, FORM),
        (body, {"Content-Type": "application/json"}, 415, "send the request as multipart/form-data."),
        (body, {"Content-Encoding": "gzip"}, 415, "Content-Encoding is 'gzip'"),
        (body[:-30], {}, 400, FORM),
        (b"", {}, 400, FORM),
        (b"no form", {}, 400, FORM),
        (nameless, {}, 400, FORM),
        (body + b" " * 8000, {}, 413, "send at most 5248."),
    ):
        reply = edit_server.ask("POST", PATH, sent, {**headers, **changed})
        error = reply.json["error"]
        assert (reply.status, error["param"], error["type"]) == (status, None, "invalid_request_error"), error
        assert part in error["message"]
    assert edit_server.ask("GET", PATH).status == 405


def test_any_bytes_are_edited_or_refused(edit_server: Any) -> None:
    random = np.random.default_rng(0)
    pictures = [
        IMAGE, MASK, WHITE, encoded(PIXELS, "JPEG"), encoded(PIXELS, "WEBP"), encoded(PIXELS, "WEBP", lossless=True),
        encoded(transparent(HOLE), "WEBP", lossless=True), bomb(SIDE),
    ]  # fmt: skip

    def damaged(content: bytes) -> bytes:
        if random.random() < 0.6:
            return content
        changed = np.frombuffer(content, np.uint8).copy()
        places = random.integers(0, len(changed), random.integers(0, 4))
        changed[places] = random.integers(0, 256, len(places))
        return changed[: None if random.random() < 0.7 else random.integers(0, len(changed))].tobytes()

    found = set()
    for _ in range(150):
        image, mask = (pictures[place] for place in random.integers(0, len(pictures), 2))
        body, headers = form([("image", damaged(image)), ("mask", damaged(mask)), ("prompt", "1")])
        reply = edit_server.ask("POST", PATH, damaged(body), headers)
        found.add(reply.status)
        if reply.status != 200:
            error = reply.json["error"]
            assert error["type"] == "invalid_request_error" and error["message"].endswith(".")
    assert found == {200, 400}


def test_a_bomb_is_not_decoded(edit_server: Any) -> None:
    start = time.monotonic()
    assert ask(edit_server, [("image", bomb(12_000)), ("mask", MASK)]).status == 400
    assert time.monotonic() - start < 5  # to decode 432 MB takes longer


@pytest.fixture(scope="module")
def hi_mar_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("editing") / "bundle", editing=True)


def test_hi_mar_edits(start_server: Any, hi_mar_path: Path) -> None:
    server, library = start_server(hi_mar_path), Pipeline.load(hi_mar_path, threads=1)
    client = client_of(server)
    image = np.pad(PIXELS, ((0, 4), (0, 4), (0, 0)), mode="edge")
    hole = np.pad(HOLE, ((0, 4), (0, 4)))
    asked: Any = {"image": encoded(image), "mask": encoded(transparent(hole, image)), "prompt": "2"}
    answer = client.images.edit(**asked, n=3, extra_body={"seed": 7, "dilation": 1, "feather": 2, "guidance_scale": 3})
    wanted = library.edit([image] * 3, [hole] * 3, [2] * 3, seed=7, dilation=1, feather=2, guidance=3)
    assert_images(answer, wanted)
    assert answer.data[0].recipe["edit"].keys() == {"image", "mask", "dilation", "feather"}
    answer = client.images.edit(**{**asked, "prompt": ""}, extra_body={"seed": 7})
    assert_images(answer, library.edit([image], [hole], seed=7))
    # Few positions are drawn, so there are fewer steps than of a whole image.
    hole = np.zeros_like(hole)
    hole[0, 0] = True
    asked["mask"] = encoded(transparent(hole, image))
    events = list(client.images.edit(stream=True, partial_images=3, **asked, extra_body={"seed": 4}))
    shown: list[Any] = []
    library.edit([image], [hole], [2], seed=4, on_step=lambda step: shown.append(step.so_far()[0]))
    assert len(shown) == 2 and [event.size for event in events] == ["8x8", "16x16"]
    assert_same_pixels(pixels(base64.b64decode(events[0].b64_json)), shown[0])
    assert server.end() == 0


def test_a_text_says_what_the_image_shows(start_server: Any, tmp_path: Path) -> None:
    path = write_text_bundle(tmp_path / "bundle", editing=True)
    server, library = start_server(path), Pipeline.load(path, threads=1)
    image = np.pad(PIXELS, ((0, 4), (0, 4), (0, 0)), mode="edge")
    hole = np.pad(HOLE, ((0, 4), (0, 4)))
    asked: Any = {"image": encoded(image), "mask": encoded(transparent(hole, image)), "extra_body": {"seed": 7}}
    answer = client_of(server).images.edit(prompt="two red", n=2, **asked)
    assert_images(answer, library.edit([image] * 2, [hole] * 2, prompts=["two red"] * 2, seed=7))
    assert (answer.truncated, answer.usage.input_tokens_details.text_tokens) == ([], 2 * 6)
    answer = client_of(server).images.edit(prompt="", **asked)
    assert_images(answer, library.edit([image], [hole], seed=7))
    assert (answer.usage.input_tokens, answer.usage.input_tokens_details.text_tokens) == (16, 0)
    assert server.end() == 0
    server = start_server(write_text_bundle(tmp_path / "towerless", encoder=False, editing=True))
    answer = client_of(server).images.edit(prompt="", quality="default", **asked)
    assert_same_pixels(
        pixels(base64.b64decode(answer.data[0].b64_json)), library.edit([image], [hole], seed=7).images[0]
    )
    with pytest.raises(openai.BadRequestError, match="this bundle has no text_encoder, so it takes no prompts"):
        client_of(server).images.edit(prompt="red", **asked)
    assert server.end() == 0


def test_edits_with_other_steps_do_not_share_calls(start_server: Any, hi_mar_path: Path) -> None:
    server, library = start_server(hi_mar_path, "--queue-delay", "50"), Pipeline.load(hi_mar_path, threads=1)
    image = np.pad(PIXELS, ((0, 4), (0, 4), (0, 0)), mode="edge")
    holes, shown, wanted = [], [], []
    for place in range(6):
        holes.append(np.zeros((16, 16), np.bool_))
        holes[-1][: 4 + 4 * (place % 2), 4 * (place // 2) :] = True
        seen: list[Any] = []
        shown.append(seen)
        made = library.edit(
            [image], holes[-1:], [1], seed=place, on_step=lambda step, to=seen: to.append(step.so_far()[0])
        )
        wanted.append(made.images[0])

    def one(place: int) -> Reply:
        parts: Parts = [("image", encoded(image)), ("mask", encoded(transparent(holes[place], image)))]
        return ask(server, [*parts, ("seed", f"{place}"), ("prompt", "1"), ("stream", "true"), ("partial_images", "1")])

    with ThreadPoolExecutor(6) as clients:
        for _ in range(3):
            for place, reply in enumerate(clients.map(one, range(6))):
                events = reply.body.decode().split("\n\n")[:2]
                first, last = (
                    pixels(base64.b64decode(json.loads(event.partition("data: ")[2])["b64_json"])) for event in events
                )
                assert_same_pixels(last, wanted[place])
                assert any(np.array_equal(first, each) for each in shown[place])
    assert server.end() == 0


def test_bundles_that_cannot_edit(start_server: Any, bundle_path: Path, tmp_path: Path) -> None:
    for path in (bundle_path, write_hmar_bundle(tmp_path / "bundle", encoder=False)):
        server = start_server(path)
        reply = ask(server, BOTH)
        assert (reply.status, reply.json["error"]["param"]) == (400, None)
        assert (
            "this bundle has no vae_encoder, which reads the images to be edited; build"
            in reply.json["error"]["message"]
        )
        assert server.end() == 0


def test_a_token_is_needed(start_server: Any, tiny_hmar_path: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret\n")
    server = start_server(tiny_hmar_path, "--token-file", str(tmp_path / "tokens"), "--root-path", "/himar")
    assert ask(server, BOTH).status == 401
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/himar/v1", api_key="secret", max_retries=0)
    assert client.images.edit(image=IMAGE, mask=MASK, prompt="1").data
    assert server.end() == 0
