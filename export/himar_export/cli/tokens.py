"""Defines `himar-export tokens`: the token ids of texts, to compare tokenizers by."""

from __future__ import annotations

import json
from pathlib import Path

import click

from himar_kernels import InputError
from himar_kernels.shared.console import require_extra
from himar_kernels.shared.options import NamedPath
from himar_kernels.text import Tokenizer


@click.command(epilog="Example: himar-export tokens clip-vit-large-patch14 --texts texts.json")
@click.argument("folder", type=NamedPath())
@click.option("--texts", required=True, type=NamedPath(), help="JSON list of texts.")
def tokens(folder: Path, texts: Path) -> None:
    """Print the token ids of texts as a JSON list of lists, without padding.

    FOLDER is a bundle of a model that takes text, or the folder of a CLIP model: vocab.json and merges.txt, or
    tokenizer.json alone. Texts that are cut to a row's length are named on stderr.
    """
    require_extra("text", "tokenizers")
    tokenizer = Tokenizer.open(folder)
    rows, cut = tokenizer.rows(_texts(texts))
    for place in cut:
        click.echo(f"text {place} is cut to {tokenizer.length} tokens.", err=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    click.echo(f"[\n{lines}\n]")


def _texts(path: Path) -> list[str]:
    try:
        texts = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON in UTF-8 ({error}); write a list of texts.") from error
    if not isinstance(texts, list):
        raise InputError(f"{path} holds no JSON list; write the texts as one.")
    return texts
