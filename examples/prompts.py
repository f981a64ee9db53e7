"""Draws images of texts, without PyTorch: python examples/prompts.py BUNDLE FOLDER "a red three above a blue 7" …"""

import sys

from himar_runtime import Pipeline


def main(bundle: str, folder: str, *prompts: str) -> None:
    """Draw one image per prompt, and warn of those that are longer than the model reads."""
    result = Pipeline.load(bundle).generate(prompts=prompts, seed=7, guidance=2.0)
    for path, recipe in zip(result.save(folder), result.recipes, strict=True):
        print(f"{path}: {recipe.prompt}")
    for place in result.truncated:
        print(f"warning: {prompts[place]!r} is too long and lost its end", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
