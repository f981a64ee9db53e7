"""Every relative link and anchor of every page leads somewhere, and every file that a page names exists."""

import re

import pytest

from docs.site.commands import PROGRAMS
from docs.site.python_names import PAGES
from tests.docs.markdown import ROOT, anchors, inline_code, links, pages, prose

WRITTEN = {f"docs/reference/{name}.md" for name in PROGRAMS} | {f"docs/reference/python/{name}.md" for name in PAGES}
WRITTEN |= {"docs/reference/c.md", "docs/reference/cpp.md"}
"""Pages that exist in the site only; it checks their anchors."""

TOP = ("benchmarks", "docs", "examples", "export", "findings", "himar", "kernels", "runtime", "tests", ".ci", ".github")
MADE = (
    "build/", "demo/", "docs/gpu/", "kernels/himar_kernels/fused/compiled",
)  # fmt: skip
_PATH = re.compile(r"(?:[\w.{},*-]+/)+[\w.{},*-]*")


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_files_and_headings(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        name = str(file.relative_to(ROOT))
        if name in WRITTEN:
            continue
        assert file.exists(), f"{page} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(name), f"{page} links to {target}, but that page has no such heading"


def variants(path: str) -> list[str]:
    """A path with {a,b} as a shell reads it."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", path)
    if match is None:
        return [path]
    return [
        one for choice in match[1].split(",") for one in variants(path[: match.start()] + choice + path[match.end() :])
    ]


def exists(path: str) -> bool:
    places = [ROOT, ROOT / "runtime" / "cpp", *(ROOT / room for room in ("kernels", "himar", "runtime", "export"))]
    return any(next(place.glob(path.strip("/").replace("NAME", "*")), None) is not None for place in places)


@pytest.mark.parametrize("page", pages())
def test_paths_in_backticks_exist(page):
    for code in inline_code(page):
        for found in _PATH.findall(code):
            first = found.split("/")[0]
            if first not in TOP or any(found.startswith(made) for made in MADE):
                continue
            for path in variants(found.rstrip(".,")):
                assert exists(path), f"{page} names `{path}`, which does not exist"


@pytest.mark.parametrize("page", pages())
def test_pages_named_in_prose_exist(page):
    for name in re.findall(r"\bdocs/[\w-]+\.md", prose(page)):
        assert (ROOT / name).is_file(), f"{page} names {name}, which does not exist"
