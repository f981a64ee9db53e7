"""Scenes: held-out combinations never in training, captions that say what the image shows, and a judge."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from himar.data.scenes.captions import DIGIT_WORDS, caption
from himar.data.scenes.pictures import CAPTIONS, make_scenes
from himar.data.scenes.scene import COLOURS, Item, Scene, draw_scenes, held_out
from himar.evaluation.scenes_judge import BLANK, SceneJudge, score
from himar.images import to_pixels
from himar_kernels import InputError


@pytest.fixture(scope="module")
def judge():
    return SceneJudge()


def test_the_same_seed_makes_the_same_set():
    one, again, other = (make_scenes(40, seed) for seed in (5, 5, 6))
    assert one.scenes == again.scenes
    assert one.captions == again.captions
    assert torch.equal(one.images, again.images)
    assert one.scenes != other.scenes
    assert one.images.shape == (40, 3, 32, 32)
    assert -1 == one.images.min() < one.images.max() <= 1
    # Pinned, since a figure that was measured on scenes means little on others.
    assert one.captions[0][0] == "pink six left of one orange zero"


def test_an_image_does_not_depend_on_how_many_follow():
    assert draw_scenes(10, 3, seen=True) == draw_scenes(30, 3, seen=True)[:10]


def test_held_out_are_15_percent_of_pairs_and_of_triples():
    pairs, triples = held_out()
    assert len(pairs) == 12 == 0.15 * 10 * len(COLOURS)
    assert len(triples) == 30 == 0.15 * 10 * 10 * 2


def test_every_digit_and_colour_is_seen_with_most_others():
    pairs, _ = held_out()
    assert max(Counter(item.digit for item in pairs).values()) == 2
    assert max(Counter(item.colour for item in pairs).values()) == 2


def test_no_training_scene_has_what_is_held_out():
    pairs, triples = held_out()
    for scene in draw_scenes(2000, 1, seen=True):
        assert not pairs & set(scene.items)
        assert scene.triple not in triples


def test_every_held_out_scene_has_something_held_out():
    pairs, triples = held_out()
    scenes = draw_scenes(1000, 1, seen=False)
    assert all(pairs & set(scene.items) or scene.triple in triples for scene in scenes)
    assert set(pairs) <= {item for scene in scenes for item in scene.items}
    assert triples <= {scene.triple for scene in scenes}


def test_scenes_are_even():
    scenes = draw_scenes(4000, 2, seen=True)
    layouts = Counter(scene.layout for scene in scenes)
    assert layouts[None] == pytest.approx(800, abs=120)
    assert layouts["beside"] == pytest.approx(layouts["stacked"], rel=0.15)
    digits = Counter(item.digit for scene in scenes for item in scene.items)
    assert min(digits.values()) > 0.5 * max(digits.values())


def test_captions_say_what_the_scene_shows():
    random = np.random.RandomState(0)
    scene = Scene((Item(3, "orange"), Item(7, "blue")), "beside")
    found = {caption(scene, random) for _ in range(1500)}
    assert len(found) > 150
    assert "an orange three left of a blue seven" in found
    assert "the blue 7 with orange 3 on its left" in found
    assert not any("a orange" in text or "  " in text for text in found)
    for text in found:
        first, second = (min(text.find(name) % 999 for name in names) for names in (("orange",), ("blue",)))
        # Read back by the word between the two: what is named first is on the left unless the words turn it round.
        assert ("right of" in text or "on its left" in text) == (second < first), text
        assert ("3" in text or DIGIT_WORDS[3] in text) and ("7" in text or DIGIT_WORDS[7] in text)
    assert {len(make_scenes(3, 1).captions[0])} == {CAPTIONS}


def test_training_and_held_out_digits_are_apart():
    train, held = (make_scenes(60, 4, train=train) for train in (True, False))
    assert train.scenes == held.scenes
    assert not any(torch.equal(one, other) for one in train.images for other in held.images)


def test_the_judge_reads_real_scenes(judge):
    for seen in (True, False):
        real = make_scenes(300, 11, seen=seen, train=False)
        found = score(real.scenes, judge.read(to_pixels(real.images)))
        assert min(found.to_dict().values()) >= 0.99


def test_the_judge_counts_each_mistake_by_itself():
    red, blue, other = Item(3, "red"), Item(7, "blue"), Item(7, "green")
    asked = Scene((red, blue), "beside")

    def judged(shown):
        return tuple(score([asked], [shown]).to_dict().values())

    assert judged(asked) == (1, 1, 1, 1)
    assert judged(Scene((red, other), "beside")) == (1, 0, 1, 0)
    assert judged(Scene((Item(3, "blue"), Item(7, "red")), "beside")) == (1, 0, 1, 0)
    assert judged(Scene((blue, red), "beside")) == (1, 1, 0, 0)
    assert judged(Scene((red, blue), "stacked")) == (1, 1, 0, 0)
    assert judged(Scene((red, Item(1, "blue")), "beside")) == (0, 0, 0, 0)
    assert judged(Scene((red,))) == (0, 0, 0, 0)
    assert judged(BLANK) == (0, 0, 0, 0)


def test_relation_is_of_scenes_with_two_items():
    alone, pair = Scene((Item(3, "red"),)), Scene((Item(3, "red"), Item(3, "red")), "stacked")
    assert math.isnan(score([alone], [alone]).relation)
    assert score([alone, pair], [BLANK, pair]).relation == 1
    assert score([alone, pair], [alone, BLANK]).relation == 0


def test_the_judge_sees_an_empty_canvas(judge):
    real = to_pixels(make_scenes(1, 1).images)
    read = judge.read(np.stack([np.zeros((32, 32, 3), np.uint8), real[0]]))
    assert read[0] == BLANK
    assert read[1].items


def test_wrong_input_is_refused(judge):
    with pytest.raises(InputError, match="number of scenes is 0"):
        draw_scenes(0, 1, seen=True)
    with pytest.raises(InputError, match="scenes are float32"):
        judge.read(np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(InputError, match=r"\(1, 16, 16, 3\)"):
        judge.read(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="1 images came with 0 scenes"):
        score([], [BLANK])
