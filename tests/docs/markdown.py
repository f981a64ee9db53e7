"""Reads pages as tests of the docs need them: code blocks, inline code, links, anchors."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- runnable(?:, in tests: (?P<long>.+?) -> (?P<short>.+?))? -->\s*\Z")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A code block; `code` is as tests run it. runnable: a comment above says so, and with what change in tests."""

    page: str
    line: int
    language: str
    code: str
    runnable: bool

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def pages() -> list[str]:
    """Every Markdown page that people read, by its path from the root of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return sorted(name for name in listed.stdout.split() if (ROOT / name).is_file())


@cache
def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def blocks(page: str) -> list[Block]:
    text, found = read(page), []
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text[: match.start()])
        code = match[3]
        if mark is not None and mark["long"]:
            assert mark["long"] in code, f"{page}: the mark's {mark['long']!r} is not in its block"
            code = code.replace(mark["long"], mark["short"])
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, match[2].strip(), code, mark is not None))
    return found


def prose(page: str) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", read(page))


def inline_code(page: str) -> list[str]:
    """What stands in single backticks; a line may break inside."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def links(page: str) -> list[str]:
    """Targets of links and pictures that do not lead to another host."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    return [target for target in _LINK.findall(text) if not re.match(r"[a-z]+:", target)]


@cache
def anchors(page: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    made: set[str] = set()
    for heading in _HEADING.findall(prose(page)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number, unique = 0, anchor
        while unique in made:
            number += 1
            unique = f"{anchor}-{number}"
        made.add(unique)
    return made
