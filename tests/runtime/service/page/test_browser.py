"""The page in a browser: what people do with it, by keyboard and pointer, and what it says when it cannot."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from himar_runtime import Pipeline
from himar_runtime.png import read_recipes
from tests.runtime.service.page.conftest import NAMES, ROOT, TOKEN


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)  # a machine may be busy
    return expect(locator)


def tiles(page: Any) -> Any:
    return page.get_by_role("list", name="Images", exact=True).get_by_role("button")


def listbox(page: Any) -> Any:
    return page.get_by_role("listbox", name="Classes")


def options(page: Any) -> list[str]:
    return [text.rsplit("\n", 1)[0].strip() for text in listbox(page).get_by_role("option").all_inner_texts()]


def test_a_class_is_found_by_name_and_its_image_downloaded(
    fishes: Any, named_bundle: Path, visit: Any, tmp_path: Path
) -> None:
    page = visit(fishes)
    expect(page.get_by_role("heading", level=1)).to_have_text("fishes")
    expect(page.locator("#facts")).to_contain_text("40 classes · 16 × 16")
    search = page.get_by_role("combobox", name="Classes")
    search.fill("gold")
    assert options(page)[0] == "goldfish"
    search.press("Enter")
    page.get_by_role("textbox", name="Seed").fill(str(2**64 - 1))
    page.get_by_label("Quality").select_option("plain")
    page.get_by_label("Guidance").fill("1.5")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("status")).to_contain_text(f"goldfish, seed {2**64 - 1}. Finished")
    strip = page.get_by_role("group", name="How it became").get_by_role("button")
    names = [button.get_attribute("aria-label") for button in strip.all()]
    assert names[0] == "Preview 1, 8 by 8 pixels" and names[-1] == "Image, 16 by 16 pixels"
    image = page.locator("#stage .frame img")
    assert image.evaluate("image => [image.naturalWidth, getComputedStyle(image).imageRendering]") == [16, "pixelated"]
    assert image.bounding_box()["width"] % 16 == 0

    with page.expect_download() as downloads:
        page.get_by_role("link", name="Download PNG").click()
    assert downloads.value.suggested_filename == f"goldfish-seed-{2**64 - 1}.png"
    saved = tmp_path / "image.png"
    downloads.value.save_as(saved)
    (recipe,) = read_recipes(saved)
    assert (recipe.label, recipe.seed) == (1, 2**64 - 1)
    wanted = Pipeline.load(named_bundle, threads=1).generate([1], seed=2**64 - 1, sampling="plain", guidance=1.5)
    assert wanted.images is not None and recipe == wanted.recipes[0]
    with Image.open(saved) as opened:
        assert np.array_equal(np.asarray(opened), wanted.images[0])

    page.locator("summary").click()
    assert json.loads(page.get_by_label("Recipe as JSON").inner_text()) == recipe.to_dict()


def test_everything_is_done_from_the_keyboard(fishes: Any, visit: Any) -> None:
    page = visit(fishes)
    page.get_by_role("combobox", name="Classes").focus()
    page.keyboard.type("tinca")
    page.keyboard.press("Enter")  # chooses
    page.keyboard.type("3")
    assert options(page)[0] == "great white shark"
    page.keyboard.press("Escape")
    expect(listbox(page)).to_be_hidden()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    chosen = page.get_by_role("list", name="Chosen classes").get_by_role("listitem")
    assert [text.split("\n")[0].rstrip("×") for text in chosen.all_inner_texts()] == ["tench", "great white shark"]
    page.keyboard.press("Backspace")
    expect(chosen).to_have_count(1)
    page.get_by_label("Images of each").fill("3")
    page.get_by_role("textbox", name="Seed").fill("7")
    page.keyboard.press("Enter")  # generates
    expect(page.locator("[data-state=done].tile")).to_have_count(3)
    labels = [each.get_attribute("aria-label") for each in tiles(page).all()]
    assert labels == [f"tench, seed {seed}. Finished" for seed in (7, 8, 9)]
    tiles(page).first.focus()
    for key, place in (("ArrowRight", 1), ("End", 2), ("ArrowLeft", 1), ("Home", 0)):
        page.keyboard.press(key)
        expect(tiles(page).nth(place)).to_be_focused()
        expect(page.locator("#stage dd").first).to_have_text(str(7 + place))
    page.get_by_role("button", name="Remove", exact=True).press("Enter")
    expect(tiles(page)).to_have_count(2)
    expect(tiles(page).first).to_be_focused()
    page.get_by_role("button", name="Reuse settings").press("Enter")
    expect(page.get_by_role("textbox", name="Seed")).to_have_value("8")
    expect(page.get_by_label("Images of each")).to_have_value("1")
    page.keyboard.press("Enter")
    expect(tiles(page)).to_have_count(3)
    expect(page.locator("[data-state=done].tile")).to_have_count(3)


def test_search_goes_by_number_and_part_and_reads_no_markup(fishes: Any, visit: Any) -> None:
    page = visit(fishes)
    search = page.get_by_role("combobox", name="Classes")
    for text, first in (("4", NAMES[4]), ("SHARK", "great white shark"), ("2", "Class 2"), ("golden", NAMES[35])):
        search.fill(text)
        assert options(page)[0] == first
    search.fill("no such thing")
    expect(listbox(page)).to_be_hidden()
    expect(page.get_by_text("No class has this in its name or number.")).to_be_visible()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert").filter(has_text="Choose a class")).to_be_visible()
    search.fill("brûlée")
    page.get_by_role("button", name="Generate").click()  # what is in the field counts
    expect(page.get_by_role("status")).to_contain_text("Finished")
    expect(page.locator("#stage .title")).to_have_text(NAMES[4])
    assert page.locator("main b").count() == 0


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("Seed", "seven", "Seeds are whole numbers from 0 to 18446744073709551615."),
        ("Seed", str(2**64), "Seeds are whole numbers from 0 to 18446744073709551615."),
        ("Guidance", "much", "Guidance is a number, like 2.5."),
        ("Images of each", "17", "The number of images is from 1 to 16."),
    ],
)
def test_a_wrong_value_is_said_beside_the_form(fishes: Any, visit: Any, field: str, value: str, sentence: str) -> None:
    page = visit(fishes)
    page.get_by_role("combobox", name="Classes").fill("1")
    page.locator("#composer").get_by_label(field).fill(value)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#problem")).to_have_text(sentence)
    expect(page.locator("#composer").get_by_label(field)).to_be_focused()
    expect(tiles(page)).to_have_count(0)


def test_the_servers_sentence_is_shown(fishes: Any, visit: Any) -> None:
    page = visit(fishes)
    page.get_by_role("combobox", name="Classes").fill("1")
    page.get_by_label("Guidance").fill("1" + "0" * 300)
    page.get_by_role("button", name="Generate").click()
    failed = page.locator("#stage .failure")
    expect(failed).to_contain_text("low_guidance is 1e+300; it must be a number from 0 to 1000000.")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)  # it would only fail again


def test_a_prompt_is_drawn(start_server: Any, tiny_text_path: Path, visit: Any) -> None:
    server = start_server(tiny_text_path)
    page = visit(server)
    expect(page.locator("#facts")).to_contain_text("from text")
    prompt = page.get_by_label("Prompt")
    prompt.fill("two two two two two red")
    prompt.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Finished")
    expect(page.locator("#stage .title")).to_have_text("two two two two two red")
    expect(page.locator("#stage .facts")).to_contain_text("longer than the model reads")
    prompt.fill("a <|endoftext|>")
    prompt.press("Enter")
    expect(page.locator("#stage .failure")).to_contain_text("holds <|endoftext|>")
    assert server.end() == 0
    prompt.press("Enter")
    expect(page.locator("#stage .failure")).to_contain_text("the server cannot be reached.")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_a_bundle_without_a_decoder_says_so(start_server: Any, make_bundle: Any, visit: Any) -> None:
    server = start_server(make_bundle(decoder=False))
    page = visit(server)
    expect(page.get_by_role("alert").filter(has_text="no VAE decoder")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    assert server.end() == 0


def test_a_token_is_asked_for_and_kept_in_the_tab(guarded: Any, visit: Any) -> None:
    page = visit(guarded, ROOT)
    assert page.url.endswith(f"{ROOT}/")
    dialog = page.get_by_role("dialog", name="This server wants a token")
    token = dialog.get_by_label("Token")
    token.fill("wrong")
    token.press("Enter")
    expect(dialog).to_contain_text("the token is not one of this server's")
    token.fill(TOKEN)
    token.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("heading", level=1)).to_have_text("bundle")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("bundle")
    kept = page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]")
    assert kept == [[TOKEN], 0, ""]
    visit(guarded, f"{ROOT}/").get_by_role("dialog").wait_for()  # another tab has none


def test_streams_show_previews_and_are_cancelled(guarded: Any, visit: Any) -> None:
    page = visit(guarded, f"{ROOT}/")
    page.get_by_role("textbox", name="Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_label("2", exact=True).check()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#stage .state")).to_have_text("Preview 1")
    image = page.locator("#stage .frame img")
    assert image.evaluate("image => image.naturalWidth") == 8  # the pivots
    page.keyboard.press("Escape")
    expect(page.locator("[data-state=cancelled].tile")).to_have_count(1)
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_have_count(0)
    guarded.wait_for("himar_lanes_busy", 0)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#stage .state")).to_have_text("Preview 1")
    page.get_by_role("button", name="Cancel this one").click()
    expect(page.locator("#stage .state")).to_have_text("Cancelled")
    guarded.wait_for("himar_lanes_busy", 0)


def test_images_that_fill_the_queue_wait_for_their_turn(guarded: Any, visit: Any) -> None:
    page = visit(guarded, f"{ROOT}/")
    page.get_by_role("textbox", name="Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_label("3", exact=True).check()
    page.get_by_label("Images of each").fill("4")
    with page.expect_response(lambda response: response.status == 429):
        page.get_by_role("button", name="Generate").click()
    expect(page.locator("[data-state=waiting].tile").first).to_be_visible()
    page.get_by_role("button", name="Cancel 4", exact=True).click()
    expect(page.locator("[data-state=cancelled].tile")).to_have_count(4)
    guarded.wait_for("himar_lanes_busy", 0)
    page.get_by_label("Quality").select_option("plain")
    page.get_by_label("Images of each").fill("8")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("[data-state=done].tile")).to_have_count(8)


def test_full_queues_say_to_try_again(guarded: Any, visit: Any) -> None:
    pages = [visit(guarded, f"{ROOT}/") for _ in range(3)]
    for page in pages:
        page.get_by_role("textbox", name="Token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.get_by_label("2", exact=True).check()
    # One is made, one waits, the third is too many. Only clicks lie between them: the first image takes seconds.
    for page, metric in zip(pages, ("himar_lanes_busy", "himar_queue_length", None), strict=True):
        page.get_by_role("button", name="Generate").click()
        if metric is not None:
            guarded.wait_for(metric, 1)
    expect(pages[2].locator("#stage .failure")).to_contain_text(re.compile("all lanes are at work .* try again later"))
    expect(pages[2].get_by_role("button", name="Try again")).to_be_visible()
    for page in pages[:2]:
        page.get_by_role("button", name="Cancel", exact=True).click()
    guarded.wait_for("himar_lanes_busy", 0)


def test_a_server_that_ends_says_to_try_again(start_server: Any, slow_path: Path, visit: Any) -> None:
    server = start_server(slow_path)
    page = visit(server)
    page.get_by_label("1", exact=True).check()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#stage .state")).to_have_text("Preview 1")
    server.process.send_signal(signal.SIGTERM)
    while server.ask("GET", "/healthz").status == 200:
        page.wait_for_timeout(20)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#stage .failure")).to_contain_text("Try again in a moment.")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    assert server.process.wait(timeout=60) == 0


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def test_nothing_is_cut_and_texts_can_be_read(fishes: Any, visit: Any, width: int, scheme: str) -> None:
    page = visit(fishes, color_scheme=scheme, viewport={"width": width, "height": 800})
    page.get_by_role("combobox", name="Classes").fill("shark")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("link", name="Download PNG")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("body", "#facts", "#stage dt", "label", ".button.primary", "#gallery .quiet"):
        assert contrast(page, selector) >= 4.5, selector
    assert contrast(page, "#seed", "borderTopColor") >= 3


def contrast(page: Any, selector: str, of: str = "color") -> float:
    """WCAG's contrast of a colour of an element against the background that lies behind it."""
    colors = page.locator(selector).first.evaluate(
        """(element, of) => {
            const own = getComputedStyle(element)[of];
            let behind = of === "color" ? element : element.parentElement;
            const clear = (each) => getComputedStyle(each).backgroundColor === "rgba(0, 0, 0, 0)";
            while (clear(behind)) behind = behind.parentElement;
            return [own, getComputedStyle(behind).backgroundColor];
        }""",
        of,
    )
    light, dark = sorted((luminance(color) for color in colors), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", color)[:3])
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_motion_is_for_who_wants_it(fishes: Any, visit: Any) -> None:
    for reduced, name in (("reduce", "none"), ("no-preference", "appear")):
        page = visit(fishes, reduced_motion=reduced)
        page.get_by_role("combobox", name="Classes").fill("shark")
        page.get_by_role("button", name="Generate").click()
        expect(page.get_by_role("link", name="Download PNG")).to_be_visible()
        image = page.locator("#stage .frame img").last
        assert image.evaluate("image => getComputedStyle(image).animationName") == name


def test_everything_that_can_be_used_has_a_name(fishes: Any, visit: Any) -> None:
    page = visit(fishes)
    page.get_by_role("combobox", name="Classes").fill("shark")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("link", name="Download PNG")).to_be_visible()
    tree = page.locator("body").aria_snapshot()
    for role in ("button", "link", "textbox", "combobox", "spinbutton", "checkbox", "img", "list"):
        assert not re.search(rf"^\s*- {role}(:| \[|$)(?! *\n)", tree, re.M), f"a {role} has no name in\n{tree}"
