"""The benchmark of scenes counts captions by what of them is held out, and draws what the engines of a bundle give."""

from benchmarks.scenes import by_reason
from himar.data.scenes.scene import Item, Scene, held_out


def test_held_out_scenes_are_counted_by_their_reason():
    pairs, triples = held_out()
    pair = sorted(pairs)[0]
    first, second, layout = sorted(triples)[0]
    free = next(
        colour
        for colour in ("red", "blue", "green", "white")
        if not {Item(first, colour), Item(second, colour)} & pairs
    )
    alone = Scene((pair,))
    together = Scene((Item(first, free), Item(second, free)), layout)
    found = by_reason([alone, together, together], [alone, together, alone])
    assert found["pair"]["captions"] == 1
    assert found["pair"]["all"] == 1
    assert found["triple"]["captions"] == 2
    assert found["triple"]["all"] == 0.5
    assert "both" not in found
