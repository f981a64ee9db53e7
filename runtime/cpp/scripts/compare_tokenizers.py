"""CPU time of the C++ and the Python tokenizer on the same captions: compare_tokenizers.py HIMAR_GENERATE FOLDER.

FOLDER: of a CLIP model, with vocab.json and merges.txt. The program's time is that of a whole run, reading the captions
and printing their ids included, less that of a run on one caption, which is its start.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from himar_kernels.text import Tokenizer

CAPTIONS, REPEATS = 10_000, 5
WORDS = (
    *(
        "a",
        "the",
        "of",
        "on",
        "in",
        "with",
        "and",
        "two",
        "red",
        "blue",
        "small",
        "old",
        "young",
        "man",
        "woman",
        "dog",
    ),
    *("cat", "horse", "street", "table", "pizza", "bench", "sky", "sitting", "holding", "photograph", "café", "東京"),
)


def captions(count: int) -> list[str]:
    """Captions of 6 to 14 words, as people describe photographs."""
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(6, 14))).capitalize() + "." for _ in range(count)]


def seconds(call: Callable[[], object], who: int) -> float:
    """CPU seconds of a call, the median of some: of this process, or of those that it waits for."""
    times = []
    for _ in range(REPEATS):
        before = resource.getrusage(who)
        call()
        after = resource.getrusage(who)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(times)


def main(program: str, folder: str) -> None:
    """Print a table."""
    texts = captions(CAPTIONS)
    with tempfile.TemporaryDirectory() as temporary:
        many, one = Path(temporary, "many.json"), Path(temporary, "one.json")
        many.write_text(json.dumps(texts))
        one.write_text(json.dumps(texts[:1]))

        def run(file: Path) -> str:
            command = [program, "--tokens", folder, "--texts", str(file)]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        start = time.process_time()
        tokenizer = Tokenizer.open(folder)
        tokenizer.rows(texts[:1])
        python_start = time.process_time() - start
        same = json.loads(run(many)) == tokenizer.rows(texts)[0]
        cpp_start = seconds(lambda: run(one), resource.RUSAGE_CHILDREN)
        cpp = seconds(lambda: run(many), resource.RUSAGE_CHILDREN) - cpp_start
        python = seconds(lambda: tokenizer.rows(texts), resource.RUSAGE_SELF)
    sys.stdout.write(f"{CAPTIONS} captions, ids {'the same' if same else 'DIFFER'}; CPU time, median of {REPEATS}\n")
    sys.stdout.write(f"C++     start {1000 * cpp_start:6.1f} ms   {1e6 * cpp / CAPTIONS:6.2f} µs a caption\n")
    sys.stdout.write(f"Python  start {1000 * python_start:6.1f} ms   {1e6 * python / CAPTIONS:6.2f} µs a caption\n")
    sys.stdout.write(f"C++ is {python / cpp:.1f} times as fast\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
