"""Writes clip-tokenizer/: a small vocabulary of CLIP's kind, texts, and their ids by transformers' CLIPTokenizer.

python -m tests.golden.make_clip_tokenizer
"""

import json
from pathlib import Path

from transformers import CLIPTokenizer

from himar_kernels.text.files import write_vocabulary
from himar_kernels.text.training import train_vocabulary
from tests.kernels.text.captions import captions, hard_strings

FOLDER = Path(__file__).parent / "clip-tokenizer"
LENGTH = 77


def main() -> None:
    """Train, encode, write."""
    FOLDER.mkdir(exist_ok=True)
    entry = write_vocabulary(train_vocabulary(captions(3000, seed=0), 2000, LENGTH), FOLDER)
    for part in ("vocabulary", "merges"):
        path = FOLDER / entry[part]
        path.replace(FOLDER / path.name)
    (FOLDER / "tokenizer").rmdir()
    texts = [*hard_strings(), *captions(900, seed=1)]
    ids = CLIPTokenizer.from_pretrained(FOLDER)(texts, truncation=True, max_length=LENGTH)["input_ids"]
    for name, values in (("texts", texts), ("ids", ids)):
        lines = ",\n".join(json.dumps(value, separators=(",", ":")) for value in values)
        (FOLDER / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
