"""Measures how a bundle's engines draw what captions of scenes ask for: objects, colours, relation.

Run from the repository, after `make demo`:

    .venv/bin/python benchmarks/scenes.py demo/scenes --captions 1000 --json

The judge (himar.evaluation.scenes_judge) reads each image back. "seen" are captions of combinations that training had,
"held_out" captions with a (digit, colour) pair or a (first digit, second digit, layout) triple that it never had;
"judge_on_real" is the judge's own score on real scenes of the seen captions, made from digits that nothing was trained
on. Each --guidance adds the same captions at another guidance scale; --picture FILE draws the first captions, a row for
each of those scales.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from himar.data.scenes.pictures import SceneSet, make_scenes
from himar.data.scenes.scene import Scene, held_out
from himar.evaluation.scenes_judge import SceneJudge, Scores, score
from himar.images import to_pixels
from himar_kernels import InputError
from himar_kernels.shared.files import new_file
from himar_runtime import Pipeline

SCENE_SEED = 1_000_000
"""Of the scenes that are asked for; training takes others."""
_COLUMNS = 8


def measured(
    pipeline: Pipeline, scenes: SceneSet, judge: SceneJudge, guidance: float | None, seed: int
) -> tuple[Scores, list[Scene]]:
    """Return the scores of one image per scene, from its first wording, and what the judge read."""
    read = judge.read(drawn(pipeline, scenes, guidance, seed))
    return score(scenes.scenes, read), read


def drawn(pipeline: Pipeline, scenes: SceneSet, guidance: float | None, seed: int) -> NDArray[np.uint8]:
    """Return the engines' images of the scenes' first wordings, uint8 (n, 32, 32, 3)."""
    images = pipeline.generate(prompts=[texts[0] for texts in scenes.captions], seed=seed, guidance=guidance).images
    assert images is not None
    return images


def by_reason(scenes: Sequence[Scene], read: Sequence[Scene]) -> dict[str, dict[str, float]]:
    """Return the scores of held-out scenes by what of them is held out: a pair, a triple, or both."""
    pairs, triples = held_out()
    reasons = {
        (True, False): "pair",
        (False, True): "triple",
        (True, True): "both",
    }
    groups: dict[str, list[int]] = {}
    for place, scene in enumerate(scenes):
        groups.setdefault(reasons[bool(pairs & set(scene.items)), scene.triple in triples], []).append(place)
    return {
        name: {"captions": len(places), **score([scenes[i] for i in places], [read[i] for i in places]).to_dict()}
        for name, places in sorted(groups.items())
    }


@click.command()
@click.argument("bundle")
@click.option("--captions", default=1000, show_default=True, type=click.IntRange(1), help="Of seen, and of held-out.")
@click.option("--guidance", multiple=True, type=float, help="Also measure at this scale; may be repeated.")
@click.option("--seed", default=0, show_default=True, help="Of the images.")
@click.option("--picture", type=click.Path(path_type=Path), help="PNG of the first captions at each --guidance.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    bundle: str, captions: int, guidance: tuple[float, ...], seed: int, picture: Path | None, as_json: bool
) -> None:
    """Measure BUNDLE."""
    pipeline, judge = Pipeline.load(bundle), SceneJudge()
    asked = {
        "seen": make_scenes(captions, SCENE_SEED, train=False),
        "held_out": make_scenes(captions, SCENE_SEED, seen=False, train=False),
    }
    found: dict[str, Any] = {"captions": captions, "seed": seed}
    for name, scenes in asked.items():
        scores, read = measured(pipeline, scenes, judge, None, seed)
        found[name] = scores.to_dict()
        if name == "held_out":
            found["held_out_by_reason"] = by_reason(scenes.scenes, read)
    real = asked["seen"]
    found["judge_on_real"] = score(real.scenes, judge.read(to_pixels(real.images))).to_dict()
    if guidance:
        found["guidance"] = {
            f"{scale:g}": {
                name: measured(pipeline, scenes, judge, scale, seed)[0].to_dict() for name, scenes in asked.items()
            }
            for scale in guidance
        }
    if picture is not None:
        _draw(pipeline, asked["seen"], guidance or (None,), seed, picture)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        _table(found)


def _draw(pipeline: Pipeline, scenes: SceneSet, scales: Sequence[float | None], seed: int, path: Path) -> None:
    first = SceneSet(scenes.scenes[:_COLUMNS], scenes.images[:_COLUMNS], scenes.captions[:_COLUMNS])
    figure, axes = plt.subplots(
        len(scales), _COLUMNS, figsize=(1.25 * _COLUMNS, 1.3 * len(scales) + 0.6), squeeze=False
    )
    for row, scale in zip(axes, scales, strict=True):
        for place, image in zip(row, drawn(pipeline, first, scale, seed), strict=True):
            place.imshow(image, interpolation="nearest")
            place.set(xticks=[], yticks=[])
        if scale is not None:
            row[0].set_ylabel(f"guidance {scale:g}", fontsize=8)
    for place, texts in zip(axes[0], first.captions, strict=True):
        place.set_title(textwrap.fill(texts[0], 15), fontsize=8)
    with new_file(path, InputError) as temporary:
        figure.savefig(temporary, dpi=120, format="png", bbox_inches="tight")
    plt.close(figure)


def _table(found: dict[str, Any]) -> None:
    say = Console(highlight=False).print
    rows = {name: found[name] for name in ("seen", "held_out", "judge_on_real")}
    rows |= {f"held_out, {name}": scores for name, scores in found["held_out_by_reason"].items()}
    for scale, pair in found.get("guidance", {}).items():
        rows |= {f"{name}, guidance {scale}": scores for name, scores in pair.items()}
    say(f"{'':28}" + "".join(f"{name:>10}" for name in ("objects", "colours", "relation", "all")))
    for name, scores in rows.items():
        say(f"{name:28}" + "".join(f"{scores[each]:10.1%}" for each in ("objects", "colours", "relation", "all")))


if __name__ == "__main__":
    main()
