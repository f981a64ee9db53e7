"""Says which files are pages of the site, and copies them: their links follow, and each says how long it takes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

ELSEWHERE = {
    "runtime/cpp/README.md": "cpp.md",
    "examples/README.md": "examples.md",
    "examples/tensorrt_plugin/README.md": "tensorrt-plugin.md",
    "tests/golden/README.md": "golden.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Pages that do not lie in docs/, each with its place in the site."""

HOME = "index.md"
WORDS_A_MINUTE = 220

_FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"(\]\(|^\[[^\]]+\]: *)(?![a-z]+:|#)([^)\s#]+)", re.MULTILINE)
_TITLE = re.compile(r"^# .+\n", re.MULTILINE)
_TIME = re.compile(r"^\*(\d+) minutes? to (read|do)\b.*\*$", re.MULTILINE)


class SiteError(Exception):
    """A page that cannot be part of the site; the message names it and says what to change."""


def page_files() -> dict[str, str]:
    """Return the place in the site of each page, by its path from the root of the repository."""
    docs = {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "docs").rglob("*.md"))}
    return {name: name.removeprefix("docs/") for name in docs} | {
        name: place for name, place in ELSEWHERE.items() if (ROOT / name).exists()
    }


def stage(folder: Path, generated: Mapping[str, str]) -> None:
    """Write every page, and every file that one refers to, into `folder`.

    generated: text of pages that no file of the repository has, or that differ from it, by their place in the site.
    Raises SiteError for a link to a file that does not exist, or to a folder.
    """
    pages = page_files()
    texts = {place: (name, (ROOT / name).read_text(encoding="utf-8")) for name, place in pages.items()}
    texts |= {place: (f"docs/{place}", text) for place, text in generated.items()}
    everything = pages | {f"docs/{place}": place for place in generated}
    for place, (name, text) in texts.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(timed(relinked(text, name, place, everything, folder), name), encoding="utf-8")


def relinked(text: str, name: str, place: str, pages: dict[str, str], folder: Path) -> str:
    """Return a page's text with its relative links as they must be in the site; what they lead to is copied there.

    name, place: the page's path in the repository and in the site.
    """

    def moved(match: re.Match[str]) -> str:
        found = ((ROOT / name).parent / match[2]).resolve()
        wanted = str(found.relative_to(ROOT)) if found.is_relative_to(ROOT) else ""
        if wanted not in pages and not found.is_file():
            raise SiteError(f"{name} links to {match[2]}, which is no file of the repository; link to one.")
        if wanted == "README.md":
            goal = HOME
        elif wanted in pages:
            goal = pages[wanted]
        else:
            goal = wanted.removeprefix("docs/") if wanted.startswith("docs/") else f"files/{wanted}"
            (folder / goal).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, folder / goal)
        up = "../" * place.count("/")
        return f"{match[1]}{up}{goal}"

    return outside_code(text, lambda prose: _LINK.sub(moved, prose))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return a page's text with `change` made to all that is neither a code block nor inline code."""
    kept: list[str] = []

    def hide(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\x00{len(kept) - 1}\x00"

    hidden = _CODE.sub(hide, _FENCE.sub(hide, text))
    changed = change(hidden)
    for index in reversed(range(len(kept))):
        changed = changed.replace(f"\x00{index}\x00", kept[index])
    return changed


def minutes(text: str) -> int:
    """Return the minutes that reading a page takes: its words outside code blocks, at least one minute."""
    return max(1, round(len(_FENCE.sub("", text).split()) / WORDS_A_MINUTE))


def timed(text: str, name: str) -> str:
    """Return a page with a line below its title that says how long it takes; one that the page has is kept.

    Raises SiteError for a page without a title.
    """
    title = _TITLE.search(text)
    if title is None:
        raise SiteError(f"{name} has no title; begin it with a line '# Title'.")
    own = _TIME.search(text)
    if own is not None:
        line = own[0].strip("*.")
        text = text.replace(own[0] + "\n", "", 1)
    else:
        count = minutes(text)
        line = f"{count} minute{'' if count == 1 else 's'} to read"
    return f'{text[: title.end()]}\n<p class="himar-time">{line}</p>\n{text[title.end() :]}'
